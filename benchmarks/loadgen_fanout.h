/*
 * The fanout mode of the load client, included by loadgen.c: the first connection sends a message, which the server
 * writes to all of them, and sends the next when all have it. Each delivery counts as a message; its latency begins
 * when the message is sent.
 */
static struct connection *fanout_source;
static int n_delivered;

/* The server greets a connection with a byte when it belongs to those that it writes to. */
static void fanout_connect(struct connection *c)
{
    char greeting;

    if (recv(c->fd, &greeting, 1, 0) != 1)
        die("the server did not greet a connection");
}

static void fanout_start(struct connection *all)
{
    fanout_source = all;
    begin_message(all, now_ns());
    send_more(all);
}

static void fanout_event(struct connection *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        unsigned n_complete = receive_messages(c);
        uint64_t t = n_complete ? now_ns() : 0;

        n_delivered += (int)n_complete;
        while (n_complete--)
            count_message(fanout_source->sent_ns[0], t);
        if (n_delivered == opt.n_connections) {
            n_delivered = 0;
            begin_message(fanout_source, t);
            send_more(fanout_source);
        }
    }
    if (c->to_send && (events & EPOLLOUT))
        send_more(c);
}
