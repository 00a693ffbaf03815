/*
 * Connections beside the measured ones, included by loadgen.c. They never count.
 *
 * Idle ones (-i) echo one message before the warm-up, so that the server has accepted them, and then nothing.
 *
 * Slow readers (-l) send whatever the server takes, but each receives only SLOW_BYTES in SLOW_NS, into a small buffer.
 * Before the warm-up they fill all buffers, until the server takes no more.
 */
#define SLOW_BYTES 1024
#define SLOW_NS (10 * 1000000ull)
#define SLOW_RECEIVE_BUFFER 4096
#define SLOW_SEND_BYTES 16384
#define SLOW_SETTLED_NS (300 * 1000000ull) /* all buffers are full when the server has taken nothing for so long */
#define SLOW_FILL_NS (10 * NS_PER_S)

static int *crowd; /* fds: the slow ones, then the idle ones */
static uint64_t n_slow_turns, slow_due_ns;

/* One message there and back: the server has accepted the connection, and has time for it. */
static void crowd_echo(int fd)
{
    size_t n = 0;

    if (send(fd, pattern, opt.size_bytes, MSG_NOSIGNAL) != (ssize_t)opt.size_bytes)
        die("send");
    while (n < opt.size_bytes) {
        ssize_t more = recv(fd, receive_buffer, opt.size_bytes - n, 0);

        if (more <= 0)
            die("a connection was not answered");
        n += (size_t)more;
    }
}

/* Returns whether the server has taken anything. */
static int slow_send(int fd)
{
    return send(fd, receive_buffer, SLOW_SEND_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL) > 0;
}

static void slow_fill(void)
{
    uint64_t begun_ns = now_ns(), taken_ns = begun_ns, t = begun_ns;

    while (opt.n_slow && t - taken_ns < SLOW_SETTLED_NS) {
        for (int i = 0; i < opt.n_slow; i++)
            while (slow_send(crowd[i]))
                taken_ns = t;
        usleep(1000);
        t = now_ns();
        errno = 0;
        if (t - begun_ns > SLOW_FILL_NS)
            die("the server takes data without end, though its answers are not read");
    }
    slow_due_ns = t;
}

static void crowd_connect(void)
{
    int receive_bytes = SLOW_RECEIVE_BUFFER;

    if (!(crowd = calloc((size_t)(opt.n_slow + opt.n_idle) + 1, sizeof *crowd)))
        die("set-up");
    for (int i = 0; i < opt.n_slow + opt.n_idle; i++) {
        struct connection c;

        if (start_connect(&c, 0, i < opt.n_slow ? receive_bytes : 0) < 0)
            die("connect %d beside the measured ones", i + 1);
        crowd[i] = c.fd;
        if (i >= opt.n_slow)
            crowd_echo(c.fd);
    }
    slow_fill();
}

/* The turns of the slow readers until now: they are spread evenly. */
static void slow_turns(uint64_t t)
{
    for (; opt.n_slow && slow_due_ns <= t; slow_due_ns += SLOW_NS / (uint64_t)opt.n_slow) {
        int fd = crowd[n_slow_turns++ % (uint64_t)opt.n_slow];
        ssize_t n = recv(fd, receive_buffer, SLOW_BYTES, MSG_DONTWAIT);

        if (n == 0 || (n < 0 && errno != EAGAIN))
            die("the server closed a slow connection");
        slow_send(fd);
    }
}
