/*
 * The datagram mode of the load client, included by loadgen.c: each connection is a connected UDP socket that keeps
 * DEPTH datagrams of SIZE bytes in flight all the time.
 *
 * Receives and sends are done in batches, so that the client is faster than any server that handles datagrams one by
 * one.  The loopback interface loses nothing and keeps the order as long as the window fits into the sockets' buffers;
 * a lost datagram would make the window smaller for good.
 */
#define DATAGRAM_BATCH 64

static struct mmsghdr datagram_messages[DATAGRAM_BATCH];
static struct iovec datagram_vectors[DATAGRAM_BATCH];

static void datagram_point(char *data, size_t stride)
{
    for (unsigned i = 0; i < DATAGRAM_BATCH; i++) {
        datagram_vectors[i] = (struct iovec){data + i * stride, opt.size_bytes};
        datagram_messages[i].msg_hdr.msg_iov = &datagram_vectors[i];
        datagram_messages[i].msg_hdr.msg_iovlen = 1;
    }
}

static void datagram_send(struct connection *c, unsigned n, uint64_t t)
{
    for (unsigned i = 0; i < n; i++) {
        c->sent_ns[c->tail] = t;
        c->tail = (c->tail + 1) % opt.depth;
    }
    datagram_point(pattern, 0);
    while (n) {
        int sent = sendmmsg(c->fd, datagram_messages, n < DATAGRAM_BATCH ? n : DATAGRAM_BATCH, 0);
        if (sent < 0)
            die("sendmmsg");
        n -= (unsigned)sent;
    }
}

static unsigned datagram_receive(struct connection *c)
{
    int n;

    datagram_point(receive_buffer, opt.size_bytes);
    n = recvmmsg(c->fd, datagram_messages, DATAGRAM_BATCH, MSG_DONTWAIT, NULL);
    if (n < 0) {
        if (errno != EAGAIN)
            die("recvmmsg");
        return 0;
    }
    errno = 0;
    for (int i = 0; i < n; i++) {
        if (datagram_messages[i].msg_len != opt.size_bytes)
            die("the server echoed a datagram of another length");
        take_bytes(c, datagram_vectors[i].iov_base, opt.size_bytes);
    }
    return (unsigned)n;
}

static void datagram_connect(struct connection *c)
{
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};

    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
        die("socket");
    if (connect(c->fd, (struct sockaddr *)&peer, sizeof peer) < 0)
        die("connect");
    set_interest(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void run_datagrams(struct connection *all)
{
    struct epoll_event events[MAX_EVENTS];
    uint64_t window_ns = now_ns() + (uint64_t)(opt.warmup_seconds * 1e9);
    uint64_t stop_ns = window_ns + (uint64_t)(opt.seconds * 1e9);

    if (opt.size_bytes * DATAGRAM_BATCH > RECEIVE_BYTES)
        die("the datagrams are too long");
    for (int i = 0; i < opt.n_connections; i++) {
        datagram_connect(&all[i]);
        datagram_send(&all[i], opt.depth, now_ns());
    }
    for (;;) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, 100);
        uint64_t t = now_ns();

        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        if (n == 0) {
            errno = 0;
            die("no answer for 100 ms: a datagram was lost");
        }
        if (!is_measuring && t >= window_ns)
            begin_window();
        if (t >= stop_ns)
            break;
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            unsigned count = datagram_receive(c);

            t = now_ns();
            for (unsigned k = 0; k < count; k++) {
                count_message(c->sent_ns[c->head], t);
                c->head = (c->head + 1) % opt.depth;
            }
            datagram_send(c, count, t);
        }
    }
    end_window();
}
