/*
 * limit-epoll: the echo server of common.h on epoll, level-triggered, the way of libuv without its costs.
 *
 * Words (the first of each line is the default):
 *   now | late         send when the user's code writes, or at the end of the turn
 *   direct | staged    receive straight into the object, or into one large buffer from which the object is copied
 *   events=N           take at most N events at once (default 1024)
 */
#include "common.h"

#include <sys/epoll.h>

#define MOST_EVENTS 1024
#define STAGING_BYTES (256 * 1024)

static int is_late, is_staged, n_events = MOST_EVENTS;
static int epoll_fd;
static char *staging;

static int choose(const char *word)
{
    if (!strcmp(word, "now") || !strcmp(word, "late"))
        is_late = *word == 'l';
    else if (!strcmp(word, "direct") || !strcmp(word, "staged"))
        is_staged = *word == 's';
    else if (!strncmp(word, "events=", 7))
        n_events = atoi(word + 7);
    else
        return 0;
    return n_events > 0 && n_events <= MOST_EVENTS;
}

static void print_version(void)
{
    printf("C (compiler %s)\n", __VERSION__);
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0)
        die("epoll_ctl");
}

static void accept_connections(int listener, int is_busy)
{
    /* A turn with nothing else to do accepts one and saves the call that finds no other. */
    do {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED)
                return;
            die("accept4");
        }
        watch(new_connection(fd), EPOLL_CTL_ADD, EPOLLIN);
    } while (is_busy);
}

/* A socket that is not writable has EPOLLOUT armed until its queue is empty. */
static void flush(struct connection *c)
{
    int is_all = send_now(c);

    if (is_all == !c->is_sending)
        return;
    c->is_sending = (char)!is_all;
    watch(c, EPOLL_CTL_MOD, is_all ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static ssize_t receive(struct connection *c, struct object **object)
{
    ssize_t n;

    if (is_staged) {
        n = recv(c->fd, staging, STAGING_BYTES, 0);
        if (n > 0)
            *object = copy_object(staging, (size_t)n);
        return n;
    }
    *object = new_object(c->capacity);
    n = recv(c->fd, (*object)->data, c->capacity, 0);
    if (n > 0) {
        *object = finish_object(*object, c->capacity, (size_t)n);
        learn_capacity(c, (size_t)n);
    } else {
        free(*object);
    }
    return n;
}

static void handle(struct connection *c, uint32_t events)
{
    if (events & EPOLLOUT)
        flush(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        struct object *object;
        ssize_t n = receive(c, &object);

        if (n > 0) {
            data_received(c, object);
            if (is_late)
                mark_dirty(c);
            else if (!c->is_sending)
                flush(c);
        } else if (n == 0 || errno != EAGAIN) {
            c->has_ended = 1;
        }
    }
    /* A peer that has shut down its side gets the rest first; meanwhile epoll reports its EOF in each turn. */
    if (c->has_ended && !c->is_dirty && !c->first) {
        close(c->fd);
        free_connection(c);
    }
}

static void flush_dirty(void)
{
    for (size_t i = 0; i < n_dirty; i++) {
        struct connection *c = dirty[i];

        c->is_dirty = 0;
        if (!c->is_sending)
            flush(c);
    }
    n_dirty = 0;
}

static void serve(int listener)
{
    static struct epoll_event events[MOST_EVENTS];
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = NULL};

    staging = checked(malloc(STAGING_BYTES));
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening) < 0)
        die("epoll_ctl");
    for (;;) {
        int n = epoll_wait(epoll_fd, events, n_events, -1);

        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                handle(events[i].data.ptr, events[i].events);
            else
                accept_connections(listener, n > 1);
        }
        flush_dirty();
    }
}
