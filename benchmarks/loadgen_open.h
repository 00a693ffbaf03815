/*
 * The open mode of the load client, included by loadgen.c: messages are sent at scheduled times, RATE per second in all,
 * on one connection after the other, whether or not the server has answered the earlier ones.
 *
 * A latency begins at the scheduled time, so a server that stalls pays for each message that it has kept waiting, also
 * for those that could not be sent: no coordinated omission. It counts for messages that are scheduled within the window;
 * after it the client waits for their answers, and one that never comes counts with the time waited.
 *
 * The client polls without sleeping: its own wake-ups would be a part of each latency. How late it sends all the same is
 * its own histogram (`late_p99_us`); if that is not far below the latencies, the client was at its limit.
 */
#define OPEN_DRAIN_NS (2 * NS_PER_S)

static struct histogram lateness;
static uint64_t n_unanswered;

static void open_send(struct connection *all, double start_ns, uint64_t *n_scheduled, uint64_t until_ns)
{
    for (;;) {
        uint64_t due_ns = (uint64_t)(start_ns + (double)*n_scheduled * 1e9 / opt.rate_per_s);
        struct connection *c = &all[*n_scheduled % (uint64_t)opt.n_connections];

        if (due_ns > until_ns)
            return;
        if ((c->tail + 1) % opt.depth == c->head) {
            errno = 0;
            die("the server is %d messages behind on a connection: the rate is too high", OPEN_DEPTH - 1);
        }
        if (is_measuring)
            record(&lateness, now_ns() - due_ns);
        begin_message(c, due_ns);
        if (!c->wants_out)
            send_more(c);
        ++*n_scheduled;
    }
}

static int open_is_answered(struct connection *all)
{
    for (int i = 0; i < opt.n_connections; i++)
        if (all[i].head != all[i].tail)
            return 0;
    return 1;
}

static void open_handle_events(int timeout_ms)
{
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(epoll_fd, events, MAX_EVENTS, timeout_ms);

    if (n < 0 && errno != EINTR)
        die("epoll_wait");
    for (int i = 0; i < n; i++)
        echo_event(events[i].data.ptr, events[i].events);
}

static void run_open(struct connection *all)
{
    uint64_t start_ns = now_ns(), n_scheduled = 0;
    uint64_t window_ns = start_ns + (uint64_t)(opt.warmup_seconds * 1e9);
    uint64_t stop_ns = window_ns + (uint64_t)(opt.seconds * 1e9);

    recorded_until_ns = stop_ns;
    for (;;) {
        uint64_t t = now_ns();

        if (!is_measuring && t >= window_ns) {
            begin_window();
            recorded_from_ns = begin_ns;
        }
        if (t >= stop_ns)
            break;
        open_send(all, (double)start_ns, &n_scheduled, t);
        open_handle_events(0);
    }
    end_window();
    while (!open_is_answered(all) && now_ns() < stop_ns + OPEN_DRAIN_NS)
        open_handle_events(10);
    for (int i = 0; i < opt.n_connections; i++) {
        struct connection *c = &all[i];

        for (; c->head != c->tail; c->head = (c->head + 1) % opt.depth) {
            record_scheduled(c->sent_ns[c->head], now_ns());
            n_unanswered++;
        }
    }
}
