/*
 * What the two servers share: options, the listening socket, objects, and the queue of a connection.
 *
 * A server does what a Python loop cannot avoid, and nothing else: each piece of data that arrives becomes an object of
 * its own, as large as a `bytes` with the same content, in fresh memory; the user's code gets it and writes it back; it
 * lives until the kernel has taken its last byte.
 *
 *   PROGRAM [-x PATH] [-C ALGORITHM] [-V] [WORD...]
 *
 * -x: a UNIX socket, instead of a free TCP port of the loopback interface.
 * -C: TCP congestion control.
 * -V: print the version instead of serving, and fail if this machine cannot run the server.
 * WORD: one of the server's choices; each program lists its own.
 *
 * Like server.py, a server prints a line of JSON when it listens, and ends by a signal.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 4096
#define LEAST_CAPACITY 4096
#define MOST_CAPACITY (256 * 1024)
#define MOST_VECTORS 16

/* The header takes 32 bytes, as that of `bytes` does (33 with the final NUL). */
struct object {
    struct object *next;
    size_t n_bytes;
    size_t n_sent;
    size_t is_alive;
    char data[];
};

struct gather {
    struct msghdr message;
    struct iovec vectors[MOST_VECTORS];
};

struct connection {
    int fd;
    char is_dirty;     /* is on the list of connections with output, for the end of the turn */
    char is_sending;   /* io_uring: a SEND has not ended; epoll: EPOLLOUT is armed */
    char has_ended;    /* the peer has sent its EOF: close when all is sent */
    char has_failed;   /* io_uring: this turn's SEND was short */
    size_t capacity;   /* of the next object that is received into */
    struct object *first, *last; /* not sent yet, oldest first */
    size_t n_objects;
    struct object *incoming;     /* io_uring: the RECV in flight writes here */
    size_t n_sending;            /* io_uring: objects of the SEND in flight */
    size_t n_in_flight;          /* io_uring: receives whose last CQE is to come */
    struct gather *gather;       /* made when several objects have to be sent at once */
};

static struct connection **dirty;
static size_t n_dirty, dirty_capacity;

static void die(const char *what)
{
    fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *checked(void *memory)
{
    if (!memory)
        die("out of memory");
    return memory;
}

static struct object *new_object(size_t capacity)
{
    struct object *object = checked(malloc(sizeof *object + capacity + 1));

    object->next = NULL;
    object->n_sent = 0;
    object->is_alive = 1;
    return object;
}

/* The object has n bytes; its memory gets the right size if it was too large. */
static struct object *finish_object(struct object *object, size_t capacity, size_t n)
{
    if (n < capacity)
        object = checked(realloc(object, sizeof *object + n + 1));
    object->n_bytes = n;
    object->data[n] = 0;
    return object;
}

static struct object *copy_object(const char *data, size_t n)
{
    struct object *object = new_object(n);

    memcpy(object->data, data, n);
    object->n_bytes = n;
    object->data[n] = 0;
    return object;
}

/* Adapt the size of the next object to receive into: n bytes arrived. */
static inline void learn_capacity(struct connection *c, size_t n)
{
    if (n == c->capacity && c->capacity < MOST_CAPACITY)
        c->capacity *= 2;
    else if (n <= c->capacity / 4 && c->capacity > LEAST_CAPACITY)
        c->capacity /= 2;
}

static void mark_dirty(struct connection *c)
{
    if (c->is_dirty)
        return;
    if (n_dirty == dirty_capacity) {
        dirty_capacity = dirty_capacity ? 2 * dirty_capacity : 64;
        dirty = checked(realloc(dirty, dirty_capacity * sizeof *dirty));
    }
    c->is_dirty = 1;
    dirty[n_dirty++] = c;
}

/* transport.write(): the queue owns the object from here on. */
static void write_object(struct connection *c, struct object *object)
{
    if (c->first)
        c->last->next = object;
    else
        c->first = object;
    c->last = object;
    c->n_objects++;
}

/* protocol.data_received(), the user's code; a call, as from a loop that does not know it. */
static __attribute__((noinline)) void data_received(struct connection *c, struct object *object)
{
    write_object(c, object);
}

/* The kernel took n bytes: free the objects that it took as a whole. */
static void took(struct connection *c, size_t n)
{
    while (n) {
        struct object *object = c->first;
        size_t n_left = object->n_bytes - object->n_sent;

        if (n < n_left) {
            object->n_sent += n;
            return;
        }
        n -= n_left;
        c->first = object->next;
        c->n_objects--;
        free(object);
    }
}

/* The queue's oldest objects as a message for sendmsg(); it stays valid until the connection's next one. */
static struct gather *gather_output(struct connection *c)
{
    size_t n = 0;

    if (!c->gather)
        c->gather = checked(calloc(1, sizeof *c->gather));
    for (struct object *object = c->first; object && n < MOST_VECTORS; object = object->next)
        c->gather->vectors[n++] = (struct iovec){object->data + object->n_sent, object->n_bytes - object->n_sent};
    c->gather->message.msg_iov = c->gather->vectors;
    c->gather->message.msg_iovlen = n;
    return c->gather;
}

/* Send as much as the socket takes. Returns whether all of it is sent; an error drops the rest, as a transport does. */
static int send_now(struct connection *c)
{
    while (c->first) {
        struct object *object = c->first;
        ssize_t n;

        if (object->next)
            n = sendmsg(c->fd, &gather_output(c)->message, MSG_DONTWAIT | MSG_NOSIGNAL);
        else
            n = send(c->fd, object->data + object->n_sent, object->n_bytes - object->n_sent,
                     MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN)
                return 0;
            while (c->first)
                took(c, c->first->n_bytes - c->first->n_sent);
            c->has_ended = 1;
            return 1;
        }
        took(c, (size_t)n);
    }
    return 1;
}

static struct connection *new_connection(int fd)
{
    struct connection *c = checked(calloc(1, sizeof *c));

    c->fd = fd;
    c->capacity = LEAST_CAPACITY;
    return c;
}

/* The caller has closed the socket, and nothing in flight uses the connection. */
static void free_connection(struct connection *c)
{
    while (c->first)
        took(c, c->first->n_bytes - c->first->n_sent);
    free(c->incoming);
    free(c->gather);
    free(c);
}

static int listen_on(const char *path, const char *congestion)
{
    int fd, one = 1, port = 0;

    if (path) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};

        if (strlen(path) >= sizeof address.sun_path)
            die("the path is too long");
        strcpy(address.sun_path, path);
        if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
            die("socket");
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("bind");
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t length = sizeof address;

        if ((fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
            die("socket");
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            die("bind");
        /* Accepted sockets inherit both options. */
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0)
            die("TCP_NODELAY");
        if (congestion && setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, strlen(congestion)) < 0)
            die("TCP_CONGESTION");
        if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
            die("getsockname");
        port = ntohs(address.sin_port);
    }
    if (listen(fd, BACKLOG) < 0)
        die("listen");
    if (path)
        printf("{\"pid\": %d, \"port\": null}\n", (int)getpid());
    else
        printf("{\"pid\": %d, \"port\": %d}\n", (int)getpid(), port);
    fflush(stdout);
    return fd;
}

/* Supplied by the program: set one of its choices (0 if it has none of this name), print its version, serve for ever. */
static int choose(const char *word);
static void print_version(void);
static void serve(int listener);

int main(int argc, char **argv)
{
    const char *path = NULL, *congestion = NULL;
    struct rlimit files;
    int option, wants_version = 0;

    while ((option = getopt(argc, argv, "x:C:V")) != -1) {
        switch (option) {
        case 'x': path = optarg; break;
        case 'C': congestion = optarg; break;
        case 'V': wants_version = 1; break;
        default: return 2;
        }
    }
    for (; optind < argc; optind++) {
        if (!choose(argv[optind])) {
            fprintf(stderr, "limit: there is no choice %s\n", argv[optind]);
            return 2;
        }
    }
    if (wants_version) {
        print_version();
        return 0;
    }
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    /* Keep freed memory: the limit is that of the copies, not of the page faults that glibc's defaults cause. */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    serve(listen_on(path, congestion));
    return 0;
}
