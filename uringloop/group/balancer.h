/*
 * The balancer of a LoopGroup: a thread that accepts on the group's listening sockets, and gives each connection to the
 * member with the fewest.
 *
 *  1. The thread is C only.  It never needs a GIL, so that no member can hold it up, and it belongs to no interpreter:
 *     members may live in others.  All of them are in one process, so a connection is given by its number.
 *  2. A member serves a listener from `ul_balancer_serve` on.  Its connections are queued until it takes them; the
 *     first of them writes to the member's eventfd.
 *  3. `n_open` counts a member's connections from the moment they are given until the member says that they ended.
 *     Among members with the same number the one that was given the fewest so far is next.
 *  4. A member that leaves a connection in its queue for UL_STALL_NS has stalled, until it looks again: it gets no more
 *     while another one has not, and what it did not take goes to the others.
 *  5. With no member to serve a listener, its connections wait in the kernel's backlog, and those accepted already in
 *     `unclaimed`.
 *
 * Ownership: a queued fd is the balancer's; one that was taken is the member's.  The struct is freed with its last
 * reference; each interpreter's Balancer object has one, and so has the thread.
 *
 * Locks: `lock` guards everything that is not constant.  It is held for a few hundred instructions, never around a call
 * that may block, and may be taken with a GIL held.  A fork child must not touch the struct: the thread that may have
 * held the lock is not there (`ul_balancer_is_ours`).
 */
#ifndef URINGLOOP_BALANCER_H
#define URINGLOOP_BALANCER_H
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define UL_LISTENERS 256               /* in the life of a group: a number is not given again */
#define UL_STALL_NS 300000000LL        /* a turn of a busy member takes less */
#define UL_RETRY_NS 1000000000LL       /* after accept(2) ran out of a resource; asyncio's ACCEPT_RETRY_DELAY */
#define UL_ACCEPTS_AT_ONCE 256         /* on one listener, before the others are looked at */

typedef struct {
    int fd;
    int listener;
} ul_given;

typedef struct {
    ul_given *items;                   /* a circle */
    unsigned capacity;                 /* a power of two, or 0 */
    unsigned first;
    unsigned count;
} ul_givens;

typedef struct {
    int wake_fd;                       /* an eventfd; constant until the balancer is closed */
    unsigned generation;               /* how many have had this place */
    unsigned n_open;                   /* connections given and not ended */
    unsigned long long n_given;        /* since the group began */
    unsigned long long n_taken_back;   /* because it stalled */
    int64_t waiting_since_ns;          /* since when its queue is not empty */
    int is_stalled;
    ul_givens queue;
} ul_seat;

typedef struct {
    int fd;                            /* a duplicate of ours; -1: none, or closed by the thread */
    int is_closing;
    unsigned long long n_accepted;
    int64_t retry_at_ns;               /* no accept(2) before; 0: at once */
    unsigned char *serving;            /* one per seat */
    unsigned n_serving;
} ul_listener;

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t has_closed;         /* the thread has closed a listener */
    pthread_t thread;
    int n_references;                  /* atomic */
    int is_running;
    int is_ending;
    int control_fd;                    /* an eventfd: what the thread waits for has changed; constant until closed */
    pid_t pid;                         /* whose it is; constant */
    int n_seats;                       /* constant */
    ul_seat *seats;
    int n_listeners;                   /* that there have been */
    ul_listener listeners[UL_LISTENERS];
    ul_givens unclaimed;
    unsigned long long n_errors;       /* failed accept(2) calls */
    int last_error;
} ul_balancer;

static int64_t ul_balancer_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* -- queues ------------------------------------------------------------------------------------------------- */

static int ul_givens_push(ul_givens *queue, ul_given one)
{
    if (queue->count == queue->capacity) {
        unsigned capacity = queue->capacity ? 2 * queue->capacity : 16;
        ul_given *items = malloc(capacity * sizeof *items);

        if (items == NULL)
            return -1;
        for (unsigned i = 0; i < queue->count; i++)
            items[i] = queue->items[(queue->first + i) & (queue->capacity - 1)];
        free(queue->items);
        queue->items = items;
        queue->capacity = capacity;
        queue->first = 0;
    }
    queue->items[(queue->first + queue->count) & (queue->capacity - 1)] = one;
    queue->count++;
    return 0;
}

static ul_given ul_givens_pop(ul_givens *queue)
{
    ul_given one = queue->items[queue->first];

    queue->first = (queue->first + 1) & (queue->capacity - 1);
    queue->count--;
    return one;
}

static void ul_givens_close(ul_givens *queue)
{
    while (queue->count)
        close(ul_givens_pop(queue).fd);
    free(queue->items);
    memset(queue, 0, sizeof *queue);
}

/* -- life --------------------------------------------------------------------------------------------------- */

static void ul_signal(int event_fd)
{
    uint64_t one = 1;

    while (event_fd >= 0 && write(event_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;                              /* EAGAIN: the counter is full, and its reader wakes anyway */
}

static void ul_close_once(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Close all descriptors: the thread has ended, and no member is left that waits for one.  Seats may still be asked. */
static void ul_balancer_close(ul_balancer *balancer)
{
    pthread_mutex_lock(&balancer->lock);
    for (int i = 0; balancer->seats != NULL && i < balancer->n_seats; i++) {
        ul_givens_close(&balancer->seats[i].queue);
        ul_close_once(&balancer->seats[i].wake_fd);
        balancer->seats[i].generation++;
    }
    for (int i = 0; i < UL_LISTENERS; i++) {
        ul_close_once(&balancer->listeners[i].fd);
        balancer->listeners[i].is_closing = 1;
    }
    ul_givens_close(&balancer->unclaimed);
    ul_close_once(&balancer->control_fd);
    pthread_mutex_unlock(&balancer->lock);
}

static void ul_balancer_free(ul_balancer *balancer)
{
    ul_balancer_close(balancer);
    for (int i = 0; i < UL_LISTENERS; i++)
        free(balancer->listeners[i].serving);
    pthread_cond_destroy(&balancer->has_closed);
    pthread_mutex_destroy(&balancer->lock);
    free(balancer->seats);
    free(balancer);
}

/* NULL with errno.  With one reference. */
static ul_balancer *ul_balancer_new(int n_seats)
{
    ul_balancer *balancer = calloc(1, sizeof *balancer);
    int error;

    if (balancer == NULL)
        return NULL;
    pthread_mutex_init(&balancer->lock, NULL);
    pthread_cond_init(&balancer->has_closed, NULL);
    balancer->n_references = 1;
    balancer->pid = getpid();
    balancer->n_seats = n_seats;
    for (int i = 0; i < UL_LISTENERS; i++)
        balancer->listeners[i].fd = -1;
    balancer->seats = calloc(n_seats, sizeof *balancer->seats);
    for (int i = 0; balancer->seats != NULL && i < n_seats; i++)
        balancer->seats[i].wake_fd = -1;
    balancer->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (balancer->seats == NULL || balancer->control_fd < 0)
        goto failed;
    for (int i = 0; i < n_seats; i++) {
        balancer->seats[i].wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (balancer->seats[i].wake_fd < 0)
            goto failed;
    }
    return balancer;
failed:
    error = errno;
    ul_balancer_free(balancer);
    errno = error;
    return NULL;
}

static void ul_balancer_hold(ul_balancer *balancer)
{
    __atomic_fetch_add(&balancer->n_references, 1, __ATOMIC_SEQ_CST);
}

static void ul_balancer_drop(ul_balancer *balancer)
{
    if (__atomic_sub_fetch(&balancer->n_references, 1, __ATOMIC_SEQ_CST) == 0)
        ul_balancer_free(balancer);
}

/* False in a fork child. */
static int ul_balancer_is_ours(ul_balancer *balancer)
{
    return balancer->pid == getpid();
}

/* -- giving; with the lock ---------------------------------------------------------------------------------- */

static int ul_is_before(const ul_seat *one, const ul_seat *other)
{
    if (one->is_stalled != other->is_stalled)
        return other->is_stalled;
    return one->n_open != other->n_open ? one->n_open < other->n_open : one->n_given < other->n_given;
}

/* Whom to give a connection of this listener, or -1. */
static int ul_choose(const ul_balancer *balancer, int listener)
{
    const ul_listener *from = &balancer->listeners[listener];
    int best = -1;

    for (int i = 0; from->n_serving && i < balancer->n_seats; i++)
        if (from->serving[i] && (best < 0 || ul_is_before(&balancer->seats[i], &balancer->seats[best])))
            best = i;
    return best;
}

/* Queue it for a member and wake that, or keep it until there is one; an fd for which there is no memory is closed. */
static void ul_give(ul_balancer *balancer, ul_given one, int64_t now_ns)
{
    int chosen = balancer->listeners[one.listener].is_closing ? -1 : ul_choose(balancer, one.listener);
    ul_seat *seat;

    if (chosen < 0) {
        if (balancer->listeners[one.listener].is_closing || ul_givens_push(&balancer->unclaimed, one) < 0)
            close(one.fd);
        return;
    }
    seat = &balancer->seats[chosen];
    if (ul_givens_push(&seat->queue, one) < 0) {
        close(one.fd);
        return;
    }
    seat->n_open++;
    seat->n_given++;
    if (seat->queue.count == 1) {
        seat->waiting_since_ns = now_ns;
        ul_signal(seat->wake_fd);
    }
}

/* Give what is queued for this member to others: of one listener, or of all (-1). */
static void ul_take_back(ul_balancer *balancer, int member, int listener, int64_t now_ns)
{
    ul_seat *seat = &balancer->seats[member];

    for (unsigned n = seat->queue.count; n; n--) {
        ul_given one = ul_givens_pop(&seat->queue);

        if (listener >= 0 && one.listener != listener) {
            ul_givens_push(&seat->queue, one);   /* has room: one was taken out */
            continue;
        }
        seat->n_open--;
        seat->n_given--;
        ul_give(balancer, one, now_ns);
    }
}

static void ul_give_unclaimed(ul_balancer *balancer, int64_t now_ns)
{
    for (unsigned n = balancer->unclaimed.count; n; n--)
        ul_give(balancer, ul_givens_pop(&balancer->unclaimed), now_ns);
}

/* Find members that stalled; what they did not take goes to those that have not. */
static void ul_relieve_stalled(ul_balancer *balancer, int64_t now_ns)
{
    for (int i = 0; i < balancer->n_seats; i++) {
        ul_seat *seat = &balancer->seats[i];

        if (!seat->queue.count || now_ns - seat->waiting_since_ns < UL_STALL_NS)
            continue;
        seat->is_stalled = 1;
        for (unsigned n = seat->queue.count; n; n--) {
            ul_given one = ul_givens_pop(&seat->queue);
            int other = ul_choose(balancer, one.listener);

            if (other < 0 || balancer->seats[other].is_stalled) {
                ul_givens_push(&seat->queue, one);
                continue;
            }
            seat->n_open--;
            seat->n_given--;
            seat->n_taken_back++;
            ul_give(balancer, one, now_ns);
        }
    }
}

/* -- the thread --------------------------------------------------------------------------------------------- */

/* Accept what is there. */
static void ul_accept_for(ul_balancer *balancer, int listener)
{
    for (int n = 0; n < UL_ACCEPTS_AT_ONCE; n++) {
        ul_given one = {accept4(balancer->listeners[listener].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), listener};
        int64_t now_ns;

        if (one.fd < 0) {
            if (errno == EAGAIN)
                return;
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            pthread_mutex_lock(&balancer->lock);
            balancer->n_errors++;
            balancer->last_error = errno;
            balancer->listeners[listener].retry_at_ns = ul_balancer_now_ns() + UL_RETRY_NS;
            pthread_mutex_unlock(&balancer->lock);
            return;
        }
        now_ns = ul_balancer_now_ns();
        pthread_mutex_lock(&balancer->lock);
        balancer->listeners[listener].n_accepted++;
        ul_give(balancer, one, now_ns);
        n += balancer->unclaimed.count ? UL_ACCEPTS_AT_ONCE : 0;   /* no member serves it any more */
        pthread_mutex_unlock(&balancer->lock);
    }
}

/* Which fds to wait for, and how long; with the lock.  Returns how many. */
static int ul_prepare_poll(ul_balancer *balancer, struct pollfd *fds, int *listeners, int64_t now_ns, int64_t *until_ns)
{
    int n = 1;

    fds[0].fd = balancer->control_fd;
    fds[0].events = POLLIN;
    *until_ns = -1;
    for (int i = 0; i < balancer->n_listeners; i++) {
        ul_listener *one = &balancer->listeners[i];

        if (one->is_closing && one->fd >= 0) {
            close(one->fd);
            one->fd = -1;
            pthread_cond_broadcast(&balancer->has_closed);
        }
        if (one->fd < 0 || !one->n_serving)
            continue;
        if (one->retry_at_ns > now_ns) {
            if (*until_ns < 0 || one->retry_at_ns < *until_ns)
                *until_ns = one->retry_at_ns;
            continue;
        }
        one->retry_at_ns = 0;
        listeners[n] = i;
        fds[n].fd = one->fd;
        fds[n++].events = POLLIN;
    }
    for (int i = 0; i < balancer->n_seats; i++) {
        const ul_seat *seat = &balancer->seats[i];

        if (seat->queue.count && !seat->is_stalled && (*until_ns < 0 || seat->waiting_since_ns + UL_STALL_NS < *until_ns))
            *until_ns = seat->waiting_since_ns + UL_STALL_NS;
    }
    return n;
}

static void *ul_balancer_main(void *argument)
{
    ul_balancer *balancer = argument;
    struct pollfd fds[UL_LISTENERS + 1];
    int listeners[UL_LISTENERS + 1], n_fds, timeout_ms, is_ending = 0;
    int64_t now_ns, until_ns;
    uint64_t count;

    while (!is_ending) {
        now_ns = ul_balancer_now_ns();
        pthread_mutex_lock(&balancer->lock);
        is_ending = balancer->is_ending;
        ul_relieve_stalled(balancer, now_ns);
        n_fds = ul_prepare_poll(balancer, fds, listeners, now_ns, &until_ns);
        pthread_mutex_unlock(&balancer->lock);
        if (is_ending)
            break;
        timeout_ms = until_ns < 0 ? -1 : until_ns <= now_ns ? 0 : (int)((until_ns - now_ns + 999999) / 1000000);
        if (poll(fds, n_fds, timeout_ms) <= 0)
            continue;
        if (fds[0].revents)
            while (read(balancer->control_fd, &count, sizeof count) < 0 && errno == EINTR)
                ;
        /* Without the lock: only this thread closes the fd of a listener. */
        for (int i = 1; i < n_fds; i++)
            if (fds[i].revents && !__atomic_load_n(&balancer->is_ending, __ATOMIC_SEQ_CST))
                ul_accept_for(balancer, listeners[i]);
    }
    ul_balancer_drop(balancer);
    return NULL;
}

/* Returns 0, or an errno.  All signals go to other threads. */
static int ul_balancer_start(ul_balancer *balancer)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    int error;

    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 * 1024);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    ul_balancer_hold(balancer);        /* the thread's */
    error = pthread_create(&balancer->thread, &attributes, ul_balancer_main, balancer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error) {
        ul_balancer_drop(balancer);
        return error;
    }
    balancer->is_running = 1;
    return 0;
}

/* Waits for the thread, which ends within microseconds. */
static void ul_balancer_stop(ul_balancer *balancer)
{
    if (!balancer->is_running)
        return;
    balancer->is_running = 0;
    __atomic_store_n(&balancer->is_ending, 1, __ATOMIC_SEQ_CST);
    ul_signal(balancer->control_fd);
    pthread_join(balancer->thread, NULL);
}

/* -- what the group and its members call --------------------------------------------------------------------- */

/* Returns the number of the listener, or a negated errno. */
static int ul_balancer_listen(ul_balancer *balancer, int fd)
{
    unsigned char *serving = calloc(balancer->n_seats, 1);
    int result = -EMFILE, copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    if (serving == NULL || copy < 0) {
        result = serving == NULL ? -ENOMEM : -errno;
        free(serving);
        if (copy >= 0)
            close(copy);
        return result;
    }
    pthread_mutex_lock(&balancer->lock);
    if (balancer->n_listeners < UL_LISTENERS) {
        result = balancer->n_listeners++;
        balancer->listeners[result].fd = copy;
        balancer->listeners[result].serving = serving;
    }
    pthread_mutex_unlock(&balancer->lock);
    if (result < 0) {
        close(copy);
        free(serving);
    }
    return result;
}

/* No connection is accepted any more, also not by the kernel unless others have the socket, too; those that no member has taken are closed. */
static void ul_balancer_unlisten(ul_balancer *balancer, int listener)
{
    ul_listener *one = &balancer->listeners[listener];
    int64_t now_ns = ul_balancer_now_ns();

    pthread_mutex_lock(&balancer->lock);
    one->is_closing = 1;
    for (int i = 0; i < balancer->n_seats; i++) {
        one->serving[i] = 0;
        ul_take_back(balancer, i, listener, now_ns);
    }
    one->n_serving = 0;
    ul_give_unclaimed(balancer, now_ns);
    ul_signal(balancer->control_fd);
    /* Only the thread may close it, which does so at once: its address must be free when this returns. */
    while (balancer->is_running && one->fd >= 0)
        pthread_cond_wait(&balancer->has_closed, &balancer->lock);
    pthread_mutex_unlock(&balancer->lock);
}

/* A member begins or ends to serve a listener; connections that it has not taken go to others, or wait for one. */
static void ul_balancer_serve(ul_balancer *balancer, int listener, int member, unsigned generation, int serves)
{
    int64_t now_ns = ul_balancer_now_ns();
    ul_listener *one = &balancer->listeners[listener];

    pthread_mutex_lock(&balancer->lock);
    if (balancer->seats[member].generation == generation && one->serving[member] != serves
        && !(serves && one->is_closing)) {
        one->serving[member] = serves;
        one->n_serving += serves ? 1 : -1;
        if (serves)
            ul_give_unclaimed(balancer, now_ns);
        else
            ul_take_back(balancer, member, listener, now_ns);
        ul_signal(balancer->control_fd);
    }
    pthread_mutex_unlock(&balancer->lock);
}

/* The connections of a member, which owns them from now on.  Returns how many, `room` at most. */
static int ul_balancer_take(ul_balancer *balancer, int member, unsigned generation, ul_given *into, int room)
{
    ul_seat *seat = &balancer->seats[member];
    uint64_t count;
    int n = 0;

    pthread_mutex_lock(&balancer->lock);
    if (seat->generation != generation) {  /* it blocked for so long that another one has its place */
        pthread_mutex_unlock(&balancer->lock);
        return 0;
    }
    while (read(seat->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
    if (seat->is_stalled) {
        seat->is_stalled = 0;          /* others' may come here again */
        ul_signal(balancer->control_fd);
    }
    while (n < room && seat->queue.count)
        into[n++] = ul_givens_pop(&seat->queue);
    if (seat->queue.count) {           /* the rest is announced again: a signal follows an empty queue only */
        seat->waiting_since_ns = ul_balancer_now_ns();
        ul_signal(seat->wake_fd);
    }
    pthread_mutex_unlock(&balancer->lock);
    return n;
}

/* A connection that was taken goes to another member: this one does not serve that listener any more. */
static void ul_balancer_return(ul_balancer *balancer, int member, unsigned generation, ul_given one)
{
    int64_t now_ns = ul_balancer_now_ns();

    pthread_mutex_lock(&balancer->lock);
    if (balancer->seats[member].generation == generation) {
        balancer->seats[member].n_open--;
        balancer->seats[member].n_given--;
    }
    ul_give(balancer, one, now_ns);
    pthread_mutex_unlock(&balancer->lock);
}

/* What is known of a member; its queue's items stay the balancer's. */
static ul_seat ul_balancer_look_at(ul_balancer *balancer, int member)
{
    ul_seat seat;

    pthread_mutex_lock(&balancer->lock);
    seat = balancer->seats[member];
    pthread_mutex_unlock(&balancer->lock);
    return seat;
}

/* What is known of the group. */
static void ul_balancer_look(ul_balancer *balancer, unsigned *n_unclaimed, unsigned long long *n_accepted,
                             unsigned long long *n_errors, int *last_error)
{
    pthread_mutex_lock(&balancer->lock);
    *n_unclaimed = balancer->unclaimed.count;
    *n_accepted = 0;
    for (int i = 0; i < balancer->n_listeners; i++)
        *n_accepted += balancer->listeners[i].n_accepted;
    *n_errors = balancer->n_errors;
    *last_error = balancer->last_error;
    pthread_mutex_unlock(&balancer->lock);
}

/* A connection of a member has ended. */
static void ul_balancer_ended(ul_balancer *balancer, int member, unsigned generation)
{
    ul_seat *seat = &balancer->seats[member];

    pthread_mutex_lock(&balancer->lock);
    if (seat->generation == generation && seat->n_open > seat->queue.count)
        seat->n_open--;
    pthread_mutex_unlock(&balancer->lock);
}

/* The member is gone, with all that it had taken; the next one begins with nothing.  Returns its generation. */
static unsigned ul_balancer_vacate(ul_balancer *balancer, int member)
{
    int64_t now_ns = ul_balancer_now_ns();
    ul_seat *seat = &balancer->seats[member];
    unsigned generation;

    pthread_mutex_lock(&balancer->lock);
    for (int i = 0; i < balancer->n_listeners; i++)
        if (balancer->listeners[i].serving[member]) {
            balancer->listeners[i].serving[member] = 0;
            balancer->listeners[i].n_serving--;
        }
    ul_take_back(balancer, member, -1, now_ns);
    seat->n_open = 0;
    seat->is_stalled = 0;
    generation = ++seat->generation;
    ul_signal(balancer->control_fd);
    pthread_mutex_unlock(&balancer->lock);
    return generation;
}
#endif
