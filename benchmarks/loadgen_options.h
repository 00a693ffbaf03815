/*
 * The options of loadgen and its error exit. Part of loadgen.c.
 */
static struct {
    int port;
    const char *path;
    int n_connections, n_idle, n_slow;
    size_t size_bytes;
    size_t send_bytes;   /* the most in one send: in the echo mode over TCP or UNIX sockets, all that may be in flight */
    size_t answer_bytes; /* of the answer to a message: the same, except in WebSockets */
    unsigned depth;
    double seconds, warmup_seconds, rate_per_s;
    int is_churn, is_datagram, is_open, is_fanout, is_tls, is_websocket, count_syscalls;
    pid_t server_pid;
    const char *congestion; /* TCP congestion control, or NULL for the system's own */
} opt = {.n_connections = 1, .size_bytes = 1024, .depth = 1, .seconds = 1, .warmup_seconds = 0.3};

static void die(const char *format, ...)
{
    va_list args;
    int saved_errno = errno;

    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    if (saved_errno)
        fprintf(stderr, ": %s", strerror(saved_errno));
    fputc('\n', stderr);
    exit(1);
}

static void websocket_sizes(void); /* loadgen_websocket.h */

static void parse(int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "p:x:n:s:d:t:w:m:r:i:l:P:C:STW")) != -1) {
        switch (option) {
        case 'p': opt.port = atoi(optarg); break;
        case 'x': opt.path = optarg; break;
        case 'n': opt.n_connections = atoi(optarg); break;
        case 's': opt.size_bytes = strtoul(optarg, NULL, 10); break;
        case 'd': opt.depth = (unsigned)atoi(optarg); break;
        case 't': opt.seconds = atof(optarg); break;
        case 'w': opt.warmup_seconds = atof(optarg); break;
        case 'm':
            opt.is_churn = !strcmp(optarg, "churn");
            opt.is_datagram = !strcmp(optarg, "datagram");
            opt.is_open = !strcmp(optarg, "open");
            opt.is_fanout = !strcmp(optarg, "fanout");
            break;
        case 'r': opt.rate_per_s = atof(optarg); break;
        case 'i': opt.n_idle = atoi(optarg); break;
        case 'l': opt.n_slow = atoi(optarg); break;
        case 'P': opt.server_pid = atoi(optarg); break;
        case 'C': opt.congestion = optarg; break;
        case 'T': opt.is_tls = 1; break;
        case 'W': opt.is_websocket = 1; break;
        case 'S': opt.count_syscalls = 1; break;
        default: exit(2);
        }
    }
    errno = 0;
    if ((!opt.port && !opt.path) || opt.n_connections < 1 || !opt.size_bytes || !opt.depth || opt.seconds <= 0)
        die("needs -p or -x, and positive -n, -s, -d, -t");
    if (opt.count_syscalls && !opt.server_pid)
        die("-S needs -P");
    if (opt.is_tls && (opt.is_datagram || opt.is_fanout))
        die("TLS is for the modes echo, open and churn");
    if ((opt.n_idle || opt.n_slow) && (opt.is_churn || opt.is_datagram || opt.is_tls || opt.is_websocket))
        die("-i and -l are for echo over TCP or UNIX sockets");
#ifndef WITH_OPENSSL
    if (opt.is_tls)
        die("built without OpenSSL's headers (libssl-dev)");
#endif
    if (opt.is_open && opt.rate_per_s <= 0)
        die("the open mode needs a rate, -r");
    if (opt.is_websocket && (opt.is_churn || opt.is_datagram || opt.is_tls))
        die("WebSockets are for echo over TCP or UNIX sockets only");
    opt.answer_bytes = opt.size_bytes;
    if (opt.is_websocket)
        websocket_sizes();
    if (opt.is_churn || opt.is_fanout)
        opt.depth = 1;
    opt.send_bytes = opt.size_bytes * (opt.is_open || opt.is_datagram ? 1 : opt.depth);
    if (opt.is_open)
        opt.depth = OPEN_DEPTH;
}
