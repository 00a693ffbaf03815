# liburing and our compat.h for the compiled core.  No bodies: the headers define the names.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "../liburing/compat.h" nogil:
    struct io_uring_sq:
        unsigned sqe_tail
        unsigned ring_entries
        io_uring_sqe *sqes
    struct io_uring_cq:
        unsigned *khead
        unsigned *ktail
        unsigned ring_mask
        unsigned ring_entries
        io_uring_cqe *cqes
    struct io_uring:
        int ring_fd
        int enter_ring_fd
        unsigned flags
        unsigned features
        io_uring_sq sq
        io_uring_cq cq
    struct io_uring_params:
        unsigned flags
        unsigned cq_entries
        unsigned features
    struct io_uring_sqe:
        unsigned char opcode
        unsigned char flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t timeout_flags
        uint64_t user_data
        uint16_t buf_group
        uint16_t buf_index
        uint32_t file_index
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct io_uring_buf_ring:
        pass
    struct io_uring_buf:
        pass
    struct __kernel_timespec:
        int64_t tv_sec
        long long tv_nsec
    struct msghdr:
        void *msg_iov
        size_t msg_iovlen

    int io_uring_queue_init_params(unsigned entries, io_uring *ring, io_uring_params *params)
    void io_uring_queue_exit(io_uring *ring)
    int io_uring_unregister_buf_ring(io_uring *ring, int group)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    void io_uring_smp_store_release(unsigned *pointer, unsigned value)

    void io_uring_prep_recv_multishot(io_uring_sqe *, int fd, void *, size_t, int flags)
    void io_uring_prep_send(io_uring_sqe *, int fd, const void *, size_t, int flags)
    void io_uring_prep_sendmsg(io_uring_sqe *, int fd, const msghdr *, unsigned flags)
    void io_uring_prep_multishot_accept(io_uring_sqe *, int fd, void *, void *, int flags)
    void io_uring_prep_poll_add(io_uring_sqe *, int fd, unsigned mask)
    void io_uring_prep_poll_multishot(io_uring_sqe *, int fd, unsigned mask)
    void io_uring_prep_nop(io_uring_sqe *)
    void io_uring_prep_timeout(io_uring_sqe *, __kernel_timespec *, unsigned count, unsigned flags)
    void io_uring_prep_cancel64(io_uring_sqe *, uint64_t user_data, int flags)

    unsigned IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_DEFER_TASKRUN, IORING_SETUP_TASKRUN_FLAG
    unsigned IORING_SETUP_COOP_TASKRUN, IORING_SETUP_R_DISABLED, IORING_SETUP_SUBMIT_ALL
    unsigned IORING_SETUP_CQSIZE, IORING_SETUP_CLAMP
    unsigned IORING_ENTER_GETEVENTS, IORING_ENTER_NO_IOWAIT
    unsigned IORING_FEAT_NODROP, IORING_FEAT_EXT_ARG, IORING_FEAT_CQE_SKIP, IORING_FEAT_NO_IOWAIT
    unsigned IORING_SQ_TASKRUN, IORING_SQ_CQ_OVERFLOW
    unsigned IORING_CQE_F_MORE, IORING_CQE_F_BUFFER, IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUF_MORE
    unsigned IORING_CQE_F_NOTIF
    unsigned IOSQE_ASYNC, IOSQE_BUFFER_SELECT, IOSQE_CQE_SKIP_SUCCESS, IOSQE_FIXED_FILE, IOSQE_IO_DRAIN
    unsigned IOSQE_IO_LINK, IOSQE_IO_HARDLINK
    unsigned IOU_PBUF_RING_INC
    int ECANCELED, ENOBUFS, ECONNABORTED, ETIME

    void ul_identity_sq_array(io_uring *ring)
    unsigned io_uring_sq_ready(io_uring *ring)
    unsigned io_uring_sq_space_left(io_uring *ring)
    unsigned io_uring_cq_ready(io_uring *ring)
    unsigned ul_sq_flags(io_uring *ring)
    unsigned ul_publish(io_uring *ring)
    int ul_enter(int ring_fd, unsigned to_submit, unsigned wait_count, unsigned flags, int64_t timeout_ns)
    int io_uring_enable_rings(io_uring *ring)
    int ul_register_buffer_ring(io_uring *ring, void *address, unsigned entries, unsigned group, unsigned flags)
    void io_uring_buf_ring_add(io_uring_buf_ring *, void *address, unsigned n_bytes, unsigned short, unsigned mask,
                               unsigned offset)
    void io_uring_buf_ring_advance(io_uring_buf_ring *, unsigned count)
    void ul_prep_cancel_any(io_uring_sqe *)
    bint ul_is_same_file(int one, int other)
    uint64_t ul_thread_serial()
    int ul_thread_number()
    bint ul_is_thread_gone(int number)
    bint ul_is_main_thread()
    bint ul_spin(io_uring *ring, const int *notified, int64_t until_ns)
    void ul_cpu_pause()
