/*
 * Functions of a newer liburing that the installed one lacks, by the kernel's documented ABI (io_uring_enter(2),
 * io_uring_register(2)), under liburing's names, so that every build of `uringloop.liburing.lib` is alike.
 *
 * build_ffi.py reads the header and defines UL_LACKS_<name> for each that is missing or known to be wrong (then
 * the name is a macro for another one), and missing numbers by enums.py; the others are liburing's own.  The
 * kernel may still be too old for a request: its completion is then -EINVAL.
 */
#ifndef URINGLOOP_NEWER_H
#define URINGLOOP_NEWER_H

#include "compat.h"
#include <fcntl.h>
#include <linux/ioctl.h>
#include <stddef.h>

#ifndef FUTEX_WAITV_MAX
struct futex_waitv { /* headers older than Linux 5.16 */
    __u64 val;
    __u64 uaddr;
    __u32 flags;
    __u32 __reserved;
};
#endif

#define UL_BLOCK_CMD_DISCARD _IO(0x12, 0) /* BLOCK_URING_CMD_DISCARD, since Linux 6.12 */

static inline uint64_t ul_address(const void *pointer)
{
    return (uint64_t)(uintptr_t)pointer;
}

/* Every field but user_data, which belongs to the code that submits; fields not named here are zero. */
static inline void ul_fill(struct io_uring_sqe *sqe, int op, int fd, const void *addr, uint32_t len, uint64_t off)
{
    uint64_t user_data = sqe->user_data;

    memset(sqe, 0, sizeof *sqe);
    sqe->user_data = user_data;
    sqe->opcode = (uint8_t)op;
    sqe->fd = fd;
    sqe->addr = ul_address(addr);
    sqe->len = len;
    sqe->off = off;
}

/*
 * The slot of the registered file table that takes a new file: one more than the index, 0 for an ordinary fd,
 * and ~0 for any free slot, which is what IORING_FILE_INDEX_ALLOC is already.
 */
static inline uint32_t ul_file_slot(unsigned index)
{
    return index == IORING_FILE_INDEX_ALLOC ? index : index + 1;
}

#ifdef UL_LACKS_io_uring_sqe_set_buf_group
static inline void io_uring_sqe_set_buf_group(struct io_uring_sqe *sqe, int bgid)
{
    sqe->buf_group = (uint16_t)bgid;
}
#endif

/* -- files ---------------------------------------------------------------------------------------------- */

#ifdef UL_LACKS_io_uring_prep_readv_fixed
static inline void io_uring_prep_readv_fixed(struct io_uring_sqe *sqe, int fd, const struct iovec *iovecs,
                                             unsigned nr_vecs, __u64 offset, int flags, int buf_index)
{
    ul_fill(sqe, IORING_OP_READV_FIXED, fd, iovecs, nr_vecs, offset);
    sqe->rw_flags = flags;
    sqe->buf_index = (uint16_t)buf_index;
}
#endif

#ifdef UL_LACKS_io_uring_prep_writev_fixed
static inline void io_uring_prep_writev_fixed(struct io_uring_sqe *sqe, int fd, const struct iovec *iovecs,
                                              unsigned nr_vecs, __u64 offset, int flags, int buf_index)
{
    ul_fill(sqe, IORING_OP_WRITEV_FIXED, fd, iovecs, nr_vecs, offset);
    sqe->rw_flags = flags;
    sqe->buf_index = (uint16_t)buf_index;
}
#endif

#ifdef UL_LACKS_io_uring_prep_read_multishot
static inline void io_uring_prep_read_multishot(struct io_uring_sqe *sqe, int fd, unsigned nbytes, __u64 offset,
                                                int buf_group)
{
    ul_fill(sqe, IORING_OP_READ_MULTISHOT, fd, NULL, nbytes, offset);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = (uint16_t)buf_group;
}
#endif

#ifdef UL_LACKS_io_uring_prep_open
static inline void io_uring_prep_open(struct io_uring_sqe *sqe, const char *path, int flags, mode_t mode)
{
    ul_fill(sqe, IORING_OP_OPENAT, AT_FDCWD, path, mode, 0);
    sqe->open_flags = (uint32_t)flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_open_direct
static inline void io_uring_prep_open_direct(struct io_uring_sqe *sqe, const char *path, int flags, mode_t mode,
                                             unsigned file_index)
{
    ul_fill(sqe, IORING_OP_OPENAT, AT_FDCWD, path, mode, 0);
    sqe->open_flags = (uint32_t)flags;
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_openat_direct
static inline void io_uring_prep_openat_direct(struct io_uring_sqe *sqe, int dfd, const char *path, int flags,
                                               mode_t mode, unsigned file_index)
{
    ul_fill(sqe, IORING_OP_OPENAT, dfd, path, mode, 0);
    sqe->open_flags = (uint32_t)flags;
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_openat2_direct
static inline void io_uring_prep_openat2_direct(struct io_uring_sqe *sqe, int dfd, const char *path,
                                                struct open_how *how, unsigned file_index)
{
    ul_fill(sqe, IORING_OP_OPENAT2, dfd, path, sizeof *how, ul_address(how));
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_ftruncate
static inline void io_uring_prep_ftruncate(struct io_uring_sqe *sqe, int fd, int64_t len)
{
    ul_fill(sqe, IORING_OP_FTRUNCATE, fd, NULL, 0, (uint64_t)len);
}
#endif

/* The 64-bit length is in addr; kernels before 6.10 do not read that, and take 0: up to the end. */
#ifdef UL_LACKS_io_uring_prep_fadvise64
static inline void io_uring_prep_fadvise64(struct io_uring_sqe *sqe, int fd, __u64 offset, off_t len, int advice)
{
    ul_fill(sqe, IORING_OP_FADVISE, fd, NULL, 0, offset);
    sqe->addr = (uint64_t)len;
    sqe->fadvise_advice = (uint32_t)advice;
}
#endif

#ifdef UL_LACKS_io_uring_prep_madvise64
static inline void io_uring_prep_madvise64(struct io_uring_sqe *sqe, void *addr, off_t length, int advice)
{
    ul_fill(sqe, IORING_OP_MADVISE, -1, addr, 0, (uint64_t)length);
    sqe->fadvise_advice = (uint32_t)advice;
}
#endif

#ifdef UL_LACKS_io_uring_prep_pipe
static inline void io_uring_prep_pipe(struct io_uring_sqe *sqe, int *fds, int pipe_flags)
{
    ul_fill(sqe, IORING_OP_PIPE, 0, fds, 0, 0);
    sqe->rw_flags = pipe_flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_pipe_direct
static inline void io_uring_prep_pipe_direct(struct io_uring_sqe *sqe, int *fds, int pipe_flags,
                                             unsigned file_index)
{
    ul_fill(sqe, IORING_OP_PIPE, 0, fds, 0, 0);
    sqe->rw_flags = pipe_flags;
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_fixed_fd_install
static inline void io_uring_prep_fixed_fd_install(struct io_uring_sqe *sqe, int fd, unsigned flags)
{
    ul_fill(sqe, IORING_OP_FIXED_FD_INSTALL, fd, NULL, 0, 0);
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->rw_flags = (int)flags;
}
#endif

/* -- sockets -------------------------------------------------------------------------------------------- */

#ifdef UL_LACKS_io_uring_prep_socket_direct
static inline void io_uring_prep_socket_direct(struct io_uring_sqe *sqe, int domain, int type, int protocol,
                                               unsigned file_index, unsigned flags)
{
    ul_fill(sqe, IORING_OP_SOCKET, domain, NULL, (uint32_t)protocol, (uint32_t)type);
    sqe->rw_flags = (int)flags;
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_accept_direct
static inline void io_uring_prep_accept_direct(struct io_uring_sqe *sqe, int fd, struct sockaddr *addr,
                                               socklen_t *addrlen, int flags, unsigned file_index)
{
    ul_fill(sqe, IORING_OP_ACCEPT, fd, addr, 0, ul_address(addrlen));
    sqe->accept_flags = (uint32_t)flags;
    sqe->file_index = ul_file_slot(file_index);
}
#endif

#ifdef UL_LACKS_io_uring_prep_bind
static inline void io_uring_prep_bind(struct io_uring_sqe *sqe, int fd, const struct sockaddr *addr,
                                      socklen_t addrlen)
{
    ul_fill(sqe, IORING_OP_BIND, fd, addr, 0, addrlen);
}
#endif

#ifdef UL_LACKS_io_uring_prep_listen
static inline void io_uring_prep_listen(struct io_uring_sqe *sqe, int fd, int backlog)
{
    ul_fill(sqe, IORING_OP_LISTEN, fd, NULL, (uint32_t)backlog, 0);
}
#endif

#ifdef UL_LACKS_io_uring_prep_send_bundle
static inline void io_uring_prep_send_bundle(struct io_uring_sqe *sqe, int sockfd, size_t len, int flags)
{
    ul_fill(sqe, IORING_OP_SEND, sockfd, NULL, (uint32_t)len, 0);
    sqe->msg_flags = (uint32_t)flags;
    sqe->ioprio = IORING_RECVSEND_BUNDLE;
}
#endif

#ifdef UL_LACKS_io_uring_prep_sendto
static inline void io_uring_prep_sendto(struct io_uring_sqe *sqe, int sockfd, const void *buf, size_t len,
                                        int flags, const struct sockaddr *addr, socklen_t addrlen)
{
    ul_fill(sqe, IORING_OP_SEND, sockfd, buf, (uint32_t)len, ul_address(addr));
    sqe->msg_flags = (uint32_t)flags;
    sqe->addr_len = (uint16_t)addrlen;
}
#endif

#ifdef UL_LACKS_io_uring_prep_sendmsg_zc_fixed
static inline void io_uring_prep_sendmsg_zc_fixed(struct io_uring_sqe *sqe, int fd, const struct msghdr *msg,
                                                  unsigned flags, unsigned buf_index)
{
    ul_fill(sqe, IORING_OP_SENDMSG_ZC, fd, msg, 1, 0);
    sqe->msg_flags = flags;
    sqe->ioprio = IORING_RECVSEND_FIXED_BUF;
    sqe->buf_index = (uint16_t)buf_index;
}
#endif

/* -- commands ------------------------------------------------------------------------------------------- */

static inline void ul_fill_command(struct io_uring_sqe *sqe, int op, int command, int fd)
{
    ul_fill(sqe, op, fd, NULL, 0, 0);
    sqe->cmd_op = (uint32_t)command;
}

#ifdef UL_LACKS_io_uring_prep_uring_cmd
static inline void io_uring_prep_uring_cmd(struct io_uring_sqe *sqe, int cmd_op, int fd)
{
    ul_fill_command(sqe, IORING_OP_URING_CMD, cmd_op, fd);
}
#endif

/* For rings of 128-byte SQEs only: the caller fills the bytes after the first 64. */
#ifdef UL_LACKS_io_uring_prep_uring_cmd128
static inline void io_uring_prep_uring_cmd128(struct io_uring_sqe *sqe, int cmd_op, int fd)
{
    ul_fill_command(sqe, IORING_OP_URING_CMD128, cmd_op, fd);
}
#endif

#ifdef UL_LACKS_io_uring_prep_nop128
static inline void io_uring_prep_nop128(struct io_uring_sqe *sqe)
{
    ul_fill(sqe, IORING_OP_NOP128, -1, NULL, 0, 0);
}
#endif

#ifdef UL_LACKS_io_uring_prep_cmd_sock
static inline void io_uring_prep_cmd_sock(struct io_uring_sqe *sqe, int cmd_op, int fd, int level, int optname,
                                          void *optval, int optlen)
{
    uint32_t level_and_name[2] = {(uint32_t)level, (uint32_t)optname}; /* they lie where addr is */

    ul_fill_command(sqe, IORING_OP_URING_CMD, cmd_op, fd);
    memcpy(&sqe->addr, level_and_name, sizeof level_and_name);
    sqe->file_index = (uint32_t)optlen; /* optlen has its place */
    sqe->addr3 = ul_address(optval);    /* and optval has this one's */
}
#endif

#ifdef UL_LACKS_io_uring_prep_cmd_getsockname
static inline void io_uring_prep_cmd_getsockname(struct io_uring_sqe *sqe, int fd, struct sockaddr *sockaddr,
                                                 socklen_t *sockaddr_len, int peer)
{
    ul_fill_command(sqe, IORING_OP_URING_CMD, SOCKET_URING_OP_GETSOCKNAME, fd);
    sqe->addr = ul_address(sockaddr);
    sqe->addr3 = ul_address(sockaddr_len);
    sqe->file_index = (uint32_t)peer;
}
#endif

#ifdef UL_LACKS_io_uring_prep_cmd_discard
static inline void io_uring_prep_cmd_discard(struct io_uring_sqe *sqe, int fd, uint64_t offset, uint64_t nbytes)
{
    ul_fill_command(sqe, IORING_OP_URING_CMD, UL_BLOCK_CMD_DISCARD, fd);
    sqe->addr = offset;
    sqe->addr3 = nbytes;
}
#endif

/* -- waiting -------------------------------------------------------------------------------------------- */

#ifdef UL_LACKS_io_uring_prep_epoll_wait
static inline void io_uring_prep_epoll_wait(struct io_uring_sqe *sqe, int fd, struct epoll_event *events,
                                            int maxevents, unsigned flags)
{
    ul_fill(sqe, IORING_OP_EPOLL_WAIT, fd, events, (uint32_t)maxevents, 0);
    sqe->rw_flags = (int)flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_waitid
static inline void io_uring_prep_waitid(struct io_uring_sqe *sqe, int idtype, unsigned id, siginfo_t *infop,
                                        int options, unsigned flags)
{
    ul_fill(sqe, IORING_OP_WAITID, (int)id, NULL, (uint32_t)idtype, ul_address(infop));
    sqe->file_index = (uint32_t)options;
    sqe->rw_flags = (int)flags;
}
#endif

/* The word's FUTEX2_* flags are in fd; `flags` is for flags of the request, of which there are none. */
#ifdef UL_LACKS_io_uring_prep_futex_wait
static inline void io_uring_prep_futex_wait(struct io_uring_sqe *sqe, uint32_t *futex, uint64_t val,
                                            uint64_t mask, uint32_t futex_flags, unsigned flags)
{
    ul_fill(sqe, IORING_OP_FUTEX_WAIT, (int)futex_flags, futex, 0, val);
    sqe->addr3 = mask;
    sqe->rw_flags = (int)flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_futex_wake
static inline void io_uring_prep_futex_wake(struct io_uring_sqe *sqe, uint32_t *futex, uint64_t val,
                                            uint64_t mask, uint32_t futex_flags, unsigned flags)
{
    ul_fill(sqe, IORING_OP_FUTEX_WAKE, (int)futex_flags, futex, 0, val);
    sqe->addr3 = mask;
    sqe->rw_flags = (int)flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_futex_waitv
static inline void io_uring_prep_futex_waitv(struct io_uring_sqe *sqe, const struct futex_waitv *futex,
                                             uint32_t nr_futex, unsigned flags)
{
    ul_fill(sqe, IORING_OP_FUTEX_WAITV, 0, futex, nr_futex, 0);
    sqe->rw_flags = (int)flags;
}
#endif

/* -- messages to another ring --------------------------------------------------------------------------- */

#ifdef UL_LACKS_io_uring_prep_msg_ring_cqe_flags
static inline void io_uring_prep_msg_ring_cqe_flags(struct io_uring_sqe *sqe, int fd, unsigned len, __u64 data,
                                                    unsigned flags, unsigned cqe_flags)
{
    ul_fill(sqe, IORING_OP_MSG_RING, fd, NULL, len, data);
    sqe->msg_ring_flags = flags | IORING_MSG_RING_FLAGS_PASS;
    sqe->file_index = cqe_flags;
}
#endif

/* addr says which message; a slot is given as for the requests that open files. */
#ifdef UL_LACKS_io_uring_prep_msg_ring_fd
static inline void io_uring_prep_msg_ring_fd(struct io_uring_sqe *sqe, int fd, int source_fd, int target_fd,
                                             __u64 data, unsigned flags)
{
    ul_fill(sqe, IORING_OP_MSG_RING, fd, NULL, 0, data);
    sqe->addr = IORING_MSG_SEND_FD;
    sqe->addr3 = (uint64_t)source_fd;
    sqe->file_index = ul_file_slot((unsigned)target_fd);
    sqe->msg_ring_flags = flags;
}
#endif

#ifdef UL_LACKS_io_uring_prep_msg_ring_fd_alloc
static inline void io_uring_prep_msg_ring_fd_alloc(struct io_uring_sqe *sqe, int fd, int source_fd, __u64 data,
                                                   unsigned flags)
{
    io_uring_prep_msg_ring_fd(sqe, fd, source_fd, (int)IORING_FILE_INDEX_ALLOC, data, flags);
}
#endif

/* -- rings ---------------------------------------------------------------------------------------------- */

static inline size_t ul_buffer_ring_bytes(unsigned entries)
{
    return entries * sizeof(struct io_uring_buf);
}

#ifdef UL_LACKS_io_uring_setup_buf_ring
static inline struct io_uring_buf_ring *io_uring_setup_buf_ring(struct io_uring *ring, unsigned nentries, int bgid,
                                                                unsigned flags, int *err)
{
    size_t n_bytes = ul_buffer_ring_bytes(nentries);
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_PRIVATE, -1, 0);

    if (memory == MAP_FAILED) {
        *err = -errno;
        return NULL;
    }
    *err = ul_register_buffer_ring(ring, memory, nentries, (unsigned)bgid, flags);
    if (*err < 0) {
        munmap(memory, n_bytes);
        return NULL;
    }
    return memory;
}
#endif

#ifdef UL_LACKS_io_uring_free_buf_ring
static inline int io_uring_free_buf_ring(struct io_uring *ring, struct io_uring_buf_ring *br, unsigned nentries,
                                         int bgid)
{
    int result = io_uring_unregister_buf_ring(ring, bgid);

    if (result >= 0)
        munmap(br, ul_buffer_ring_bytes(nentries));
    return result;
}
#endif

#ifdef UL_LACKS_io_uring_buf_ring_head
static inline int io_uring_buf_ring_head(struct io_uring *ring, int buf_group, uint16_t *head)
{
    uint32_t status[10] = {(uint32_t)buf_group}; /* in: the group; out: [1], the head; the rest is reserved */

    if (syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_PBUF_STATUS, status, 1) < 0)
        return -errno;
    *head = (uint16_t)status[1];
    return 0;
}
#endif

#ifdef UL_LACKS_io_uring_buf_ring_available
static inline int io_uring_buf_ring_available(struct io_uring *ring, struct io_uring_buf_ring *br,
                                              unsigned short bgid)
{
    uint16_t head = 0;
    int result = io_uring_buf_ring_head(ring, bgid, &head);

    return result < 0 ? result : (uint16_t)(br->tail - head);
}
#endif

/*
 * The place of the SQ array after a resize, which Linux 6.18 does not report: behind the CQEs, at the next cache line
 * (measured: an array there that names other slots is obeyed).  64 bytes is also right for larger cache lines,
 * from 16 CQEs on.
 */
static inline uint32_t ul_sq_array_offset(const struct io_uring_params *p, unsigned flags)
{
    uint32_t cqe_bytes = sizeof(struct io_uring_cqe) << !!(flags & IORING_SETUP_CQE32);

    return (p->cq_off.cqes + p->cq_entries * cqe_bytes + 63) & ~63U;
}

/*
 * The kernel moves queued entries into rings of the new size; they are mapped anew, the old ones unmapped.
 * Requests that were filled and never submitted are not known to it: -EBUSY, and nothing changes.
 * Should the mapping fail, which the kernel cannot take back, the ring must be left with io_uring_queue_exit().
 */
#ifdef UL_LACKS_io_uring_resize_rings
static inline int io_uring_resize_rings(struct io_uring *ring, struct io_uring_params *p)
{
    struct io_uring old = *ring;
    size_t sqe_bytes = sizeof(struct io_uring_sqe) << !!(old.flags & IORING_SETUP_SQE128);
    int result;

    if (old.sq.sqe_head != old.sq.sqe_tail)
        return -EBUSY;
    if (syscall(__NR_io_uring_register, ring->ring_fd, IORING_REGISTER_RESIZE_RINGS, p, 1) < 0)
        return -errno;
    p->features = old.features; /* not reported here; they show whether one mapping holds both rings */
    if (old.sq.array && !p->sq_off.array)
        p->sq_off.array = ul_sq_array_offset(p, old.flags);
    result = io_uring_queue_mmap(old.ring_fd, p, ring); /* clears fields on which versions of liburing differ */
    if (result < 0) {
        *ring = old;
        return result;
    }
    ring->ring_fd = old.ring_fd;
    ring->flags = old.flags;
    ring->features = old.features;
    ring->enter_ring_fd = old.enter_ring_fd;
    ring->int_flags = old.int_flags;
    ring->sq.sqe_head = old.sq.sqe_head;
    ring->sq.sqe_tail = old.sq.sqe_tail;
    ul_identity_sq_array(ring);
    munmap(old.sq.sqes, old.sq.ring_entries * sqe_bytes);
    if (old.cq.ring_ptr && old.cq.ring_ptr != old.sq.ring_ptr)
        munmap(old.cq.ring_ptr, old.cq.ring_sz);
    munmap(old.sq.ring_ptr, old.sq.ring_sz);
    p->flags = 0; /* as liburing leaves it */
    return 0;
}
#endif
#endif
