/*
 * limit-io_uring: the echo server of common.h on io_uring, in the ways that were measured to be best.
 *
 * Words (the first of each line is the default):
 *   inc | fresh | poll     multishot RECV into provided buffers, from which the object is copied; one-shot RECVs straight
 *                          into fresh objects; or multishot polls and recv(2) straight into fresh objects
 *   skip | now             SENDs at the end of the turn (a single one by send(2)), or send(2) when the user's code writes
 *   fd | sqe               close(2), or CLOSE SQEs
 *   buffers=N              bytes of each of the four provided buffers (default 262144)
 *
 * A turn: submit and wait; get_events again while it brings more, since one call runs at most 20 deferred completions;
 * settle the SENDs; handle the completions; prepare the SENDs of what was written.
 *
 * Invariant: a SEND with MSG_DONTWAIT | MSG_WAITALL and IOSQE_CQE_SKIP_SUCCESS has ended when io_uring_enter has consumed
 * it. Without a CQE the socket has all bytes and the objects are freed; else its CQE is already there.
 *
 * Memory that the kernel touches: the provided buffers and their ring live as long as the process; `incoming` belongs to
 * the RECV until its CQE; queued objects and `gather` belong to the SEND until it is settled. A connection is freed when
 * nothing in flight names it: `n_in_flight`.
 */
#include "common.h"

#include <liburing.h>
#include <poll.h>

#define SQ_ENTRIES 2048
#define CQ_ENTRIES 8192
#define N_BUFFERS 4
#define ENOUGH_CQES 100

enum { TAG_RECEIVE, TAG_SEND, TAG_ACCEPT, TAG_NONE, TAG_MASK = 3 };
enum { RECEIVE_INC, RECEIVE_FRESH, RECEIVE_POLL };

static int how_to_receive = RECEIVE_INC, is_now, closes_by_sqe;
static size_t buffer_bytes = 256 * 1024;
static int listening_fd;
static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;
static size_t offsets[N_BUFFERS]; /* where the kernel's next byte goes in each buffer */
static struct connection **submitted; /* their SENDs post a CQE only if they fail */
static size_t n_submitted, submitted_capacity;

static int choose(const char *word)
{
    if (!strcmp(word, "inc"))
        how_to_receive = RECEIVE_INC;
    else if (!strcmp(word, "fresh"))
        how_to_receive = RECEIVE_FRESH;
    else if (!strcmp(word, "poll"))
        how_to_receive = RECEIVE_POLL;
    else if (!strcmp(word, "now") || !strcmp(word, "skip"))
        is_now = *word == 'n';
    else if (!strcmp(word, "fd") || !strcmp(word, "sqe"))
        closes_by_sqe = *word == 's';
    else if (!strncmp(word, "buffers=", 8))
        buffer_bytes = strtoul(word + 8, NULL, 10);
    else
        return 0;
    return buffer_bytes > 0;
}

static void die_of(int error, const char *what)
{
    errno = error;
    die(what);
}

static struct io_uring_sqe *next_sqe(struct connection *c, unsigned tag)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

    if (!sqe) {
        io_uring_submit(&ring);
        if (!(sqe = io_uring_get_sqe(&ring)))
            die("io_uring_get_sqe");
    }
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)c | tag);
    return sqe;
}

/* --- receiving --- */

static void arm_accept(void)
{
    io_uring_prep_multishot_accept(next_sqe(NULL, TAG_ACCEPT), listening_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static void arm_receive(struct connection *c)
{
    struct io_uring_sqe *sqe = next_sqe(c, TAG_RECEIVE);

    switch (how_to_receive) {
    case RECEIVE_INC:
        io_uring_prep_recv_multishot(sqe, c->fd, NULL, 0, 0);
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = 0;
        break;
    case RECEIVE_FRESH: /* `incoming` is released by the CQE, in received_fresh() or end() */
        c->incoming = new_object(c->capacity);
        io_uring_prep_recv(sqe, c->fd, c->incoming->data, c->capacity, 0);
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
        break;
    default:
        io_uring_prep_poll_multishot(sqe, c->fd, POLLIN);
    }
    c->n_in_flight++;
}

static void give_to_user(struct connection *c, struct object *object)
{
    data_received(c, object);
    if (!is_now || c->is_sending || !send_now(c))
        mark_dirty(c);
}

static void received_in_buffer(struct connection *c, const struct io_uring_cqe *cqe)
{
    unsigned short id = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    char *buffer = buffers + id * buffer_bytes;
    struct object *object = copy_object(buffer + offsets[id], (size_t)cqe->res);

    offsets[id] += (size_t)cqe->res;
    if (!(cqe->flags & IORING_CQE_F_BUF_MORE)) {
        offsets[id] = 0;
        io_uring_buf_ring_add(buffer_ring, buffer, (unsigned)buffer_bytes, id, N_BUFFERS - 1, 0);
        io_uring_buf_ring_advance(buffer_ring, 1);
    }
    give_to_user(c, object);
}

static void received_fresh(struct connection *c, size_t n)
{
    struct object *object = finish_object(c->incoming, c->capacity, n);

    c->incoming = NULL;
    learn_capacity(c, n);
    give_to_user(c, object);
}

/* A multishot poll reports once per arrival, so read until a short read shows that the socket is empty. */
static int read_polled(struct connection *c)
{
    for (;;) {
        size_t capacity = c->capacity;
        struct object *object = new_object(capacity);
        ssize_t n = recv(c->fd, object->data, capacity, 0);

        if (n <= 0) {
            free(object);
            return n < 0 && errno == EAGAIN;
        }
        learn_capacity(c, (size_t)n);
        give_to_user(c, finish_object(object, capacity, (size_t)n));
        if ((size_t)n < capacity)
            return 1;
    }
}

/* --- the end of a connection --- */

static void end_if_idle(struct connection *c)
{
    if (!c->has_ended || c->is_dirty || c->n_in_flight || c->is_sending || c->first)
        return;
    if (closes_by_sqe) {
        struct io_uring_sqe *sqe = next_sqe(NULL, TAG_NONE);
        io_uring_prep_close(sqe, c->fd);
        sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    } else {
        close(c->fd);
    }
    free_connection(c);
}

/* The receiving side is over: EOF or an error. */
static void end(struct connection *c, int is_armed)
{
    c->has_ended = 1;
    if (is_armed) { /* a multishot poll goes on after EOF; its last CQE brings us back */
        io_uring_prep_cancel64(next_sqe(NULL, TAG_NONE), (uint64_t)(uintptr_t)c | TAG_RECEIVE, 0);
        return;
    }
    end_if_idle(c);
}

/* --- sending --- */

static void prepare_send(struct connection *c, int is_quiet)
{
    struct io_uring_sqe *sqe = next_sqe(c, TAG_SEND);
    int flags = MSG_WAITALL | MSG_NOSIGNAL | (is_quiet ? MSG_DONTWAIT : 0);
    struct object *object = c->first;

    if (object->next)
        io_uring_prep_sendmsg(sqe, c->fd, &gather_output(c)->message, (unsigned)flags);
    else
        io_uring_prep_send(sqe, c->fd, object->data + object->n_sent, object->n_bytes - object->n_sent, flags);
    c->is_sending = 1;
    c->n_sending = object->next ? c->gather->message.msg_iovlen : 1;
    if (!is_quiet)
        return;
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
    if (n_submitted == submitted_capacity) {
        submitted_capacity = submitted_capacity ? 2 * submitted_capacity : 64;
        submitted = checked(realloc(submitted, submitted_capacity * sizeof *submitted));
    }
    submitted[n_submitted++] = c;
}

static void send_dirty(void)
{
    size_t n = n_dirty;

    n_dirty = 0;
    for (size_t i = 0; i < n; i++) {
        struct connection *c = dirty[i];

        c->is_dirty = 0;
        if (c->first && !c->is_sending) {
            if (n > 1) /* two and more are cheaper in one system call */
                prepare_send(c, 1);
            else if (!send_now(c))
                prepare_send(c, 0);
        }
        end_if_idle(c);
    }
}

/* A SEND that posts a CQE ended: it was short, failed, or waited for room. */
static void sent(struct connection *c, int result)
{
    c->is_sending = 0;
    if (result >= 0)
        took(c, (size_t)result);
    else if (result != -EAGAIN)
        while (c->first)
            took(c, c->first->n_bytes - c->first->n_sent);
    if (c->first)
        prepare_send(c, 0); /* waits for room in the socket */
    else
        end_if_idle(c);
}

/* Free what this turn's SENDs have sent; those that failed have a CQE, which sent() handles. */
static void settle(void)
{
    struct io_uring_cqe *cqe;
    unsigned head;
    size_t n = n_submitted;

    if (!n)
        return;
    io_uring_for_each_cqe(&ring, head, cqe) {
        if ((cqe->user_data & TAG_MASK) == TAG_SEND)
            ((struct connection *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAG_MASK))->has_failed = 1;
    }
    n_submitted = 0;
    for (size_t i = 0; i < n; i++) {
        struct connection *c = submitted[i];

        if (c->has_failed)
            continue;
        c->is_sending = 0;
        while (c->n_sending) {
            c->n_sending--;
            took(c, c->first->n_bytes - c->first->n_sent);
        }
        if (c->first)
            mark_dirty(c);
        else
            end_if_idle(c);
    }
}

/* --- the turn --- */

static void accepted(const struct io_uring_cqe *cqe)
{
    if (cqe->res >= 0)
        arm_receive(new_connection(cqe->res));
    else if (cqe->res != -ECONNABORTED)
        die_of(-cqe->res, "accept");
    if (!(cqe->flags & IORING_CQE_F_MORE))
        arm_accept();
}

static void received(struct connection *c, const struct io_uring_cqe *cqe)
{
    int has_more = !!(cqe->flags & IORING_CQE_F_MORE);

    if (!has_more)
        c->n_in_flight--;
    if (c->has_ended) {
        end_if_idle(c);
        return;
    }
    if (how_to_receive == RECEIVE_POLL) {
        if (cqe->res < 0 || !read_polled(c)) {
            end(c, has_more);
            return;
        }
    } else if (cqe->res > 0) {
        if (how_to_receive == RECEIVE_INC)
            received_in_buffer(c, cqe);
        else
            received_fresh(c, (size_t)cqe->res);
    } else if (cqe->res != -ENOBUFS) {
        end(c, has_more);
        return;
    }
    if (!has_more)
        arm_receive(c);
}

static void handle_completions(void)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&ring, head, cqe) {
        struct connection *c = (struct connection *)(uintptr_t)(cqe->user_data & ~(uint64_t)TAG_MASK);

        n++;
        switch (cqe->user_data & TAG_MASK) {
        case TAG_RECEIVE: received(c, cqe); break;
        case TAG_ACCEPT: accepted(cqe); break;
        case TAG_SEND: c->has_failed = 0; sent(c, cqe->res); break;
        default: break; /* a cancellation or a close */
        }
    }
    io_uring_cq_advance(&ring, n);
}

static void wait_for_completions(void)
{
    unsigned n_ready, n_before = 0;
    int result = io_uring_submit_and_wait(&ring, 1);

    if (result < 0 && result != -EINTR)
        die_of(-result, "io_uring_enter");
    while ((n_ready = io_uring_cq_ready(&ring)) > n_before && n_ready < ENOUGH_CQES
           && (IO_URING_READ_ONCE(*ring.sq.kflags) & IORING_SQ_TASKRUN)) {
        n_before = n_ready;
        io_uring_get_events(&ring);
    }
}

static void open_ring(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG
                 | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int error = -io_uring_queue_init_params(SQ_ENTRIES, &ring, &params);

    if (error)
        die_of(error, "io_uring_setup");
    if (io_uring_register_ring_fd(&ring) != 1)
        die("io_uring_register_ring_fd");
    buffer_ring = io_uring_setup_buf_ring(&ring, N_BUFFERS, 0, IOU_PBUF_RING_INC, &error);
    if (!buffer_ring)
        die_of(-error, "incremental buffers (since Linux 6.12)");
    buffers = checked(aligned_alloc(4096, N_BUFFERS * buffer_bytes));
    memset(buffers, 0, N_BUFFERS * buffer_bytes);
    for (unsigned short id = 0; id < N_BUFFERS; id++)
        io_uring_buf_ring_add(buffer_ring, buffers + id * buffer_bytes, (unsigned)buffer_bytes, id, N_BUFFERS - 1, id);
    io_uring_buf_ring_advance(buffer_ring, N_BUFFERS);
}

static void print_version(void)
{
    open_ring();
    printf("C (compiler %s, liburing %d.%d)\n", __VERSION__, io_uring_major_version(), io_uring_minor_version());
}

static void serve(int listener)
{
    listening_fd = listener;
    open_ring();
    arm_accept();
    for (;;) {
        wait_for_completions();
        settle();
        handle_completions();
        send_dirty();
    }
}
