/* A small keep-alive HTTP/1.1 load client that checks every response.
 *
 *     http_load PORT PLAN CONNECTIONS WARMUP_MS MEASURE_MS CPU
 *
 * PLAN is a file of records "<request bytes> <body bytes>\n<request><body>": each connection sends the requests in
 * turn, one at a time (no pipelining), and a response only counts if its status is 200 and its body is the recorded
 * one. The output is one line of JSON; the exit status is 1 after any wrong, missing or late response.
 *
 * It is written in C so that the client is not the bottleneck: it shares a small machine with the server that it
 * measures. CPU is the CPU to run on, -1 for any. Loopback only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_EXCHANGES 16
#define MAX_CONNECTIONS 4096
#define BUFFER_BYTES (128 * 1024)
#define DRAIN_NS (5 * 1000000000LL)

struct exchange {
    char *request;
    size_t request_bytes;
    char *body;
    size_t body_bytes;
};

struct connection {
    int fd;
    int turn;          /* the current exchange of the plan */
    int busy;          /* a request is in flight */
    size_t sent_bytes; /* of the current request */
    size_t have_bytes; /* of the current response */
    char *buffer;
};

static struct exchange plan[MAX_EXCHANGES];
static int n_exchanges;
static struct connection connections[MAX_CONNECTIONS];
static int n_connections, n_busy, epoll_fd;
static int64_t n_answers, n_measured, n_failed;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what)
{
    fprintf(stderr, "http_load: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* How long this process was runnable but not running, since others used its CPU. 0 on a kernel without schedstats. */
static double starved_seconds(void)
{
    unsigned long long ran_ns, waited_ns = 0;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%llu %llu", &ran_ns, &waited_ns) != 2)
        waited_ns = 0;
    fclose(file);
    return (double)waited_ns / 1e9;
}

static char *read_block(FILE *file, size_t bytes)
{
    char *block = malloc(bytes + 1);
    if (block == NULL || fread(block, 1, bytes, file) != bytes)
        die("reading the plan");
    block[bytes] = '\0';
    return block;
}

static void read_plan(const char *path)
{
    FILE *file = fopen(path, "rb");
    size_t request_bytes, body_bytes;
    if (file == NULL)
        die(path);
    while (n_exchanges < MAX_EXCHANGES && fscanf(file, "%zu %zu", &request_bytes, &body_bytes) == 2) {
        struct exchange *e = &plan[n_exchanges++];
        fgetc(file); /* the newline; a request never begins with white space, but a body may */
        e->request_bytes = request_bytes;
        e->request = read_block(file, request_bytes);
        e->body_bytes = body_bytes;
        e->body = read_block(file, body_bytes);
        if (body_bytes > BUFFER_BYTES / 2)
            die("a body is too large for the buffer");
    }
    fclose(file);
    if (n_exchanges == 0)
        die("empty plan");
}

/* Give up this connection: it counts as one failed request, and the run as failed. */
static void fail(struct connection *c, const char *why)
{
    if (n_failed++ < 3)
        fprintf(stderr, "http_load: exchange %d: %s; answer begins: %.120s\n", c->turn, why, c->have_bytes ? c->buffer : "");
    close(c->fd);
    c->fd = -1;
    if (c->busy) {
        c->busy = 0;
        n_busy--;
    }
}

/* A request here is smaller than an idle socket's send buffer, so one send normally takes it all. */
static void push_request(struct connection *c)
{
    struct exchange *e = &plan[c->turn];
    while (c->sent_bytes < e->request_bytes) {
        ssize_t n = send(c->fd, e->request + c->sent_bytes, e->request_bytes - c->sent_bytes, MSG_NOSIGNAL);
        if (n > 0) {
            c->sent_bytes += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            return; /* continued at EPOLLOUT (edge-triggered) */
        } else if (n >= 0 || errno != EINTR) {
            fail(c, "send failed");
            return;
        }
    }
}

static void begin_request(struct connection *c)
{
    c->sent_bytes = c->have_bytes = 0;
    c->busy = 1;
    n_busy++;
    push_request(c);
}

/* Finds the beginning and length of the body; returns 0 while the head is incomplete, -1 for a wrong head. */
static int parse_head(struct connection *c, size_t *head_bytes, size_t *body_bytes)
{
    char *end, *field;
    c->buffer[c->have_bytes] = '\0';
    end = strstr(c->buffer, "\r\n\r\n");
    if (end == NULL)
        return 0;
    if (strncmp(c->buffer, "HTTP/1.1 200", 12) != 0)
        return -1;
    field = strcasestr(c->buffer, "\r\ncontent-length:");
    if (field == NULL || field > end)
        return -1;
    *head_bytes = (size_t)(end - c->buffer) + 4;
    *body_bytes = strtoul(field + 17, NULL, 10);
    return 1;
}

/* Returns 1 if the whole response has arrived and is correct, else 0. */
static int check_response(struct connection *c)
{
    struct exchange *e = &plan[c->turn];
    size_t head_bytes, body_bytes;
    int head = parse_head(c, &head_bytes, &body_bytes);
    if (head == 0)
        return 0;
    if (head < 0 || body_bytes != e->body_bytes || c->have_bytes > head_bytes + body_bytes) {
        fail(c, "wrong status or length");
        return 0;
    }
    if (c->have_bytes < head_bytes + body_bytes)
        return 0;
    if (memcmp(c->buffer + head_bytes, e->body, body_bytes) != 0) {
        fail(c, "wrong body");
        return 0;
    }
    return 1;
}

static void pull_response(struct connection *c, int measuring, int stopping)
{
    while (c->fd >= 0) {
        ssize_t n = recv(c->fd, c->buffer + c->have_bytes, BUFFER_BYTES - 1 - c->have_bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            fail(c, n == 0 ? "connection closed by the server" : "recv failed");
            return;
        }
        c->have_bytes += (size_t)n;
        if (!check_response(c))
            continue;
        n_answers++;
        n_measured += measuring;
        c->busy = 0;
        n_busy--;
        c->turn = (c->turn + 1) % n_exchanges;
        if (!stopping)
            begin_request(c);
        return; /* edge-triggered, but without pipelining the socket is now empty, so there will be a new edge */
    }
}

static void open_connections(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < n_connections; i++) {
        struct connection *c = &connections[i];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        int one = 1;
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        c->buffer = malloc(BUFFER_BYTES);
        c->turn = i % n_exchanges;
        if (c->fd < 0 || c->buffer == NULL || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
            die("epoll_ctl");
        begin_request(c);
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[256];
    int64_t begin, end, deadline, now;
    double cpu_s = 0, starved_s = 0;
    int measuring = 0;
    if (argc != 7) {
        fprintf(stderr, "usage: http_load PORT PLAN CONNECTIONS WARMUP_MS MEASURE_MS CPU\n");
        return 2;
    }
    if (atoi(argv[6]) >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(atoi(argv[6]), &cpus);
        sched_setaffinity(0, sizeof cpus, &cpus);
    }
    read_plan(argv[2]);
    n_connections = atoi(argv[3]);
    if (n_connections < 1 || n_connections > MAX_CONNECTIONS)
        die("number of connections");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    begin = now_ns() + atoll(argv[4]) * 1000000;
    end = begin + atoll(argv[5]) * 1000000;
    deadline = end + DRAIN_NS;
    open_connections(atoi(argv[1]));
    while (n_busy > 0 && (now = now_ns()) < deadline) {
        int n = epoll_wait(epoll_fd, events, 256, 100);
        now = now_ns();
        if (!measuring && now >= begin) {
            measuring = 1;
            begin = now;
            cpu_s = cpu_seconds();
            starved_s = starved_seconds();
        } else if (measuring == 1 && now >= end) {
            measuring = 2; /* over: answers still count as served, but not for the rate */
            end = now;
            cpu_s = cpu_seconds() - cpu_s;
            starved_s = starved_seconds() - starved_s;
        }
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && (events[i].events & EPOLLOUT) && c->busy)
                push_request(c);
            if (c->fd >= 0 && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                pull_response(c, measuring == 1, measuring == 2);
        }
    }
    for (int i = 0; i < n_connections; i++)
        if (connections[i].busy)
            fail(&connections[i], "no complete answer in time");
    printf("{\"answers\": %lld, \"measured\": %lld, \"failed\": %lld, \"seconds\": %.6f, \"cpu_s\": %.6f, "
           "\"starved_s\": %.6f}\n",
           (long long)n_answers, (long long)n_measured, (long long)n_failed, (double)(end - begin) / 1e9,
           measuring == 2 ? cpu_s : 0.0, measuring == 2 ? starved_s : 0.0);
    return n_failed > 0 || measuring != 2;
}
