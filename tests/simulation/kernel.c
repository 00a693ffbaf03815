/*
 * The kernel of a simulated run: io_uring, readiness and the clock in the process itself, with faults from a seed.
 *
 * Preloaded (LD_PRELOAD), and started by sim_start(). From then on a seccomp filter turns the system calls below into
 * SIGSYS, and the handler answers them: so the loop, liburing and CPython run unchanged, and what they see is a kernel
 * that does what the real one rarely does. Sockets, pipes and files are real ones, which this process alone uses.
 *
 *   io_uring_setup, _enter, _register   a ring in a memfd; requests are carried out without blocking, in an order and
 *                                       at times that the seed chooses
 *   epoll_wait, epoll_pwait2, poll ...  without a sleep; what a stalled socket has is not reported
 *   read, write, recv*, send*, accept4  shorter, later, interrupted, refused
 *   clock_gettime, nanosleep            virtual time, which only moves when everything waits (and a little with each
 *                                       look at the clock)
 *
 * All that happens goes into a hash (sim_digest), by which two runs of a seed are compared. A wait that nothing can end
 * is a lost wake-up: it is reported, and the process ends with status 97, as after any other rule that was broken.
 *
 * One thread only. x86-64 only: the registers of a system call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include "liburing/io_uring.h" /* the repository's copy: the system's may be older */
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "faults.h"

#define STATUS_BROKEN 97
#define MOST_FDS 4096
#define MOST_RINGS 16
#define MOST_GROUPS 8
#define MOST_BUFFERS 1024
#define MOST_EVENTS 512
#define DEFERRED_PER_ENTER 20 /* the real one's limit with DEFER_TASKRUN */
#define NEVER INT64_MAX
#define LOOK_NS 200 /* what a look at the clock takes */
#define HIGH_FD 2048 /* duplicates that requests hold begin here, so that programs get the numbers they always get */
#define MS 1000000LL
/* A stall hides the end, too: where that shows, a read or write would succeed, or fail for good. */
#define HIDDEN_WITH_INPUT (POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP | POLLERR)
#define HIDDEN_WITH_OUTPUT (POLLOUT | POLLWRNORM | POLLHUP | POLLERR)

/* -- system calls of our own, which the filter lets through ---------------------------------------------------- */

__asm__(".text\n.globl sim_raw\n.type sim_raw,@function\nsim_raw:\n"
        "mov %rdi,%rax\nmov %rsi,%rdi\nmov %rdx,%rsi\nmov %rcx,%rdx\nmov %r8,%r10\nmov %r9,%r8\nmov 8(%rsp),%r9\n"
        "syscall\n.globl sim_raw_end\nsim_raw_end:\nret\n");
extern long sim_raw(long number, long a, long b, long c, long d, long e, long f);
extern char sim_raw_end[];
#define RAW(number, a, b, c, d, e, f) \
    sim_raw(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

/* -- state ------------------------------------------------------------------------------------------------------ */

struct fd_state {
    int64_t no_input_until_ns, no_output_until_ns;
    unsigned n_stalls; /* the end of each is an event */
    int is_reset;
};

struct watch {
    struct watch *next;
    int epoll_fd, fd;
    struct epoll_event event;
};

struct op {
    struct op *next; /* in order of submission */
    struct op *link; /* what starts when this one is over */
    struct io_uring_sqe sqe;
    int fd, own_fd; /* the program's number, and a duplicate: the request keeps the file */
    int64_t due_ns;
    int64_t period_ns;
    unsigned last_mask;
    int last_bytes;
    unsigned last_stalls;
    int was_cancelled;
    int is_running;
};

struct cqe_list {
    struct cqe_list *next;
    struct io_uring_cqe cqe;
};

struct group {
    struct io_uring_buf_ring *ring;
    unsigned n_entries, id, flags;
    uint16_t head, seen_tail;
    unsigned char is_owned[MOST_BUFFERS];
};

struct ring {
    int fd, is_enabled;
    unsigned n_sq, n_cq;
    char *memory, *sqes;
    struct op *first, **last;
    struct cqe_list *overflow, **overflow_last;
    struct group groups[MOST_GROUPS];
    int n_groups;
    unsigned n_posted; /* in this call */
    int64_t n_posted_ever;
};

/* The offsets in the memfd; the SQEs are at IORING_OFF_SQES. */
enum { SQ_HEAD = 0, SQ_TAIL = 64, SQ_MASK = 128, SQ_ENTRIES = 132, SQ_FLAGS = 136, SQ_DROPPED = 140, CQ_HEAD = 192,
       CQ_TAIL = 256, CQ_MASK = 320, CQ_ENTRIES = 324, CQ_FLAGS = 328, CQ_OVERFLOW = 332, CQES = 384 };
#define U32(ring, offset) ((uint32_t *)((ring)->memory + (offset)))

static int is_started;
static int64_t now_ns = 1000000LL * 1000000000;
static uint64_t random_state, digest = 14695981039346656037ull;
static uint32_t odds[N_FAULTS]; /* in 65536ths */
static uint64_t n_faults[N_FAULTS];
static uint64_t n_events, n_looks;
static struct fd_state fds[MOST_FDS];
static struct watch *watches;
static struct ring rings[MOST_RINGS];
static int n_activity; /* the process has written somewhere since the last look at readiness */
static int is_tracing;
static char planted[32]; /* a bug of the kernel, for the tests of the simulation */

static void say(const char *form, ...)
{
    char text[400];
    va_list arguments;
    int n;

    va_start(arguments, form);
    n = vsnprintf(text, sizeof text - 1, form, arguments);
    va_end(arguments);
    text[n < (int)sizeof text - 1 ? n : (int)sizeof text - 2] = '\n';
    RAW(SYS_write, 2, text, n + 1 < (int)sizeof text ? n + 1 : (int)sizeof text - 1, 0, 0, 0);
}

static void broken(const char *rule)
{
    say("simulation: broken: %s (virtual time %lld ms, event %llu)", rule, (long long)(now_ns / MS),
        (unsigned long long)n_events);
    RAW(SYS_exit_group, STATUS_BROKEN, 0, 0, 0, 0, 0);
}

static uint64_t random_u64(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 2685821657736338717ull;
}

static uint64_t random_below(uint64_t n)
{
    return n ? (random_u64() >> 16) % n : 0;
}

static int happens(int fault)
{
    if (!odds[fault] || random_below(65536) >= odds[fault])
        return 0;
    n_faults[fault]++;
    return 1;
}

/* The one of i to n - 1 that comes next. */
static uint64_t chosen(uint64_t i, uint64_t n)
{
    uint64_t other = odds[FAULT_REORDER] ? i + random_below(n - i) : i;

    n_faults[FAULT_REORDER] += other != i;
    return other;
}

static void note(const char *what, int64_t a, int64_t b, int64_t c)
{
    int64_t values[5] = {what[0] | what[1] << 8, a, b, c, now_ns};

    for (size_t i = 0; i < sizeof values; i++)
        digest = (digest ^ ((unsigned char *)values)[i]) * 1099511628211ull;
    n_events++;
    if (is_tracing)
        say("%lld %s %lld %lld %lld", (long long)now_ns, what, (long long)a, (long long)b, (long long)c);
}

/* -- readiness --------------------------------------------------------------------------------------------------- */

static struct fd_state *state_of(int fd)
{
    static struct fd_state none;
    return fd >= 0 && fd < MOST_FDS ? &fds[fd] : &none;
}

static int is_socket(int fd)
{
    struct stat status;
    return RAW(SYS_fstat, fd, &status, 0, 0, 0, 0) == 0 && S_ISSOCK(status.st_mode);
}

static int is_stream(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;
    return RAW(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &size, 0) == 0 && type == SOCK_STREAM;
}

static unsigned filtered(int fd, unsigned mask)
{
    struct fd_state *state = state_of(fd);

    if (state->is_reset)
        return mask | POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP;
    if (state->no_input_until_ns > now_ns)
        mask &= ~HIDDEN_WITH_INPUT;
    if (state->no_output_until_ns > now_ns)
        mask &= ~HIDDEN_WITH_OUTPUT;
    return mask;
}

/* When a stall ends that hides something of `mask` now; NEVER if none does. */
static int64_t hidden_until_ns(int fd, unsigned mask)
{
    struct fd_state *state = state_of(fd);
    int64_t until_ns = NEVER;

    if (mask & HIDDEN_WITH_INPUT && state->no_input_until_ns > now_ns)
        until_ns = state->no_input_until_ns;
    if (mask & HIDDEN_WITH_OUTPUT && state->no_output_until_ns > now_ns && state->no_output_until_ns < until_ns)
        until_ns = state->no_output_until_ns;
    return until_ns;
}

static int watched_fd(int epoll_fd, uint64_t data)
{
    for (struct watch *one = watches; one; one = one->next)
        if (one->epoll_fd == epoll_fd && one->event.data.u64 == data)
            return one->fd;
    return -1;
}

/* Whether an epoll set has anything to report that is not hidden. */
static int is_set_ready(int epoll_fd, int64_t *hidden_ns)
{
    struct epoll_event seen[MOST_EVENTS];
    long n = RAW(SYS_epoll_wait, epoll_fd, seen, MOST_EVENTS, 0, 0, 0);

    for (long i = 0; i < n; i++) {
        int fd = watched_fd(epoll_fd, seen[i].data.u64);
        int64_t until_ns = hidden_until_ns(fd, seen[i].events);

        if (filtered(fd, seen[i].events))
            return 1;
        if (until_ns < *hidden_ns)
            *hidden_ns = until_ns;
    }
    return 0;
}

/* What poll(2) says of a file, without waiting; `own_fd` is that file, `fd` the number under which it may be stalled. */
static unsigned readiness(int own_fd, int fd, unsigned events, int64_t *hidden_ns)
{
    struct pollfd one = {own_fd, (short)events, 0};
    unsigned seen;
    int64_t until_ns;

    RAW(SYS_poll, &one, 1, 0, 0, 0, 0);
    seen = (unsigned short)one.revents;
    for (struct watch *set = watches; seen & POLLIN && set; set = set->next)
        if (set->epoll_fd == fd)
            return is_set_ready(fd, hidden_ns) ? seen : 0;
    until_ns = hidden_until_ns(fd, seen);
    if (until_ns < *hidden_ns)
        *hidden_ns = until_ns;
    return filtered(fd, seen) & (events | POLLERR | POLLHUP | POLLNVAL);
}

static void stall(int fd, int is_input)
{
    int64_t ns = (int64_t)random_below(200) * MS / (1 + random_below(100)) + 1;

    if (is_input)
        state_of(fd)->no_input_until_ns = now_ns + ns;
    else
        state_of(fd)->no_output_until_ns = now_ns + ns;
    state_of(fd)->n_stalls++;
    note("stall", fd, is_input, ns);
}

/* -- the ring: completions ----------------------------------------------------------------------------------------- */

static struct ring *ring_of(int fd)
{
    for (int i = 0; i < MOST_RINGS; i++)
        if (rings[i].memory && rings[i].fd == fd)
            return &rings[i];
    return NULL;
}

static unsigned n_visible(struct ring *ring)
{
    return *U32(ring, CQ_TAIL) - __atomic_load_n(U32(ring, CQ_HEAD), __ATOMIC_ACQUIRE);
}

static void put_cqe(struct ring *ring, const struct io_uring_cqe *cqe)
{
    unsigned tail = *U32(ring, CQ_TAIL);

    ((struct io_uring_cqe *)(ring->memory + CQES))[tail & (ring->n_cq - 1)] = *cqe;
    __atomic_store_n(U32(ring, CQ_TAIL), tail + 1, __ATOMIC_RELEASE);
}

static void set_flags(struct ring *ring)
{
    uint32_t flags = 0;

    /* A request that is in flight may complete at any moment: only an enter shows whether it has. */
    if (ring->first)
        flags |= IORING_SQ_TASKRUN;
    if (ring->overflow)
        flags |= IORING_SQ_CQ_OVERFLOW;
    __atomic_store_n(U32(ring, SQ_FLAGS), flags, __ATOMIC_RELEASE);
}

/* Post a completion; false if it did not fit into the CQ, which ends a multishot request. */
static int post(struct ring *ring, uint64_t user_data, int res, unsigned flags)
{
    struct io_uring_cqe cqe = {.user_data = user_data, .res = res, .flags = flags};
    struct cqe_list *kept;

    ring->n_posted++;
    ring->n_posted_ever++;
    if (!strcmp(planted, "lost") && random_below(50) == 0)
        return 1;
    if (!ring->overflow && n_visible(ring) < ring->n_cq && !happens(FAULT_OVERFLOW)) {
        note("cqe", user_data != 0, res, flags);
        put_cqe(ring, &cqe);
        return 1;
    }
    cqe.flags &= ~IORING_CQE_F_MORE;
    note("overflow", user_data != 0, res, cqe.flags);
    kept = malloc(sizeof *kept);
    *kept = (struct cqe_list){NULL, cqe};
    *ring->overflow_last = kept;
    ring->overflow_last = &kept->next;
    return 0;
}

static void flush_overflow(struct ring *ring)
{
    struct cqe_list *one;

    while ((one = ring->overflow) && n_visible(ring) < ring->n_cq) {
        put_cqe(ring, &one->cqe);
        ring->overflow = one->next;
        free(one);
    }
    if (!ring->overflow)
        ring->overflow_last = &ring->overflow;
}

/* -- the ring: provided buffers ------------------------------------------------------------------------------------ */

static struct group *group_of(struct ring *ring, unsigned id)
{
    for (int i = 0; i < ring->n_groups; i++)
        if (ring->groups[i].id == id)
            return &ring->groups[i];
    return NULL;
}

static struct io_uring_buf *next_buffer(struct group *group)
{
    uint16_t tail = __atomic_load_n(&group->ring->tail, __ATOMIC_ACQUIRE);

    for (; group->seen_tail != tail; group->seen_tail++) {
        struct io_uring_buf *given = &group->ring->bufs[group->seen_tail & (group->n_entries - 1)];
        if (given->bid >= MOST_BUFFERS || group->is_owned[given->bid])
            broken("a buffer was given back that the kernel still has");
        group->is_owned[given->bid] = 1;
    }
    return group->head == tail ? NULL : &group->ring->bufs[group->head & (group->n_entries - 1)];
}

/* The flags of a completion that has put `n` bytes into it. */
static unsigned use_buffer(struct group *group, struct io_uring_buf *buffer, unsigned n)
{
    unsigned flags = IORING_CQE_F_BUFFER | (unsigned)buffer->bid << IORING_CQE_BUFFER_SHIFT;

    if (group->flags & IOU_PBUF_RING_INC) {
        buffer->addr += n;
        buffer->len -= n;
        if (buffer->len)
            return flags | IORING_CQE_F_BUF_MORE;
    }
    group->is_owned[buffer->bid] = 0;
    group->head++;
    return flags;
}

/* -- the ring: requests -------------------------------------------------------------------------------------------- */

static void start(struct ring *ring, struct op *op);

static void free_op(struct op *op)
{
    if (op->own_fd >= 0)
        RAW(SYS_close, op->own_fd, 0, 0, 0, 0, 0);
    free(op);
}

static void remove_op(struct ring *ring, struct op *op)
{
    struct op **at = &ring->first;

    while (*at && *at != op)
        at = &(*at)->next;
    if (*at) {
        *at = op->next;
        if (ring->last == &op->next)
            ring->last = at;
    }
}

/* The request is over: its completion, then what is linked to it. */
static void finish(struct ring *ring, struct op *op, int res, unsigned flags)
{
    struct op *after = op->link;
    int has_failed = res < 0 && op->sqe.opcode != IORING_OP_TIMEOUT;

    if (op->sqe.opcode == IORING_OP_SEND || op->sqe.opcode == IORING_OP_SENDMSG) {
        /* with MSG_WAITALL a partial send is a failure, which posts a completion in any case */
        size_t asked = op->sqe.len;
        if (op->sqe.opcode == IORING_OP_SENDMSG) {
            const struct msghdr *message = (const struct msghdr *)(uintptr_t)op->sqe.addr;
            asked = 0;
            for (size_t i = 0; i < message->msg_iovlen; i++)
                asked += message->msg_iov[i].iov_len;
        }
        has_failed = res < 0 || (op->sqe.msg_flags & MSG_WAITALL && (size_t)res < asked);
    }
    remove_op(ring, op);
    if (has_failed || !(op->sqe.flags & IOSQE_CQE_SKIP_SUCCESS))
        post(ring, op->sqe.user_data, res, flags);
    op->link = NULL;
    if (after && has_failed && !(op->sqe.flags & IOSQE_IO_HARDLINK)) {
        free_op(op);
        while (after) {
            struct op *following = after->link;
            after->link = NULL;
            post(ring, after->sqe.user_data, -ECANCELED, 0);
            free_op(after);
            after = following;
        }
        return;
    }
    free_op(op);
    if (after)
        start(ring, after);
}

/* A completion of a multishot request, which ends with it if the seed says so, or if it did not fit into the CQ. */
static void post_more(struct ring *ring, struct op *op, int res, unsigned flags)
{
    if (happens(FAULT_END_MULTISHOT)) {
        finish(ring, op, res, flags);
    } else if (!post(ring, op->sqe.user_data, res, flags | IORING_CQE_F_MORE)) {
        remove_op(ring, op);
        free_op(op);
    }
}

static void run_poll(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    unsigned wanted = op->sqe.poll32_events & 0xffff;
    unsigned seen = readiness(op->own_fd, op->fd, wanted, hidden_ns);
    int n_bytes = -1;

    if (!seen) {
        op->last_mask = 0;
        return;
    }
    if (!(op->sqe.len & IORING_POLL_ADD_MULTI)) {
        finish(ring, op, (int)seen, 0);
        return;
    }
    /* Once per change, as its wake-ups do; one too many is allowed, one too few is not. */
    if (seen & POLLIN)
        RAW(SYS_ioctl, op->own_fd, FIONREAD, &n_bytes, 0, 0, 0);
    if (op->last_mask == seen && op->last_stalls == state_of(op->fd)->n_stalls && op->last_bytes == n_bytes
        && !(n_activity && (n_bytes < 0 || random_below(8) == 0)))
        return;
    op->last_stalls = state_of(op->fd)->n_stalls;
    op->last_mask = seen;
    op->last_bytes = n_bytes;
    post_more(ring, op, (int)seen, 0);
}

static void run_recv(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    struct group *group = op->sqe.flags & IOSQE_BUFFER_SELECT ? group_of(ring, op->sqe.buf_group) : NULL;
    int is_multishot = op->sqe.ioprio & IORING_RECV_MULTISHOT;
    struct io_uring_buf *buffer = NULL;
    unsigned flags = 0;
    size_t n = op->sqe.len;
    void *memory = (void *)(uintptr_t)op->sqe.addr;
    long res;

    if (!readiness(op->own_fd, op->fd, POLLIN | POLLRDHUP, hidden_ns)) {
        if (op->sqe.msg_flags & MSG_DONTWAIT)
            finish(ring, op, -EAGAIN, 0);
        return;
    }
    if (state_of(op->fd)->is_reset) {
        finish(ring, op, -ECONNRESET, 0);
        return;
    }
    if (op->sqe.flags & IOSQE_BUFFER_SELECT) {
        buffer = group && !happens(FAULT_NO_BUFFERS) ? next_buffer(group) : NULL;
        if (!buffer) {
            finish(ring, op, -ENOBUFS, 0);
            return;
        }
        memory = (void *)(uintptr_t)buffer->addr;
        if (!n || n > buffer->len)
            n = buffer->len;
    }
    if (is_stream(op->own_fd) && happens(FAULT_SHORT_READ))
        n = 1 + random_below(n < 300 ? n : 300);
    res = RAW(SYS_recvfrom, op->own_fd, memory, n, MSG_DONTWAIT, 0, 0);
    if (res == -EAGAIN)
        return;
    if (res > 0 && !strcmp(planted, "changed") && random_below(50) == 0)
        ((char *)memory)[res / 2] ^= 1;
    if (res > 0 && buffer)
        flags = use_buffer(group, buffer, (unsigned)res);
    if (res > 0 && happens(FAULT_STALL))
        stall(op->fd, 1);
    if (res > 0 && is_multishot)
        post_more(ring, op, (int)res, flags);
    else
        finish(ring, op, (int)res, flags);
}

static void run_send(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    struct msghdr message = {0};
    struct iovec one, cut;
    int is_short = 0;
    long res;

    if (state_of(op->fd)->is_reset) {
        finish(ring, op, -EPIPE, 0);
        return;
    }
    if (!readiness(op->own_fd, op->fd, POLLOUT, hidden_ns)) {
        if (op->sqe.msg_flags & MSG_DONTWAIT)
            finish(ring, op, -EAGAIN, 0);
        return;
    }
    if (op->sqe.opcode == IORING_OP_SEND) {
        one = (struct iovec){(void *)(uintptr_t)op->sqe.addr, op->sqe.len};
        message.msg_iov = &one;
        message.msg_iovlen = 1;
    } else {
        message = *(struct msghdr *)(uintptr_t)op->sqe.addr;
    }
    if (is_stream(op->own_fd) && message.msg_iovlen && message.msg_iov[0].iov_len > 1 && happens(FAULT_SHORT_WRITE)) {
        is_short = 1;
        cut = (struct iovec){message.msg_iov[0].iov_base, 1 + random_below(message.msg_iov[0].iov_len - 1)};
        message.msg_iov = &cut;
        message.msg_iovlen = 1;
    }
    res = RAW(SYS_sendmsg, op->own_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0, 0);
    if (res == -EAGAIN && !(op->sqe.msg_flags & MSG_DONTWAIT))
        return;
    n_activity = 1;
    if (res > 0 && (is_short || happens(FAULT_STALL)))
        stall(op->fd, 0); /* less than asked means that there was no more room */
    finish(ring, op, (int)res, 0);
}

static void run_accept(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    long res;

    if (!readiness(op->own_fd, op->fd, POLLIN, hidden_ns))
        return;
    if (happens(FAULT_ACCEPT)) {
        static const int errors[] = {ECONNABORTED, EMFILE, ENOBUFS, ENOMEM};
        finish(ring, op, -errors[random_below(4)], 0);
        return;
    }
    res = RAW(SYS_accept4, op->own_fd, op->sqe.addr, op->sqe.addr2, op->sqe.accept_flags, 0, 0);
    if (res == -EAGAIN)
        return;
    if (res >= 0 && res < MOST_FDS)
        fds[res] = (struct fd_state){0};
    n_activity = 1;
    if (res >= 0 && op->sqe.ioprio & IORING_ACCEPT_MULTISHOT)
        post_more(ring, op, (int)res, 0);
    else
        finish(ring, op, (int)res, 0);
}

static void run_timeout(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    if (op->due_ns > now_ns) {
        if (op->due_ns < *hidden_ns)
            *hidden_ns = op->due_ns;
        return;
    }
    if (!(op->sqe.timeout_flags & IORING_TIMEOUT_MULTISHOT) || (op->sqe.off && --op->sqe.off == 0)) {
        finish(ring, op, -ETIME, 0);
        return;
    }
    op->due_ns += op->period_ns;
    post_more(ring, op, -ETIME, 0);
}

/* Reads and writes of files, and what else has no readiness: carried out as it is. */
static void run_file(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    struct io_uring_sqe *sqe = &op->sqe;
    size_t n = sqe->len;
    long res;

    if (op->due_ns > now_ns) {
        if (op->due_ns < *hidden_ns)
            *hidden_ns = op->due_ns;
        return;
    }
    switch (sqe->opcode) {
    case IORING_OP_READ:
    case IORING_OP_WRITE:
        if ((int64_t)sqe->off == -1
            && !readiness(op->own_fd, op->fd, sqe->opcode == IORING_OP_READ ? POLLIN : POLLOUT, hidden_ns))
            return;
        if (n > 1 && happens(sqe->opcode == IORING_OP_READ ? FAULT_SHORT_READ : FAULT_SHORT_WRITE))
            n = 1 + random_below(n - 1);
        if ((int64_t)sqe->off == -1)
            res = RAW(sqe->opcode == IORING_OP_READ ? SYS_read : SYS_write, op->own_fd, sqe->addr, n, 0, 0, 0);
        else
            res = RAW(sqe->opcode == IORING_OP_READ ? SYS_pread64 : SYS_pwrite64, op->own_fd, sqe->addr, n, sqe->off, 0,
                      0);
        n_activity = 1;
        break;
    case IORING_OP_OPENAT:
        res = RAW(SYS_openat, op->fd, sqe->addr, sqe->open_flags, sqe->len, 0, 0);
        if (res >= 0 && res < MOST_FDS)
            fds[res] = (struct fd_state){0};
        break;
    case IORING_OP_CLOSE:
        res = RAW(SYS_close, op->fd, 0, 0, 0, 0, 0);
        if (res == -EBADF)
            broken("an fd was closed that was not open");
        n_activity = 1;
        break;
    case IORING_OP_FSYNC:
        res = RAW(SYS_fsync, op->own_fd, 0, 0, 0, 0, 0);
        break;
    default:
        res = -EINVAL;
        say("simulation: opcode %d is not simulated", sqe->opcode);
    }
    finish(ring, op, (int)res, 0);
}

static int is_waiting_kind(const struct op *op)
{
    return op->sqe.opcode == IORING_OP_POLL_ADD || op->sqe.opcode == IORING_OP_RECV
        || op->sqe.opcode == IORING_OP_ACCEPT || op->sqe.opcode == IORING_OP_TIMEOUT;
}

static void run(struct ring *ring, struct op *op, int64_t *hidden_ns)
{
    if (op->was_cancelled || (is_waiting_kind(op) && !random_below(16) && happens(FAULT_CANCELED))) {
        finish(ring, op, -ECANCELED, 0);
        return;
    }
    switch (op->sqe.opcode) {
    case IORING_OP_NOP:
        finish(ring, op, 0, 0);
        break;
    case IORING_OP_POLL_ADD:
        run_poll(ring, op, hidden_ns);
        break;
    case IORING_OP_RECV:
        run_recv(ring, op, hidden_ns);
        break;
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
        run_send(ring, op, hidden_ns);
        break;
    case IORING_OP_ACCEPT:
        run_accept(ring, op, hidden_ns);
        break;
    case IORING_OP_TIMEOUT:
        run_timeout(ring, op, hidden_ns);
        break;
    default:
        run_file(ring, op, hidden_ns);
    }
}

static int is_hit_by(const struct op *op, const struct io_uring_sqe *cancel)
{
    if (cancel->cancel_flags & IORING_ASYNC_CANCEL_ANY)
        return 1;
    if (cancel->cancel_flags & IORING_ASYNC_CANCEL_FD)
        return op->fd == cancel->fd;
    return op->sqe.user_data == cancel->addr;
}

/* The request may still complete before it is cancelled, and its last completion may come later. */
static int cancel(struct ring *ring, const struct io_uring_sqe *cancel)
{
    int n_cancelled = 0;
    int64_t hidden_ns = NEVER;

    for (struct op *op = ring->first, *next; op; op = next) {
        next = op->next;
        if (op->was_cancelled || !is_hit_by(op, cancel))
            continue;
        n_cancelled++;
        if (op->sqe.opcode != IORING_OP_TIMEOUT && happens(FAULT_RACE)) {
            int64_t n_before = ring->n_posted_ever;
            run(ring, op, &hidden_ns);
            if (ring->n_posted_ever != n_before) {
                struct op *still = ring->first;
                while (still && still != op)
                    still = still->next;
                if (!still)
                    op = NULL;
            }
        }
        if (op)
            op->was_cancelled = 1; /* run() ends it, in this call or in a later one */
        if (!(cancel->cancel_flags & IORING_ASYNC_CANCEL_ALL))
            return 0;
        next = ring->first; /* the list may have changed */
    }
    return cancel->cancel_flags & IORING_ASYNC_CANCEL_ALL ? n_cancelled : n_cancelled ? 0 : -ENOENT;
}

static int holds_file(const struct op *op)
{
    switch (op->sqe.opcode) {
    case IORING_OP_POLL_ADD:
    case IORING_OP_RECV:
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_ACCEPT:
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_FSYNC:
        return 1;
    }
    return 0;
}

static void start(struct ring *ring, struct op *op)
{
    int64_t hidden_ns = NEVER;

    op->next = NULL;
    if (op->sqe.opcode == IORING_OP_ASYNC_CANCEL) {
        finish(ring, op, cancel(ring, &op->sqe), 0);
        return;
    }
    if (holds_file(op)) {
        op->own_fd = (int)RAW(SYS_fcntl, op->fd, F_DUPFD_CLOEXEC, HIGH_FD, 0, 0, 0);
        if (op->own_fd < 0) {
            finish(ring, op, -EBADF, 0);
            return;
        }
    }
    *ring->last = op;
    ring->last = &op->next;
    if (op->sqe.opcode == IORING_OP_TIMEOUT) {
        const struct __kernel_timespec *given = (const struct __kernel_timespec *)(uintptr_t)op->sqe.addr;
        op->period_ns = given->tv_sec * 1000000000LL + given->tv_nsec;
        op->due_ns = op->sqe.timeout_flags & IORING_TIMEOUT_ABS ? op->period_ns : now_ns + op->period_ns;
        return;
    }
    if (op->sqe.opcode == IORING_OP_OPENAT || op->sqe.opcode == IORING_OP_READ || op->sqe.opcode == IORING_OP_WRITE
        || op->sqe.opcode == IORING_OP_CLOSE || op->sqe.opcode == IORING_OP_FSYNC) {
        if (happens(FAULT_LATE)) {
            op->due_ns = now_ns + 1 + (int64_t)random_below(20 * MS);
            return;
        }
    } else if (!(op->sqe.opcode == IORING_OP_NOP || op->sqe.msg_flags & MSG_DONTWAIT) && happens(FAULT_LATE)) {
        return; /* it is looked at later in this call, or in the next one */
    }
    run(ring, op, &hidden_ns);
}

static unsigned submit(struct ring *ring, unsigned n)
{
    unsigned head = *U32(ring, SQ_HEAD), n_done = 0;
    struct op *chain = NULL, *end = NULL;

    while (n_done < n && head != __atomic_load_n(U32(ring, SQ_TAIL), __ATOMIC_ACQUIRE)) {
        uint32_t *array = (uint32_t *)(ring->memory + CQES + ring->n_cq * sizeof(struct io_uring_cqe));
        struct op *op = calloc(1, sizeof *op);

        op->sqe = ((struct io_uring_sqe *)ring->sqes)[array[head & (ring->n_sq - 1)]];
        op->fd = op->sqe.fd;
        op->own_fd = -1;
        note("sqe", op->sqe.opcode, op->fd, op->sqe.flags);
        __atomic_store_n(U32(ring, SQ_HEAD), ++head, __ATOMIC_RELEASE);
        n_done++;
        if (!chain)
            chain = op;
        else
            end->link = op;
        end = op;
        if (!(op->sqe.flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK))) {
            start(ring, chain);
            chain = NULL;
        }
    }
    if (chain)
        start(ring, chain); /* a chain ends with the call */
    return n_done;
}

/* Whether an earlier request of the same kind waits on the same file: those keep their order. */
static int is_behind(struct ring *ring, const struct op *op)
{
    if (op->sqe.opcode == IORING_OP_POLL_ADD)
        return 0;
    for (const struct op *earlier = ring->first; earlier && earlier != op; earlier = earlier->next)
        if (earlier->fd == op->fd && earlier->sqe.opcode == op->sqe.opcode && earlier->own_fd >= 0)
            return 1;
    return 0;
}

/* Carry out what can be, in an order that the seed chooses; returns how many completions that made. */
static unsigned run_deferred(struct ring *ring, int64_t *hidden_ns)
{
    struct op *all[4096];
    unsigned n = 0, n_before = ring->n_posted;

    for (struct op *op = ring->first; op && n < 4096; op = op->next)
        all[n++] = op;
    for (unsigned i = 0; i < n; i++) {
        struct op *still = ring->first;
        uint64_t other = chosen(i, n);
        struct op *op = all[other];

        all[other] = all[i];
        while (still && still != op)
            still = still->next;
        if (!still || is_behind(ring, still))
            continue;
        run(ring, still, hidden_ns);
        if (ring->n_posted - n_before >= DEFERRED_PER_ENTER)
            break;
    }
    n_activity = 0;
    return ring->n_posted - n_before;
}

/* -- the calls ------------------------------------------------------------------------------------------------------ */

static long setup(unsigned n_entries, struct io_uring_params *params)
{
    const unsigned known = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL
        | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG
        | IORING_SETUP_COOP_TASKRUN;
    struct ring *ring = NULL;
    size_t n_bytes;

    if (params->flags & ~known)
        return -EINVAL;
    for (int i = 0; i < MOST_RINGS && !ring; i++)
        if (!rings[i].memory)
            ring = &rings[i];
    if (!ring)
        return -ENOMEM;
    memset(ring, 0, sizeof *ring);
    for (ring->n_sq = 1; ring->n_sq < n_entries;)
        ring->n_sq *= 2;
    for (ring->n_cq = 2; ring->n_cq < (params->flags & IORING_SETUP_CQSIZE ? params->cq_entries : 2 * ring->n_sq);)
        ring->n_cq *= 2;
    ring->fd = (int)RAW(SYS_memfd_create, "[io_uring]", MFD_CLOEXEC, 0, 0, 0, 0);
    n_bytes = CQES + ring->n_cq * sizeof(struct io_uring_cqe) + ring->n_sq * sizeof(uint32_t);
    RAW(SYS_ftruncate, ring->fd, IORING_OFF_SQES + ring->n_sq * sizeof(struct io_uring_sqe), 0, 0, 0, 0);
    ring->memory = (char *)RAW(SYS_mmap, 0, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, 0);
    ring->sqes = (char *)RAW(SYS_mmap, 0, ring->n_sq * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED,
                             ring->fd, IORING_OFF_SQES);
    ring->last = &ring->first;
    ring->overflow_last = &ring->overflow;
    ring->is_enabled = !(params->flags & IORING_SETUP_R_DISABLED);
    *U32(ring, SQ_MASK) = ring->n_sq - 1;
    *U32(ring, SQ_ENTRIES) = ring->n_sq;
    *U32(ring, CQ_MASK) = ring->n_cq - 1;
    *U32(ring, CQ_ENTRIES) = ring->n_cq;
    params->sq_entries = ring->n_sq;
    params->cq_entries = ring->n_cq;
    params->features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE
        | IORING_FEAT_RW_CUR_POS | IORING_FEAT_FAST_POLL | IORING_FEAT_POLL_32BITS | IORING_FEAT_EXT_ARG
        | IORING_FEAT_NATIVE_WORKERS | IORING_FEAT_CQE_SKIP | IORING_FEAT_LINKED_FILE;
    params->sq_off = (struct io_sqring_offsets){.head = SQ_HEAD, .tail = SQ_TAIL, .ring_mask = SQ_MASK,
        .ring_entries = SQ_ENTRIES, .flags = SQ_FLAGS, .dropped = SQ_DROPPED,
        .array = (unsigned)(CQES + ring->n_cq * sizeof(struct io_uring_cqe))};
    params->cq_off = (struct io_cqring_offsets){.head = CQ_HEAD, .tail = CQ_TAIL, .ring_mask = CQ_MASK,
        .ring_entries = CQ_ENTRIES, .overflow = CQ_OVERFLOW, .cqes = CQES, .flags = CQ_FLAGS};
    note("setup", ring->n_sq, ring->n_cq, params->flags);
    return ring->fd;
}

static void close_ring(struct ring *ring)
{
    while (ring->first) {
        struct op *op = ring->first;
        ring->first = op->next;
        for (struct op *link = op->link, *after; link; link = after) {
            after = link->link;
            free_op(link);
        }
        free_op(op);
    }
    for (struct cqe_list *one = ring->overflow, *after; one; one = after) {
        after = one->next;
        free(one);
    }
    RAW(SYS_munmap, ring->memory, CQES + ring->n_cq * sizeof(struct io_uring_cqe) + ring->n_sq * sizeof(uint32_t), 0, 0,
        0, 0);
    RAW(SYS_munmap, ring->sqes, ring->n_sq * sizeof(struct io_uring_sqe), 0, 0, 0, 0);
    ring->memory = NULL;
}

static long do_register(struct ring *ring, unsigned what, void *argument, unsigned n)
{
    struct io_uring_buf_reg *given = argument;
    struct group *group;

    switch (what & ~IORING_REGISTER_USE_REGISTERED_RING) {
    case IORING_REGISTER_ENABLE_RINGS:
        ring->is_enabled = 1;
        return 0;
    case IORING_REGISTER_PROBE: {
        struct io_uring_probe *probe = argument;
        static const int has[] = {IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_SENDMSG,
            IORING_OP_ACCEPT, IORING_OP_TIMEOUT, IORING_OP_ASYNC_CANCEL, IORING_OP_READ, IORING_OP_WRITE,
            IORING_OP_OPENAT, IORING_OP_CLOSE, IORING_OP_FSYNC};
        memset(probe, 0, sizeof *probe + n * sizeof probe->ops[0]);
        probe->last_op = (uint8_t)(IORING_OP_LAST - 1);
        probe->ops_len = (uint8_t)(n < IORING_OP_LAST ? n : IORING_OP_LAST);
        for (unsigned i = 0; i < probe->ops_len; i++)
            probe->ops[i].op = (uint8_t)i;
        for (unsigned i = 0; i < sizeof has / sizeof has[0]; i++)
            if (has[i] < probe->ops_len)
                probe->ops[has[i]].flags = IO_URING_OP_SUPPORTED;
        return 0;
    }
    case IORING_REGISTER_PBUF_RING:
        if (ring->n_groups == MOST_GROUPS || given->ring_entries > MOST_BUFFERS || group_of(ring, given->bgid))
            return -EEXIST;
        group = &ring->groups[ring->n_groups++];
        memset(group, 0, sizeof *group);
        group->ring = (struct io_uring_buf_ring *)(uintptr_t)given->ring_addr;
        group->n_entries = given->ring_entries;
        group->id = given->bgid;
        group->flags = given->flags;
        return 0;
    case IORING_UNREGISTER_PBUF_RING:
        group = group_of(ring, given->bgid);
        if (!group)
            return -ENOENT;
        *group = ring->groups[--ring->n_groups];
        return 0;
    }
    return -EINVAL;
}

/* The virtual clock moves to the first of what may end a wait; false: that is the end of its time. */
static int sleep_until(int64_t event_ns, int64_t deadline_ns)
{
    if (event_ns == NEVER && deadline_ns == NEVER)
        broken("the loop waits for ever, and nothing can wake it");
    if (event_ns <= deadline_ns) {
        now_ns = event_ns;
        return 1;
    }
    if (deadline_ns > now_ns)
        now_ns = deadline_ns;
    if (happens(FAULT_LATE_TIMER))
        now_ns += (int64_t)random_below(30 * MS);
    if (happens(FAULT_SUSPEND))
        now_ns += (int64_t)random_below(3600 * 1000 * MS);
    return 0;
}

static long enter(struct ring *ring, unsigned to_submit, unsigned wanted, unsigned flags, void *argument)
{
    unsigned n = to_submit, done;
    int64_t deadline_ns = NEVER;

    if (!ring->is_enabled)
        return -EBADFD;
    if (flags & IORING_ENTER_EXT_ARG) {
        const struct io_uring_getevents_arg *given = argument;
        const struct __kernel_timespec *timeout = (const struct __kernel_timespec *)(uintptr_t)given->ts;
        if (timeout)
            deadline_ns = now_ns + timeout->tv_sec * 1000000000LL + timeout->tv_nsec;
    }
    if (n && happens(FAULT_ENTER))
        return random_below(2) ? -EAGAIN : -EBUSY;
    if (n > 1 && happens(FAULT_PARTIAL_SUBMIT))
        n = 1 + (unsigned)random_below(n - 1);
    ring->n_posted = 0;
    done = submit(ring, n);
    if (done != to_submit || !(flags & IORING_ENTER_GETEVENTS)) {
        set_flags(ring);
        return done;
    }
    flush_overflow(ring);
    for (;;) {
        int64_t event_ns = NEVER;
        unsigned n_made = run_deferred(ring, &event_ns);

        flush_overflow(ring);
        if (n_visible(ring) >= wanted)
            break;
        if (happens(FAULT_EINTR)) {
            set_flags(ring);
            return done ? (long)done : -EINTR;
        }
        if (!n_made && !sleep_until(event_ns, deadline_ns)) {
            set_flags(ring);
            return done ? (long)done : -ETIME;
        }
    }
    set_flags(ring);
    return done;
}

static long do_epoll_ctl(int epoll_fd, int what, int fd, struct epoll_event *event)
{
    long res = RAW(SYS_epoll_ctl, epoll_fd, what, fd, event, 0, 0);
    struct watch **at = &watches;

    if (res < 0)
        return res;
    while (*at && ((*at)->epoll_fd != epoll_fd || (*at)->fd != fd))
        at = &(*at)->next;
    if (what == EPOLL_CTL_DEL) {
        if (*at) {
            struct watch *gone = *at;
            *at = gone->next;
            free(gone);
        }
        return res;
    }
    if (!*at)
        *at = calloc(1, sizeof **at);
    (*at)->epoll_fd = epoll_fd;
    (*at)->fd = fd;
    (*at)->event = *event;
    return res;
}

static long do_epoll_wait(int epoll_fd, struct epoll_event *events, int n_most, int64_t timeout_ns)
{
    int64_t deadline_ns = timeout_ns < 0 ? NEVER : now_ns + timeout_ns;
    struct epoll_event seen[MOST_EVENTS];

    for (;;) {
        int64_t event_ns = NEVER;
        long n = RAW(SYS_epoll_wait, epoll_fd, seen, MOST_EVENTS, 0, 0, 0);
        int n_given = 0;

        if (n < 0)
            return n;
        for (long i = 0; i < n; i++) {
            uint64_t other = chosen((uint64_t)i, (uint64_t)n);
            struct epoll_event one = seen[other];
            int fd = watched_fd(epoll_fd, one.data.u64);
            int64_t until_ns = hidden_until_ns(fd, one.events);

            seen[other] = seen[i];
            if (until_ns < event_ns)
                event_ns = until_ns;
            one.events = filtered(fd, one.events);
            if (one.events && n_given < n_most && !(n_given && happens(FAULT_LATE)))
                events[n_given++] = one;
        }
        if (n_given || timeout_ns == 0) {
            note("epoll", epoll_fd, n_given, n);
            return n_given;
        }
        if (happens(FAULT_EINTR))
            return -EINTR;
        if (!sleep_until(event_ns, deadline_ns))
            return 0;
    }
}

static long do_poll(struct pollfd *all, unsigned long n, int64_t timeout_ns)
{
    int64_t deadline_ns = timeout_ns < 0 ? NEVER : now_ns + timeout_ns;

    for (;;) {
        int64_t event_ns = NEVER;
        long n_given = 0;
        long res = RAW(SYS_poll, all, n, 0, 0, 0, 0);

        if (res < 0)
            return res;
        for (unsigned long i = 0; i < n; i++) {
            int64_t until_ns;
            unsigned seen = (unsigned short)all[i].revents;
            if (!seen || all[i].fd < 0)
                continue;
            until_ns = hidden_until_ns(all[i].fd, seen);
            if (until_ns < event_ns)
                event_ns = until_ns;
            all[i].revents = (short)(filtered(all[i].fd, seen)
                                     & ((unsigned short)all[i].events | POLLERR | POLLHUP | POLLNVAL));
            if (all[i].revents && n_given && happens(FAULT_LATE))
                all[i].revents = 0;
            n_given += all[i].revents != 0;
        }
        if (n_given || timeout_ns == 0) {
            note("poll", (int64_t)n, n_given, res);
            return n_given;
        }
        if (happens(FAULT_EINTR))
            return -EINTR;
        if (!sleep_until(event_ns, deadline_ns))
            return 0;
    }
}

static int is_nonblocking(int fd, int flags)
{
    return flags & MSG_DONTWAIT || RAW(SYS_fcntl, fd, F_GETFL, 0, 0, 0, 0) & O_NONBLOCK;
}

static void cut_vector(const struct iovec *vector, size_t n, struct iovec *cut)
{
    cut->iov_base = n ? vector[0].iov_base : NULL;
    cut->iov_len = n && vector[0].iov_len > 1 ? 1 + random_below(vector[0].iov_len - 1) : n ? vector[0].iov_len : 0;
}

/* read(2), recv(2), write(2), send(2) and their vectors, by the program itself. */
static long transfer(long number, int fd, long a, long b, long c, long d, long e)
{
    int is_message = number == SYS_sendmsg || number == SYS_recvmsg;
    int is_vector = number == SYS_writev || number == SYS_readv;
    int is_input = number == SYS_read || number == SYS_recvfrom || number == SYS_recvmsg || number == SYS_readv;
    int flags = number == SYS_recvfrom || number == SYS_sendto ? (int)c : is_message ? (int)b : 0;
    struct fd_state *state = state_of(fd);
    struct msghdr shorter;
    struct iovec cut;
    long res;

    if (fd <= 2 || !is_socket(fd) || flags & MSG_PEEK)
        return RAW(number, fd, a, b, c, d, e);
    if (state->is_reset)
        return is_input ? -ECONNRESET : -EPIPE;
    if (is_nonblocking(fd, flags)) {
        if ((is_input ? state->no_input_until_ns : state->no_output_until_ns) > now_ns)
            return -EAGAIN;
        if (happens(FAULT_STALL)) {
            stall(fd, is_input);
            return -EAGAIN;
        }
        if (is_stream(fd) && happens(is_input ? FAULT_SHORT_READ : FAULT_SHORT_WRITE)) {
            if (!is_input)
                stall(fd, 0); /* less than asked means that there was no more room */
            if (is_message) {
                shorter = *(struct msghdr *)a;
                cut_vector(shorter.msg_iov, shorter.msg_iovlen, &cut);
                shorter.msg_iov = &cut;
                shorter.msg_iovlen = 1;
                res = RAW(number, fd, &shorter, b, 0, 0, 0);
                if (is_input) {
                    ((struct msghdr *)a)->msg_controllen = shorter.msg_controllen;
                    ((struct msghdr *)a)->msg_flags = shorter.msg_flags;
                }
                goto done;
            }
            if (is_vector) {
                cut_vector((const struct iovec *)a, (size_t)b, &cut);
                res = RAW(number, fd, &cut, 1, 0, 0, 0);
                goto done;
            }
            if (b > 1)
                b = 1 + (long)random_below((uint64_t)b - 1);
        }
    }
    res = RAW(number, fd, a, b, c, d, e);
done:
    note(is_input ? "in" : "out", fd, res, 0);
    n_activity = 1;
    return res;
}

static long do_accept(int fd, long a, long b, long c)
{
    long res;

    if (happens(FAULT_ACCEPT)) {
        static const int errors[] = {ECONNABORTED, EMFILE, ENOBUFS, ENOMEM};
        return -errors[random_below(4)];
    }
    res = RAW(SYS_accept4, fd, a, b, c, 0, 0);
    if (res >= 0 && res < MOST_FDS)
        fds[res] = (struct fd_state){0};
    n_activity = 1;
    return res;
}

static long do_close(int fd)
{
    struct ring *ring = ring_of(fd);
    long res;

    if (ring)
        close_ring(ring);
    res = RAW(SYS_close, fd, 0, 0, 0, 0, 0);
    note("close", fd, res, 0);
    if (res == -EBADF)
        broken("an fd was closed that was not open");
    *state_of(fd) = (struct fd_state){0};
    n_activity = 1;
    for (struct watch **at = &watches; *at;) {
        struct watch *one = *at;
        if (one->fd == fd || one->epoll_fd == fd) {
            *at = one->next;
            free(one);
        } else {
            at = &one->next;
        }
    }
    return res;
}

static int64_t ns_of(const struct timespec *given)
{
    return given ? given->tv_sec * 1000000000LL + given->tv_nsec : -1;
}

static long look(clockid_t clock, struct timespec *seen)
{
    if (clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock > 11 || clock < 0)
        return RAW(SYS_clock_gettime, clock, seen, 0, 0, 0, 0);
    now_ns += LOOK_NS;
    n_looks++;
    seen->tv_sec = now_ns / 1000000000;
    seen->tv_nsec = now_ns % 1000000000;
    return 0;
}

static long nap(clockid_t clock, int flags, const struct timespec *given)
{
    int64_t ns = ns_of(given);

    (void)clock;
    now_ns = flags & TIMER_ABSTIME ? (ns > now_ns ? ns : now_ns) : now_ns + ns;
    return 0;
}

static long answer(long number, long a, long b, long c, long d, long e, long f)
{
    struct ring *ring;

    switch (number) {
    case SYS_io_uring_setup:
        return setup((unsigned)a, (struct io_uring_params *)b);
    case SYS_io_uring_enter:
        return (ring = ring_of((int)a)) ? enter(ring, (unsigned)b, (unsigned)c, (unsigned)d, (void *)e) : -EBADF;
    case SYS_io_uring_register:
        return (ring = ring_of((int)a)) ? do_register(ring, (unsigned)b, (void *)c, (unsigned)d) : -EBADF;
    case SYS_epoll_ctl:
        return do_epoll_ctl((int)a, (int)b, (int)c, (struct epoll_event *)d);
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        return do_epoll_wait((int)a, (struct epoll_event *)b, (int)c, (int)d < 0 ? -1 : (int)d * MS);
    case SYS_epoll_pwait2:
        return do_epoll_wait((int)a, (struct epoll_event *)b, (int)c, ns_of((const struct timespec *)d));
    case SYS_poll:
        return do_poll((struct pollfd *)a, (unsigned long)b, (int)c < 0 ? -1 : (int)c * MS);
    case SYS_ppoll:
        return do_poll((struct pollfd *)a, (unsigned long)b, ns_of((const struct timespec *)c));
    case SYS_clock_gettime:
        return look((clockid_t)a, (struct timespec *)b);
    case SYS_nanosleep:
        return nap(CLOCK_MONOTONIC, 0, (const struct timespec *)a);
    case SYS_clock_nanosleep:
        return nap((clockid_t)a, (int)b, (const struct timespec *)c);
    case SYS_accept4:
        return do_accept((int)a, b, c, d);
    case SYS_close:
        return do_close((int)a);
    case SYS_shutdown:
        n_activity = 1;
        break;
    case SYS_read:
    case SYS_write:
    case SYS_readv:
    case SYS_writev:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_sendto:
    case SYS_sendmsg:
        return transfer(number, (int)a, b, c, d, e, f);
    }
    return RAW(number, a, b, c, d, e, f);
}

static void on_sigsys(int signal_number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int saved_errno = errno;

    (void)signal_number;
    registers[REG_RAX] = answer(info->si_syscall, (long)registers[REG_RDI], (long)registers[REG_RSI],
                                (long)registers[REG_RDX], (long)registers[REG_R10], (long)registers[REG_R8],
                                (long)registers[REG_R9]);
    errno = saved_errno;
}

/* -- for the program ------------------------------------------------------------------------------------------------ */

/* In place of the C library's, which reads the clock without a system call. */
int clock_gettime(clockid_t clock, struct timespec *seen)
{
    long res = is_started ? look(clock, seen) : RAW(SYS_clock_gettime, clock, seen, 0, 0, 0, 0);

    if (res < 0) {
        errno = (int)-res;
        return -1;
    }
    return 0;
}

void sim_odds(int fault, unsigned in_65536ths)
{
    odds[fault] = in_65536ths;
}

/* "lost": a completion is dropped; "changed": a byte of received data is another one. */
void sim_plant(const char *name)
{
    strncpy(planted, name, sizeof planted - 1);
}

void sim_trace(int is_on)
{
    is_tracing = is_on;
}

uint64_t sim_digest(void)
{
    return digest;
}

uint64_t sim_events(void)
{
    return n_events;
}

uint64_t sim_faults(int fault)
{
    return n_faults[fault];
}

int64_t sim_now_ns(void)
{
    return now_ns;
}

/* The peer has gone: this end sees a reset, the other one the end of the stream. */
void sim_reset(int fd)
{
    state_of(fd)->is_reset = 1;
    n_faults[FAULT_RESET]++;
    RAW(SYS_shutdown, fd, SHUT_RDWR, 0, 0, 0, 0);
    n_activity = 1;
    note("reset", fd, 0, 0);
}

/* Returns 0, or the errno of a machine that refuses the filter. */
int sim_start(uint64_t seed)
{
    static const unsigned trapped[] = {SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_epoll_ctl,
        SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_poll, SYS_ppoll, SYS_clock_gettime, SYS_nanosleep,
        SYS_clock_nanosleep, SYS_accept4, SYS_close, SYS_shutdown, SYS_read, SYS_write, SYS_readv, SYS_writev,
        SYS_recvfrom, SYS_recvmsg, SYS_sendto, SYS_sendmsg};
    enum { N = sizeof trapped / sizeof trapped[0] };
    const uint64_t own = (uint64_t)(uintptr_t)sim_raw_end;
    struct sock_filter filter[8 + N] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)own, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(own >> 32), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    struct sock_fprog program = {8 + N, filter};
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_NODEFER};

    for (unsigned i = 0; i < N; i++)
        filter[6 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, trapped[i], (uint8_t)(N - i), 0);
    filter[6 + N] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[7 + N] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    random_state = seed * 0x9E3779B97F4A7C15ull + 0x1234567;
    for (int i = 0; i < 8; i++)
        random_u64();
    if (sigaction(SIGSYS, &action, NULL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return errno;
    is_started = 1;
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        is_started = 0;
        return errno;
    }
    return 0;
}
