/*
 * The echo mode of the load client on io_uring, included by loadgen.c if liburing is installed.
 *
 * On epoll the client needs as much CPU per small message as a fast server, so that it limits the rate, not the loop
 * under test.  Multishot receives into provided buffers, and sends that share a system call, make it about a quarter
 * cheaper.
 * Large messages use epoll: there copies matter, and epoll can avoid them.  So do few connections: otherwise client and
 * server would take turns, a batch each, and neither would be busy.
 */
#include <liburing.h>
#include <sys/mman.h>

#define RING_BUFFERS 256
#define RING_BUFFER_BYTES 4096
#define RING_LARGEST_BYTES 4096 /* messages up to this size use the ring */

#define RING_CONNECTIONS 100

static struct io_uring ring;
static struct io_uring_buf_ring *buffer_ring;
static char *buffers;

static struct io_uring_sqe *next_sqe(struct connection *all, struct connection *c, int is_send)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

    if (!sqe) {
        io_uring_submit(&ring);
        if (!(sqe = io_uring_get_sqe(&ring)))
            die("io_uring_get_sqe");
    }
    io_uring_sqe_set_data64(sqe, (uint64_t)(c - all) << 1 | (unsigned)is_send);
    return sqe;
}

/* prep clears user_data in some versions of liburing, so it is set afterwards. */
static void ring_receive(struct connection *all, struct connection *c)
{
    struct io_uring_sqe *sqe = next_sqe(all, c, 0);

    io_uring_prep_recv_multishot(sqe, c->fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
    io_uring_sqe_set_data64(sqe, (uint64_t)(c - all) << 1);
}

/* One send at a time per socket; `wants_out`: one is in flight. */
static void ring_send(struct connection *all, struct connection *c)
{
    struct io_uring_sqe *sqe;
    const char *data;
    size_t n;

    if (c->wants_out || !c->to_send)
        return;
    data = next_piece(c, &n);
    sqe = next_sqe(all, c, 1);
    io_uring_prep_send(sqe, c->fd, data, n, MSG_WAITALL | MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, (uint64_t)(c - all) << 1 | 1);
    c->wants_out = 1;
}

static void ring_setup(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = 8192,
    };
    struct io_uring_buf_reg reg = {.ring_entries = RING_BUFFERS};
    int error = io_uring_queue_init_params(2048, &ring, &params);

    if (!error) {
        buffer_ring = mmap(NULL, RING_BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE,
                           MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);
        buffers = malloc((size_t)RING_BUFFERS * RING_BUFFER_BYTES);
        reg.ring_addr = (uint64_t)(uintptr_t)buffer_ring;
        error = buffer_ring == MAP_FAILED || !buffers ? -ENOMEM : io_uring_register_buf_ring(&ring, &reg, 0);
    }
    if (error) {
        errno = -error;
        die("io_uring");
    }
    for (int i = 0; i < RING_BUFFERS; i++)
        io_uring_buf_ring_add(buffer_ring, buffers + (size_t)i * RING_BUFFER_BYTES, RING_BUFFER_BYTES,
                              (unsigned short)i, RING_BUFFERS - 1, i);
    io_uring_buf_ring_advance(buffer_ring, RING_BUFFERS);
}

static void ring_received(struct connection *all, struct connection *c, struct io_uring_cqe *cqe)
{
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        unsigned short id = (unsigned short)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
        char *data = buffers + (size_t)id * RING_BUFFER_BYTES;
        unsigned n_complete = received(c, data, (size_t)cqe->res);
        uint64_t t = n_complete ? now_ns() : 0;

        io_uring_buf_ring_add(buffer_ring, data, RING_BUFFER_BYTES, id, RING_BUFFERS - 1, 0);
        io_uring_buf_ring_advance(buffer_ring, 1);
        while (n_complete--) {
            count_message(c->sent_ns[c->head], t);
            c->head = (c->head + 1) % opt.depth;
            begin_message(c, t);
        }
        ring_send(all, c);
    } else if (cqe->res != -ENOBUFS) {
        errno = cqe->res < 0 ? -cqe->res : 0;
        die("receive: %s", cqe->res ? "failed" : "the server closed a connection");
    }
    if (!(cqe->flags & IORING_CQE_F_MORE))
        ring_receive(all, c);
}

static void run_on_ring(struct connection *all)
{
    struct __kernel_timespec tick = {.tv_nsec = 100000000};
    uint64_t window_ns = now_ns() + (uint64_t)(opt.warmup_seconds * 1e9);
    uint64_t stop_ns = window_ns + (uint64_t)(opt.seconds * 1e9);

    ring_setup();
    for (int i = 0; i < opt.n_connections; i++) {
        ring_receive(all, &all[i]);
        for (unsigned d = 0; d < opt.depth; d++)
            begin_message(&all[i], now_ns());
        ring_send(all, &all[i]);
    }
    for (;;) {
        struct io_uring_cqe *cqe;
        unsigned head, n = 0;
        uint64_t t;

        io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &tick, NULL);
        t = now_ns();
        if (!is_measuring && t >= window_ns)
            begin_window();
        if (t >= stop_ns)
            break;
        io_uring_for_each_cqe(&ring, head, cqe) {
            struct connection *c = &all[cqe->user_data >> 1];

            n++;
            if (!(cqe->user_data & 1)) {
                ring_received(all, c, cqe);
                continue;
            }
            if (cqe->res < 0) {
                errno = -cqe->res;
                die("send");
            }
            c->wants_out = 0;
            took(c, (size_t)cqe->res);
            ring_send(all, c);
        }
        io_uring_cq_advance(&ring, n);
    }
    end_window();
}
