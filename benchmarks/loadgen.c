/*
 * loadgen: the load client of the benchmarks, one thread on epoll.
 *
 * It is in C so that the client is never the slow side, and uses epoll so that it needs no library and is the same for
 * every loop under test. Its result is one line of JSON on stdout.
 *
 *   loadgen (-p PORT | -x PATH) [-n CONNECTIONS] [-s SIZE_BYTES] [-d DEPTH] [-t SECONDS] [-w WARMUP_SECONDS]
 *           [-m echo|churn|datagram|open|fanout] [-r RATE] [-i IDLE] [-l SLOW] [-T] [-W] [-C ALGORITHM]
 *           [-P SERVER_PID] [-S]
 *
 * echo:  N connections, each keeps DEPTH messages of SIZE bytes in flight all the time.
 * churn: N slots, each repeats connect, send SIZE bytes, receive them back, shutdown, wait for EOF, close. One
 *        "message" is one such cycle.
 * datagram: like echo, with datagrams to PORT (loadgen_datagram.h).
 * open:  like echo, but messages are sent at scheduled times, RATE per second in all (loadgen_open.h).
 * fanout: the first connection sends, the server writes to all of them (loadgen_fanout.h).
 *
 * -T: TLS, in the modes echo and open (loadgen_tls.h) and churn (loadgen_handshakes.h).
 * -W: WebSocket messages of SIZE bytes, in the modes echo and open (loadgen_websocket.h).
 * -i, -l: so many idle connections, or slow readers, beside the N of the echo mode (loadgen_crowd.h).
 * -C: the client's TCP congestion control, instead of the system's default.
 * -P: the client itself reads the CPU clock of the server process (all its threads) when the measured window
 *     begins and ends. No other process could do that at the right times, and the server is not disturbed. The kernel
 *     updates the clock of another process once per tick, so each value is up to a few milliseconds old; that error has
 *     no preferred sign and is below 1 % of a window of one second.
 * -S: count the server's system calls in the same window with the tracepoint raw_syscalls:sys_enter
 *     (perf_event_open). This slows the server down, so it is never enabled in a run whose times are used.
 *
 * Received data are compared with sent data only during the warm-up: a memcmp per message would slow the client
 * down, and a server that echoes wrongly does so from the start.
 *
 * The program always ends by itself: alarm().
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define RECEIVE_BYTES (1u << 20)
#define MAX_EVENTS 1024
#define MAX_COUNTERS 256
#define OPEN_DEPTH 16384 /* open mode: messages that one connection may have in flight */

#include "loadgen_options.h"

enum state { CONNECTING, HANDSHAKING, ECHOING, AWAITING_EOF };

struct connection {
    int fd;
    enum state state;
    int wants_out;        /* EPOLLOUT is armed */
    size_t received;      /* bytes of the current incoming message, < answer_bytes */
    size_t to_send;       /* bytes not yet accepted by the kernel */
    size_t send_offset;   /* position in the current outgoing message, < size */
    unsigned head, tail;  /* ring of send times: oldest in flight, next free */
    uint64_t *sent_ns;    /* `depth` entries */
    struct tls *tls;      /* with -T: loadgen_tls.h */
};

static int epoll_fd;
static char *pattern; /* one period of the message more than a send has, so that what it sends is contiguous */
static char *answer;  /* the same of its answer: the pattern itself, except in WebSockets */
static char *receive_buffer;
static int is_measuring, has_begun;
static int is_on_ring; /* the echo mode runs on io_uring: loadgen_ring.h */
static uint64_t n_messages, n_verified_bytes;

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    if (clock_gettime(clock, &now) < 0)
        die("clock_gettime(%d)", (int)clock);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* --- latency histogram: 64 buckets per power of two, so a bucket is at most 1.6 % wide --- */

#define HISTOGRAM_BUCKETS 4096

struct histogram {
    uint64_t n, buckets[HISTOGRAM_BUCKETS];
};

static struct histogram latencies;

static unsigned bucket_of(uint64_t latency_ns)
{
    unsigned log2, index;

    if (latency_ns < 128)
        return (unsigned)latency_ns;
    log2 = 63 - (unsigned)__builtin_clzll(latency_ns);
    index = (log2 - 6) * 64 + (unsigned)((latency_ns >> (log2 - 6)) & 63) + 64;
    return index < HISTOGRAM_BUCKETS ? index : HISTOGRAM_BUCKETS - 1;
}

static double bucket_middle_ns(unsigned index)
{
    unsigned log2;

    if (index < 128)
        return index;
    log2 = (index - 64) / 64 + 6;
    return (64 + (index - 64) % 64 + 0.5) * (double)(1ull << (log2 - 6));
}

static double percentile_us(const struct histogram *histogram, double fraction)
{
    uint64_t rank = (uint64_t)((double)histogram->n * fraction), seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen > rank)
            return bucket_middle_ns(i) / 1e3;
    }
    return 0;
}

static void record(struct histogram *histogram, uint64_t ns)
{
    histogram->n++;
    histogram->buckets[bucket_of(ns)]++;
}

/* Open mode: the window of scheduled times whose latencies count. */
static uint64_t recorded_from_ns = UINT64_MAX, recorded_until_ns;

static void record_scheduled(uint64_t scheduled_ns, uint64_t finished_ns)
{
    if (scheduled_ns >= recorded_from_ns && scheduled_ns < recorded_until_ns)
        record(&latencies, finished_ns - scheduled_ns);
}

static void count_message(uint64_t started_ns, uint64_t finished_ns)
{
    if (opt.is_open)
        record_scheduled(started_ns, finished_ns);
    else if (is_measuring)
        record(&latencies, finished_ns - started_ns);
    n_messages += (unsigned)is_measuring;
}

/* --- system calls of the server: one perf event per existing thread, inherited by threads that it starts later --- */

static int counter_fds[MAX_COUNTERS];
static int n_counters;

static long read_tracepoint_id(void)
{
    static const char *const paths[] = {
        "/sys/kernel/tracing/events/raw_syscalls/sys_enter/id",
        "/sys/kernel/debug/tracing/events/raw_syscalls/sys_enter/id",
    };
    long id = -1;

    for (unsigned i = 0; i < 2 && id < 0; i++) {
        FILE *file = fopen(paths[i], "r");
        if (!file)
            continue;
        if (fscanf(file, "%ld", &id) != 1)
            id = -1;
        fclose(file);
    }
    return id;
}

static void open_syscall_counters(void)
{
    struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof attr, .disabled = 1, .inherit = 1};
    long id = read_tracepoint_id();
    char path[64];
    struct dirent *entry;
    DIR *tasks;

    if (id < 0)
        die("the tracepoint raw_syscalls:sys_enter cannot be read (tracefs not mounted, or no permission)");
    attr.config = (uint64_t)id;
    snprintf(path, sizeof path, "/proc/%d/task", (int)opt.server_pid);
    if (!(tasks = opendir(path)))
        die("%s", path);
    while ((entry = readdir(tasks))) {
        int tid = atoi(entry->d_name);
        int fd;

        if (tid <= 0)
            continue;
        if (n_counters == MAX_COUNTERS)
            die("the server has more than %d threads", MAX_COUNTERS);
        fd = (int)syscall(SYS_perf_event_open, &attr, tid, -1, -1, 0ul);
        if (fd < 0)
            die("perf_event_open");
        counter_fds[n_counters++] = fd;
    }
    closedir(tasks);
}

static void control_syscall_counters(unsigned long request)
{
    for (int i = 0; i < n_counters; i++)
        if (ioctl(counter_fds[i], request, 0) < 0)
            die("ioctl on a perf event");
}

static uint64_t sum_syscall_counters(void)
{
    uint64_t sum = 0, value;

    for (int i = 0; i < n_counters; i++) {
        if (read(counter_fds[i], &value, sizeof value) != sizeof value)
            die("read of a perf event");
        sum += value;
    }
    return sum;
}

/* --- the measured window --- */

static clockid_t server_clock;
static uint64_t begin_ns, end_ns, server_cpu_ns, client_cpu_ns;

static void begin_window(void)
{
    is_measuring = has_begun = 1;
    control_syscall_counters(PERF_EVENT_IOC_ENABLE);
    client_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (opt.server_pid)
        server_cpu_ns = clock_ns(server_clock);
    begin_ns = now_ns();
}

static void end_window(void)
{
    end_ns = now_ns();
    if (opt.server_pid)
        server_cpu_ns = clock_ns(server_clock) - server_cpu_ns;
    client_cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - client_cpu_ns;
    control_syscall_counters(PERF_EVENT_IOC_DISABLE);
    is_measuring = 0;
}

/* --- connections --- */

static void set_interest(struct connection *c, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(epoll_fd, op, c->fd, &event) < 0)
        die("epoll_ctl");
}

static void want_out(struct connection *c, int wanted)
{
    if (c->wants_out == wanted)
        return;
    c->wants_out = wanted;
    set_interest(c, EPOLL_CTL_MOD, wanted ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/*
 * Each cycle of the churn mode leaves its port in TIME_WAIT on the client's side. The source address cycles through
 * 127.x.y.z so that the ephemeral ports of one address never run out; connect() chooses the port.
 */
static void bind_next_source(int fd)
{
    static uint32_t counter;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int one = 1;

    source.sin_addr.s_addr = htonl(0x7f010001u + counter++ % 0xffffu);
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) < 0)
        die("IP_BIND_ADDRESS_NO_PORT");
    if (bind(fd, (struct sockaddr *)&source, sizeof source) < 0)
        die("bind");
}

/*
 * receive_bytes: the socket's receive buffer, 0 for the system's.
 * Returns 0, or -1 with errno; if a UNIX listener's backlog is full, EAGAIN on a non-blocking socket.
 */
static int start_connect(struct connection *c, int flags, int receive_bytes)
{
    int one = 1;

    if (opt.path) {
        struct sockaddr_un peer = {.sun_family = AF_UNIX};
        if (strlen(opt.path) >= sizeof peer.sun_path)
            die("the path is too long for a UNIX socket");
        strcpy(peer.sun_path, opt.path);
        if ((c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0)) < 0)
            die("socket");
        return connect(c->fd, (struct sockaddr *)&peer, sizeof peer);
    }
    struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0)) < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (opt.congestion)
        setsockopt(c->fd, IPPROTO_TCP, TCP_CONGESTION, opt.congestion, strlen(opt.congestion));
    if (receive_bytes && setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes) < 0)
        die("SO_RCVBUF");
    if (opt.is_churn || opt.n_idle)
        bind_next_source(c->fd);
    return connect(c->fd, (struct sockaddr *)&peer, sizeof peer);
}

static void begin_message(struct connection *c, uint64_t started_ns)
{
    c->sent_ns[c->tail] = started_ns;
    c->tail = (c->tail + 1) % opt.depth;
    c->to_send += opt.size_bytes;
}

/* Takes n received bytes; returns how many messages they completed. */
static unsigned take_bytes(struct connection *c, const char *data, size_t n)
{
    unsigned n_complete;

    if (!has_begun) {
        for (size_t at = 0; at < n;) {
            size_t offset = (c->received + at) % opt.answer_bytes;
            size_t length = n - at < opt.answer_bytes ? n - at : opt.answer_bytes;
            if (memcmp(data + at, answer + offset, length)) {
                errno = 0;
                die("the server echoed wrong bytes");
            }
            at += length;
            n_verified_bytes += length;
        }
    }
    n_complete = (unsigned)((c->received + n) / opt.answer_bytes);
    c->received = (c->received + n) % opt.answer_bytes;
    return n_complete;
}

#ifdef WITH_OPENSSL
#include "loadgen_tls.h"
#else
static void tls_connect(struct connection *c) { (void)c; }
static const char *tls_piece(struct connection *c, size_t *n) { (void)c; (void)n; return NULL; }
static void tls_took(struct connection *c, size_t n) { (void)c; (void)n; }
static unsigned tls_take_bytes(struct connection *c, const char *data, size_t n) { (void)c; (void)data; return !n; }
#endif

#include "loadgen_websocket.h"

/* The next bytes to send, and how many; only while to_send is not 0. */
static const char *next_piece(struct connection *c, size_t *n)
{
    if (opt.is_tls)
        return tls_piece(c, n);
    *n = opt.send_bytes - c->send_offset;
    if (*n > c->to_send)
        *n = c->to_send;
    return pattern + c->send_offset;
}

/* The kernel took n of them. */
static void took(struct connection *c, size_t n)
{
    if (opt.is_tls) {
        tls_took(c, n);
        return;
    }
    c->to_send -= n;
    c->send_offset = (c->send_offset + n) % opt.size_bytes;
}

static unsigned received(struct connection *c, const char *data, size_t n)
{
    return opt.is_tls ? tls_take_bytes(c, data, n) : take_bytes(c, data, n);
}

static void send_more(struct connection *c)
{
    while (c->to_send) {
        size_t n;
        const char *data = next_piece(c, &n);
        ssize_t sent = send(c->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0) {
            if (errno != EAGAIN)
                die("send");
            want_out(c, 1);
            return;
        }
        took(c, (size_t)sent);
    }
    want_out(c, 0);
}

/* Returns the number of bytes, 0 at EOF, -1 if there was nothing. */
static ssize_t receive(struct connection *c)
{
    /*
     * In the measured window the client only needs the count: with MSG_TRUNC TCP discards the bytes without copying
     * them (tcp(7)).  A copy per message made the client the bottleneck at 16 KiB and above.
     */
    int flags = MSG_DONTWAIT | (is_measuring && !opt.path && !opt.is_tls ? MSG_TRUNC : 0);
    ssize_t n = recv(c->fd, receive_buffer, RECEIVE_BYTES, flags);

    if (n < 0 && errno != EAGAIN)
        die("recv");
    return n;
}

/* --- the modes --- */

/* Receives; returns how many messages are complete. */
static unsigned receive_messages(struct connection *c)
{
    ssize_t n = receive(c);

    if (n == 0) {
        errno = 0;
        die("the server closed a connection");
    }
    return n > 0 ? received(c, receive_buffer, (size_t)n) : 0;
}

#include "loadgen_crowd.h"
#include "loadgen_fanout.h"

static void connect_all_blocking(struct connection *all)
{
    for (int i = 0; i < opt.n_connections; i++) {
        struct connection *c = &all[i];
        if (start_connect(c, 0, 0) < 0)
            die("connect %d of %d", i + 1, opt.n_connections);
        c->state = ECHOING;
        if (opt.is_tls)
            tls_connect(c);
        if (opt.is_websocket)
            websocket_connect(c);
        if (opt.is_fanout)
            fanout_connect(c);
        if (opt.n_idle || opt.n_slow)
            crowd_echo(c->fd);
        if (!is_on_ring)
            set_interest(c, EPOLL_CTL_ADD, EPOLLIN);
    }
    usleep(20000); /* let the server accept all of them before the warm-up */
}

static void echo_event(struct connection *c, uint32_t events)
{
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        unsigned n_complete = receive_messages(c);
        uint64_t t = n_complete ? now_ns() : 0;

        while (n_complete--) {
            count_message(c->sent_ns[c->head], t);
            c->head = (c->head + 1) % opt.depth;
            if (!opt.is_open)
                begin_message(c, t);
        }
    }
    if (c->to_send && (!c->wants_out || (events & EPOLLOUT)))
        send_more(c);
}

static void churn_start(struct connection *c)
{
    c->received = c->to_send = c->send_offset = 0;
    c->head = c->tail = 0;
    c->state = CONNECTING;
    begin_message(c, now_ns());
    for (int tries = 0; start_connect(c, SOCK_NONBLOCK, 0) < 0 && errno != EINPROGRESS; tries++) {
        /* A full UNIX backlog: the server needs time, and waiting is part of this cycle's latency. */
        if (errno != EAGAIN || tries > 20000)
            die("connect");
        close(c->fd);
        usleep(100);
    }
    c->wants_out = 1;
    set_interest(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void churn_connected(struct connection *c)
{
    int error = 0;
    socklen_t length = sizeof error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error) {
        errno = error;
        die("connect");
    }
    c->state = ECHOING;
}

/* At EOF: the next cycle. */
static void churn_ended(struct connection *c)
{
    if (c->state != AWAITING_EOF) {
        errno = 0;
        die("the server closed a connection before it had echoed everything");
    }
    count_message(c->sent_ns[0], now_ns());
    close(c->fd);
    churn_start(c);
}

static void churn_event(struct connection *c, uint32_t events)
{
    ssize_t n;

    if (c->state == CONNECTING)
        churn_connected(c);
    if (c->to_send && (events & EPOLLOUT))
        send_more(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || (n = receive(c)) < 0)
        return;
    if (n > 0) {
        if (take_bytes(c, receive_buffer, (size_t)n) && c->state == ECHOING) {
            if (shutdown(c->fd, SHUT_WR) < 0)
                die("shutdown");
            c->state = AWAITING_EOF;
        }
        return;
    }
    churn_ended(c);
}

#include "loadgen_datagram.h"
#include "loadgen_open.h"
#ifdef WITH_OPENSSL
#include "loadgen_handshakes.h"
#else
static void handshake_event(struct connection *c, uint32_t events) { (void)c; (void)events; }
#endif
#ifdef WITH_LIBURING
#include "loadgen_ring.h"
#endif

static void run(struct connection *all)
{
    struct epoll_event events[MAX_EVENTS];
    uint64_t start_ns = now_ns();
    uint64_t window_ns = start_ns + (uint64_t)(opt.warmup_seconds * 1e9);
    uint64_t stop_ns = window_ns + (uint64_t)(opt.seconds * 1e9);
    void (*handle)(struct connection *, uint32_t) = echo_event;

    if (opt.is_churn)
        handle = opt.is_tls ? handshake_event : churn_event;
    if (opt.is_fanout) {
        handle = fanout_event;
        fanout_start(all);
    }
    for (int i = 0; i < opt.n_connections && !opt.is_fanout; i++) {
        if (opt.is_churn) {
            churn_start(&all[i]);
            continue;
        }
        for (unsigned d = 0; d < opt.depth; d++)
            begin_message(&all[i], now_ns());
        send_more(&all[i]);
    }
    for (;;) {
        int n = epoll_wait(epoll_fd, events, MAX_EVENTS, opt.n_slow ? 1 : 100);
        uint64_t t = now_ns();
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        if (!is_measuring && t >= window_ns)
            begin_window();
        if (t >= stop_ns)
            break;
        for (int i = 0; i < n; i++)
            handle(events[i].data.ptr, events[i].events);
        slow_turns(t);
    }
    end_window();
}

/* --- start and result --- */

static void print_result(void)
{
    double elapsed_s = (double)(end_ns - begin_ns) / 1e9;

    printf("{\"messages\": %" PRIu64 ", \"elapsed_ns\": %" PRIu64 ", \"messages_per_s\": %.1f, ", n_messages,
           end_ns - begin_ns, (double)n_messages / elapsed_s);
    printf("\"p50_us\": %.2f, \"p90_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, ", percentile_us(&latencies, 0.5),
           percentile_us(&latencies, 0.9), percentile_us(&latencies, 0.99), percentile_us(&latencies, 0.999));
    if (opt.is_open)
        printf("\"late_p99_us\": %.2f, \"unanswered\": %" PRIu64 ", ", percentile_us(&lateness, 0.99), n_unanswered);
    printf("\"client_cpu_ns\": %" PRIu64 ", \"verified_bytes\": %" PRIu64 ", ", client_cpu_ns, n_verified_bytes);
    if (opt.server_pid)
        printf("\"server_cpu_ns\": %" PRIu64 ", ", server_cpu_ns);
    else
        printf("\"server_cpu_ns\": null, ");
    if (opt.count_syscalls)
        printf("\"syscalls\": %" PRIu64 "}\n", sum_syscall_counters());
    else
        printf("\"syscalls\": null}\n");
}

int main(int argc, char **argv)
{
    struct rlimit files;
    struct connection *all;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    parse(argc, argv);
    alarm((unsigned)(opt.seconds + opt.warmup_seconds) + 20);
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (opt.server_pid && (errno = clock_getcpuclockid(opt.server_pid, &server_clock)))
        die("clock_getcpuclockid(%d)", (int)opt.server_pid);
    if (opt.count_syscalls)
        open_syscall_counters();
    pattern = malloc(opt.send_bytes + opt.size_bytes);
    receive_buffer = malloc(RECEIVE_BYTES);
    all = calloc((size_t)opt.n_connections, sizeof *all);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!pattern || !receive_buffer || !all || epoll_fd < 0)
        die("set-up");
    for (size_t i = 0; i < opt.send_bytes + opt.size_bytes; i++)
        pattern[i] = (char)((i % opt.size_bytes) * 131 >> 3);
    answer = opt.is_websocket ? websocket_frames() : pattern;
    for (int i = 0; i < opt.n_connections; i++)
        if (!(all[i].sent_ns = calloc(opt.depth, sizeof(uint64_t))))
            die("set-up");
#ifdef WITH_LIBURING
    is_on_ring = !opt.is_churn && !opt.is_datagram && !opt.is_open && !opt.is_fanout && opt.size_bytes <= RING_LARGEST_BYTES
                 && opt.n_connections >= RING_CONNECTIONS && opt.depth == 1 && !opt.n_slow;
#endif
    if (!opt.is_churn && !opt.is_datagram) {
        crowd_connect();
        connect_all_blocking(all);
    }
    if (opt.is_datagram) {
        run_datagrams(all);
        print_result();
        return 0;
    }
    if (opt.is_open) {
        run_open(all);
        print_result();
        return 0;
    }
#ifdef WITH_LIBURING
    if (is_on_ring)
        run_on_ring(all);
    else
#endif
        run(all);
    print_result();
    return 0;
}
