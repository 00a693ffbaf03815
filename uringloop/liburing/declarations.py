"""The contents of `uringloop.liburing.lib`: the C declarations, as data.

build_ffi.py makes the cffi module from them and tools/liburing_stub.py its stub.  "since" is the liburing that
added a function; none means that the floor, 2.3, has it.  Functions missing in the installed header are in newer.h,
so that every build has the same names.  Nothing here is imported at run time.
"""

# Macros and enumerators that are not in enums.py.  Their values come from the header.
CONSTANTS = """
    IORING_FILE_INDEX_ALLOC IORING_TIMEOUT_CLOCK_MASK IORING_TIMEOUT_UPDATE_MASK IORING_CQE_BUFFER_SHIFT
    IORING_REGISTER_FILES_SKIP IORING_RSRC_REGISTER_SPARSE IO_URING_OP_SUPPORTED

    AT_FDCWD AT_EMPTY_PATH AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_REMOVEDIR AT_STATX_SYNC_AS_STAT
    AT_STATX_FORCE_SYNC AT_STATX_DONT_SYNC STATX_BASIC_STATS STATX_BTIME STATX_ALL STATX_SIZE STATX_MODE
    STATX_TYPE RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE
    FALLOC_FL_ZERO_RANGE FALLOC_FL_COLLAPSE_RANGE FALLOC_FL_INSERT_RANGE RESOLVE_NO_XDEV
    RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT RWF_HIPRI RWF_DSYNC RWF_SYNC
    RWF_NOWAIT RWF_APPEND POSIX_FADV_NORMAL POSIX_FADV_SEQUENTIAL POSIX_FADV_RANDOM POSIX_FADV_WILLNEED
    POSIX_FADV_DONTNEED POSIX_FADV_NOREUSE

    UL_LIBURING_IS_STATIC
"""

TYPES = """
    typedef int... __u8;
    typedef int... __u16;
    typedef int... __u32;
    typedef int... __u64;
    typedef int... __s32;
    typedef int... __s64;
    typedef int... socklen_t;
    typedef int... mode_t;
    typedef int... off_t;
    typedef ... sigset_t;
    typedef struct {
        int si_signo; int si_errno; int si_code; int si_pid; unsigned si_uid; int si_status; ...;
    } siginfo_t;
    struct cmsghdr { size_t cmsg_len; int cmsg_level; int cmsg_type; ...; };
    struct futex_waitv { __u64 val; __u64 uaddr; __u32 flags; ...; };

    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr {
        void *msg_name; socklen_t msg_namelen;
        struct iovec *msg_iov; size_t msg_iovlen;
        void *msg_control; size_t msg_controllen;
        int msg_flags;
        ...;
    };
    struct sockaddr { unsigned short sa_family; char sa_data[14]; ...; };
    struct in_addr { __u32 s_addr; ...; };
    struct sockaddr_in { unsigned short sin_family; __u16 sin_port; struct in_addr sin_addr; ...; };
    struct in6_addr { unsigned char s6_addr[16]; ...; };
    struct sockaddr_in6 {
        unsigned short sin6_family; __u16 sin6_port; __u32 sin6_flowinfo; struct in6_addr sin6_addr;
        __u32 sin6_scope_id; ...;
    };
    struct sockaddr_un { unsigned short sun_family; char sun_path[108]; ...; };
    struct sockaddr_storage { unsigned short ss_family; ...; };
    struct epoll_event { __u32 events; ...; };
    struct open_how { __u64 flags; __u64 mode; __u64 resolve; ...; };
    struct statx_timestamp { __s64 tv_sec; __u32 tv_nsec; ...; };
    struct statx {
        __u32 stx_mask; __u32 stx_blksize; __u64 stx_attributes; __u32 stx_nlink;
        __u32 stx_uid; __u32 stx_gid;
        __u16 stx_mode; __u64 stx_ino; __u64 stx_size; __u64 stx_blocks; __u64 stx_attributes_mask;
        struct statx_timestamp stx_atime; struct statx_timestamp stx_btime;
        struct statx_timestamp stx_ctime; struct statx_timestamp stx_mtime;
        __u32 stx_rdev_major; __u32 stx_rdev_minor; __u32 stx_dev_major; __u32 stx_dev_minor; ...;
    };
    struct __kernel_timespec { int64_t tv_sec; long long tv_nsec; };

    struct io_uring_sqe {
        __u8 opcode; __u8 flags; __u16 ioprio; __s32 fd;
        __u64 off; __u64 addr2; __u32 cmd_op;
        __u64 addr; __u64 splice_off_in;
        __u32 len;
        int rw_flags; __u32 fsync_flags; __u16 poll_events; __u32 poll32_events; __u32 sync_range_flags;
        __u32 msg_flags; __u32 timeout_flags; __u32 accept_flags; __u32 cancel_flags; __u32 open_flags;
        __u32 statx_flags; __u32 fadvise_advice; __u32 splice_flags; __u32 rename_flags; __u32 unlink_flags;
        __u32 hardlink_flags; __u32 xattr_flags; __u32 msg_ring_flags; __u32 uring_cmd_flags;
        __u64 user_data;
        __u16 buf_index; __u16 buf_group;
        __u16 personality;
        __s32 splice_fd_in; __u32 file_index; __u16 addr_len;
        __u64 addr3;
        ...;
    };
    struct io_uring_cqe { __u64 user_data; __s32 res; __u32 flags; ...; };

    struct io_uring_params {
        __u32 sq_entries; __u32 cq_entries; __u32 flags; __u32 sq_thread_cpu; __u32 sq_thread_idle;
        __u32 features; __u32 wq_fd; ...;
    };
    struct io_uring { unsigned flags; int ring_fd; unsigned features; ...; };

    struct io_uring_probe_op { __u8 op; __u16 flags; ...; };
    struct io_uring_probe { __u8 last_op; __u8 ops_len; ...; };

    struct io_uring_buf { __u64 addr; __u32 len; __u16 bid; ...; };
    struct io_uring_buf_ring { __u16 tail; ...; };
    struct io_uring_buf_reg { __u64 ring_addr; __u32 ring_entries; __u16 bgid; ...; };
    struct io_uring_recvmsg_out { __u32 namelen; __u32 controllen; __u32 payloadlen; __u32 flags; ...; };
    struct io_uring_sync_cancel_reg {
        __u64 addr; __s32 fd; __u32 flags; struct __kernel_timespec timeout; ...;
    };
"""

# io_uring_prep_*, without the first parameter, which is always `struct io_uring_sqe *sqe`.  A length that
# liburing declares as size_t or off_t and cuts to 32 bits is a __u32 here: cffi then raises OverflowError.
# Where versions of liburing differ in a `const`, there is none here.
PREP = """
    nop()
    nop128() since 2.13
    splice(int fd_in, int64_t off_in, int fd_out, int64_t off_out, unsigned nbytes, unsigned splice_flags)
    tee(int fd_in, int fd_out, unsigned nbytes, unsigned splice_flags)
    read(int fd, void *buf, unsigned nbytes, __u64 offset)
    write(int fd, const void *buf, unsigned nbytes, __u64 offset)
    readv(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset)
    readv2(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset, int flags)
    writev(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset)
    writev2(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset, int flags)
    read_fixed(int fd, void *buf, unsigned nbytes, __u64 offset, int buf_index)
    write_fixed(int fd, const void *buf, unsigned nbytes, __u64 offset, int buf_index)
    readv_fixed(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset, int flags,
        int buf_index) since 2.10
    writev_fixed(int fd, const struct iovec *iovecs, unsigned nr_vecs, __u64 offset, int flags,
        int buf_index) since 2.10
    read_multishot(int fd, unsigned nbytes, __u64 offset, int buf_group) since 2.6
    fsync(int fd, unsigned fsync_flags)
    sync_file_range(int fd, unsigned len, __u64 offset, int flags)
    fallocate(int fd, int mode, off_t offset, off_t len)
    ftruncate(int fd, int64_t len) since 2.6
    fadvise(int fd, __u64 offset, __u32 len, int advice)
    fadvise64(int fd, __u64 offset, off_t len, int advice) since 2.7
    madvise(void *addr, __u32 length, int advice)
    madvise64(void *addr, off_t length, int advice) since 2.7
    pipe(int *fds, int pipe_flags) since 2.12
    pipe_direct(int *fds, int pipe_flags, unsigned file_index) since 2.12

    open(const char *path, int flags, mode_t mode) since 2.8
    open_direct(const char *path, int flags, mode_t mode, unsigned file_index) since 2.8
    openat(int dfd, const char *path, int flags, mode_t mode)
    openat_direct(int dfd, const char *path, int flags, mode_t mode, unsigned file_index)
    openat2(int dfd, const char *path, struct open_how *how)
    openat2_direct(int dfd, const char *path, struct open_how *how, unsigned file_index)
    close(int fd)
    close_direct(unsigned file_index)
    statx(int dfd, const char *path, int flags, unsigned mask, struct statx *statxbuf)
    unlinkat(int dfd, const char *path, int flags)
    unlink(const char *path, int flags)
    renameat(int olddfd, const char *oldpath, int newdfd, const char *newpath, unsigned flags)
    rename(const char *oldpath, const char *newpath)
    mkdirat(int dfd, const char *path, mode_t mode)
    mkdir(const char *path, mode_t mode)
    symlinkat(const char *target, int newdirfd, const char *linkpath)
    symlink(const char *target, const char *linkpath)
    linkat(int olddfd, const char *oldpath, int newdfd, const char *newpath, int flags)
    link(const char *oldpath, const char *newpath, int flags)
    getxattr(const char *name, char *value, const char *path, unsigned len)
    setxattr(const char *name, const char *value, const char *path, int flags, unsigned len)
    fgetxattr(int fd, const char *name, char *value, unsigned len)
    fsetxattr(int fd, const char *name, const char *value, int flags, unsigned len)
    files_update(int *fds, unsigned nr_fds, int offset)
    fixed_fd_install(int fd, unsigned flags) since 2.6
    cmd_discard(int fd, uint64_t offset, uint64_t nbytes) since 2.8

    socket(int domain, int type, int protocol, unsigned flags)
    socket_direct(int domain, int type, int protocol, unsigned file_index, unsigned flags)
    socket_direct_alloc(int domain, int type, int protocol, unsigned flags)
    bind(int fd, struct sockaddr *addr, socklen_t addrlen) since 2.7
    listen(int fd, int backlog) since 2.7
    connect(int fd, const struct sockaddr *addr, socklen_t addrlen)
    accept(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    accept_direct(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags, unsigned file_index)
    multishot_accept(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    multishot_accept_direct(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    shutdown(int fd, int how)
    send(int sockfd, const void *buf, __u32 len, int flags)
    send_bundle(int sockfd, __u32 len, int flags) since 2.7
    sendto(int sockfd, const void *buf, __u32 len, int flags, const struct sockaddr *addr,
        socklen_t addrlen) since 2.4
    send_zc(int sockfd, const void *buf, __u32 len, int flags, unsigned zc_flags)
    send_zc_fixed(int sockfd, const void *buf, __u32 len, int flags, unsigned zc_flags, unsigned buf_index)
    send_set_addr(const struct sockaddr *dest_addr, __u16 addr_len)
    sendmsg(int fd, const struct msghdr *msg, unsigned flags)
    sendmsg_zc(int fd, const struct msghdr *msg, unsigned flags)
    sendmsg_zc_fixed(int fd, const struct msghdr *msg, unsigned flags, unsigned buf_index) since 2.10
    recv(int sockfd, void *buf, __u32 len, int flags)
    recv_multishot(int sockfd, void *buf, __u32 len, int flags)
    recvmsg(int fd, struct msghdr *msg, unsigned flags)
    recvmsg_multishot(int fd, struct msghdr *msg, unsigned flags)
    cmd_sock(int cmd_op, int fd, int level, int optname, void *optval, int optlen) since 2.5
    cmd_getsockname(int fd, struct sockaddr *sockaddr, socklen_t *sockaddr_len, int peer) since 2.13
    uring_cmd(int cmd_op, int fd) since 2.13
    uring_cmd128(int cmd_op, int fd) since 2.13

    poll_add(int fd, unsigned poll_mask)
    poll_multishot(int fd, unsigned poll_mask)
    poll_remove(__u64 user_data)
    poll_update(__u64 old_user_data, __u64 new_user_data, unsigned poll_mask, unsigned flags)
    epoll_ctl(int epfd, int fd, int op, struct epoll_event *ev)
    epoll_wait(int fd, struct epoll_event *events, int maxevents, unsigned flags) since 2.10
    timeout(struct __kernel_timespec *ts, unsigned count, unsigned flags)
    timeout_remove(__u64 user_data, unsigned flags)
    timeout_update(struct __kernel_timespec *ts, __u64 user_data, unsigned flags)
    link_timeout(struct __kernel_timespec *ts, unsigned flags)
    cancel64(__u64 user_data, int flags)
    cancel(void *user_data, int flags)
    cancel_fd(int fd, unsigned flags)
    waitid(int idtype, unsigned id, siginfo_t *infop, int options, unsigned flags) since 2.6
    futex_wait(uint32_t *futex, uint64_t val, uint64_t mask, uint32_t futex_flags,
        unsigned flags) since 2.6
    futex_wake(uint32_t *futex, uint64_t val, uint64_t mask, uint32_t futex_flags,
        unsigned flags) since 2.6
    futex_waitv(struct futex_waitv *futex, uint32_t nr_futex, unsigned flags) since 2.6
    provide_buffers(void *addr, int len, int nr, int bgid, int bid)
    remove_buffers(int nr, int bgid)
    msg_ring(int fd, unsigned len, __u64 data, unsigned flags)
    msg_ring_cqe_flags(int fd, unsigned len, __u64 data, unsigned flags, unsigned cqe_flags) since 2.4
    msg_ring_fd(int fd, int source_fd, int target_fd, __u64 data, unsigned flags) since 2.4
    msg_ring_fd_alloc(int fd, int source_fd, __u64 data, unsigned flags) since 2.4
"""

FUNCTIONS = """
    void io_uring_prep_rw(int op, struct io_uring_sqe *sqe, int fd, const void *addr, unsigned len,
                          __u64 offset);
    void io_uring_sqe_set_flags(struct io_uring_sqe *sqe, unsigned flags);
    void io_uring_sqe_set_buf_group(struct io_uring_sqe *sqe, int bgid);
    void io_uring_sqe_set_data64(struct io_uring_sqe *sqe, __u64 data);
    __u64 io_uring_cqe_get_data64(const struct io_uring_cqe *cqe);

    int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p);
    int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
    void io_uring_queue_exit(struct io_uring *ring);
    struct io_uring_sqe *io_uring_get_sqe(struct io_uring *ring);
    int io_uring_submit(struct io_uring *ring);
    int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait_nr);
    int io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe_ptr,
                                         unsigned wait_nr, struct __kernel_timespec *ts, sigset_t *sigmask);
    int io_uring_submit_and_get_events(struct io_uring *ring);
    int io_uring_get_events(struct io_uring *ring);
    int io_uring_sqring_wait(struct io_uring *ring);
    int io_uring_peek_cqe(struct io_uring *ring, struct io_uring_cqe **cqe_ptr);
    int io_uring_wait_cqe(struct io_uring *ring, struct io_uring_cqe **cqe_ptr);
    int io_uring_wait_cqe_nr(struct io_uring *ring, struct io_uring_cqe **cqe_ptr, unsigned wait_nr);
    int io_uring_wait_cqes(struct io_uring *ring, struct io_uring_cqe **cqe_ptr, unsigned wait_nr,
                           struct __kernel_timespec *ts, sigset_t *sigmask);
    int io_uring_wait_cqe_timeout(struct io_uring *ring, struct io_uring_cqe **cqe_ptr,
                                  struct __kernel_timespec *ts);
    unsigned io_uring_peek_batch_cqe(struct io_uring *ring, struct io_uring_cqe **cqes, unsigned count);
    void io_uring_cqe_seen(struct io_uring *ring, struct io_uring_cqe *cqe);
    void io_uring_cq_advance(struct io_uring *ring, unsigned nr);
    unsigned io_uring_sq_ready(const struct io_uring *ring);
    unsigned io_uring_sq_space_left(const struct io_uring *ring);
    unsigned io_uring_cq_ready(const struct io_uring *ring);
    bool io_uring_cq_has_overflow(const struct io_uring *ring);
    bool io_uring_cq_eventfd_enabled(const struct io_uring *ring);
    int io_uring_cq_eventfd_toggle(struct io_uring *ring, bool enabled);
    int io_uring_resize_rings(struct io_uring *ring, struct io_uring_params *p);
    int io_uring_ring_dontfork(struct io_uring *ring);

    struct io_uring_probe *io_uring_get_probe(void);
    struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring);
    void io_uring_free_probe(struct io_uring_probe *probe);
    int io_uring_opcode_supported(const struct io_uring_probe *p, int op);

    int io_uring_register_buffers(struct io_uring *ring, const struct iovec *iovecs, unsigned nr_iovecs);
    int io_uring_register_buffers_sparse(struct io_uring *ring, unsigned nr);
    int io_uring_register_buffers_tags(struct io_uring *ring, const struct iovec *iovecs, const __u64 *tags,
                                       unsigned nr);
    int io_uring_register_buffers_update_tag(struct io_uring *ring, unsigned off, const struct iovec *iovecs,
                                             const __u64 *tags, unsigned nr);
    int io_uring_unregister_buffers(struct io_uring *ring);
    int io_uring_register_files(struct io_uring *ring, const int *files, unsigned nr_files);
    int io_uring_register_files_sparse(struct io_uring *ring, unsigned nr);
    int io_uring_register_files_tags(struct io_uring *ring, const int *files, const __u64 *tags, unsigned nr);
    int io_uring_register_files_update(struct io_uring *ring, unsigned off, const int *files,
                                       unsigned nr_files);
    int io_uring_register_files_update_tag(struct io_uring *ring, unsigned off, const int *files,
                                           const __u64 *tags, unsigned nr_files);
    int io_uring_register_file_alloc_range(struct io_uring *ring, unsigned off, unsigned len);
    int io_uring_unregister_files(struct io_uring *ring);
    int io_uring_register_eventfd(struct io_uring *ring, int fd);
    int io_uring_register_eventfd_async(struct io_uring *ring, int fd);
    int io_uring_unregister_eventfd(struct io_uring *ring);
    int io_uring_register_personality(struct io_uring *ring);
    int io_uring_unregister_personality(struct io_uring *ring, int id);
    int io_uring_register_iowq_max_workers(struct io_uring *ring, unsigned *values);
    int io_uring_register_ring_fd(struct io_uring *ring);
    int io_uring_unregister_ring_fd(struct io_uring *ring);
    int io_uring_register_sync_cancel(struct io_uring *ring, struct io_uring_sync_cancel_reg *reg);
    int io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags);
    int io_uring_unregister_buf_ring(struct io_uring *ring, int bgid);
    struct io_uring_buf_ring *io_uring_setup_buf_ring(struct io_uring *ring, unsigned nentries, int bgid,
                                                      unsigned flags, int *err);
    int io_uring_free_buf_ring(struct io_uring *ring, struct io_uring_buf_ring *br, unsigned nentries,
                               int bgid);
    int io_uring_buf_ring_head(struct io_uring *ring, int buf_group, uint16_t *head);
    int io_uring_buf_ring_available(struct io_uring *ring, struct io_uring_buf_ring *br, unsigned short bgid);
    int io_uring_buf_ring_mask(__u32 ring_entries);
    void io_uring_buf_ring_init(struct io_uring_buf_ring *br);
    void io_uring_buf_ring_add(struct io_uring_buf_ring *br, void *addr, unsigned len, unsigned short bid,
                               int mask, int buf_offset);
    void io_uring_buf_ring_advance(struct io_uring_buf_ring *br, int count);
    void io_uring_buf_ring_cq_advance(struct io_uring *ring, struct io_uring_buf_ring *br, int count);
    struct io_uring_recvmsg_out *io_uring_recvmsg_validate(void *buf, int buf_len, struct msghdr *msgh);
    void *io_uring_recvmsg_name(struct io_uring_recvmsg_out *o);
    struct cmsghdr *io_uring_recvmsg_cmsg_firsthdr(struct io_uring_recvmsg_out *o, struct msghdr *msgh);
    struct cmsghdr *io_uring_recvmsg_cmsg_nexthdr(struct io_uring_recvmsg_out *o, struct msghdr *msgh,
                                                  struct cmsghdr *cmsg);
    void *io_uring_recvmsg_payload(struct io_uring_recvmsg_out *o, struct msghdr *msgh);
    unsigned io_uring_recvmsg_payload_length(struct io_uring_recvmsg_out *o, int buf_len,
                                                  struct msghdr *msgh);

    int ul_register_buffer_ring(struct io_uring *ring, void *address, unsigned entries, unsigned group,
                                unsigned flags);
"""
