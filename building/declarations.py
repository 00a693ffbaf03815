"""The contents of `uringloop.liburing.lib` that the header does not give: which names, and the types of structs.

ffi.py makes the cffi module from them and the header, and tools/liburing_stub.py its stub.
"""

# Macros and enumerators that are not in enums.py.  Their values come from the header.
CONSTANTS = """
    IORING_FILE_INDEX_ALLOC IORING_TIMEOUT_CLOCK_MASK IORING_TIMEOUT_UPDATE_MASK IORING_CQE_BUFFER_SHIFT
    IORING_REGISTER_FILES_SKIP IORING_RSRC_REGISTER_SPARSE IO_URING_OP_SUPPORTED

    AT_FDCWD AT_EMPTY_PATH AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_REMOVEDIR AT_STATX_SYNC_AS_STAT
    AT_STATX_FORCE_SYNC AT_STATX_DONT_SYNC STATX_TYPE STATX_MODE STATX_NLINK STATX_UID STATX_GID
    STATX_ATIME STATX_MTIME STATX_CTIME STATX_INO STATX_SIZE STATX_BLOCKS STATX_BASIC_STATS STATX_BTIME STATX_ALL
    RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE
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

# Functions beside the io_uring_prep_*, which all are in; the header has their declarations.
FUNCTIONS = """
    io_uring_prep_rw io_uring_sqe_set_flags io_uring_sqe_set_buf_group io_uring_sqe_set_data64
    io_uring_cqe_get_data64 io_uring_queue_init_params io_uring_queue_init io_uring_queue_exit io_uring_get_sqe
    io_uring_submit io_uring_submit_and_wait io_uring_submit_and_wait_timeout io_uring_submit_and_get_events
    io_uring_get_events io_uring_sqring_wait io_uring_peek_cqe io_uring_wait_cqe io_uring_wait_cqe_nr
    io_uring_wait_cqes io_uring_wait_cqe_timeout io_uring_peek_batch_cqe io_uring_cqe_seen io_uring_cq_advance
    io_uring_sq_ready io_uring_sq_space_left io_uring_cq_ready io_uring_cq_has_overflow
    io_uring_cq_eventfd_enabled io_uring_cq_eventfd_toggle io_uring_resize_rings io_uring_ring_dontfork
    io_uring_get_probe io_uring_get_probe_ring io_uring_free_probe io_uring_opcode_supported
    io_uring_register_buffers io_uring_register_buffers_sparse io_uring_register_buffers_tags
    io_uring_register_buffers_update_tag io_uring_unregister_buffers io_uring_register_files
    io_uring_register_files_sparse io_uring_register_files_tags io_uring_register_files_update
    io_uring_register_files_update_tag io_uring_register_file_alloc_range io_uring_unregister_files
    io_uring_register_eventfd io_uring_register_eventfd_async io_uring_unregister_eventfd
    io_uring_register_personality io_uring_unregister_personality io_uring_register_iowq_max_workers
    io_uring_register_ring_fd io_uring_unregister_ring_fd io_uring_register_sync_cancel
    io_uring_register_buf_ring io_uring_unregister_buf_ring io_uring_setup_buf_ring io_uring_free_buf_ring
    io_uring_buf_ring_head io_uring_buf_ring_available io_uring_buf_ring_mask io_uring_buf_ring_init
    io_uring_buf_ring_add io_uring_buf_ring_advance io_uring_buf_ring_cq_advance io_uring_recvmsg_validate
    io_uring_recvmsg_name io_uring_recvmsg_cmsg_firsthdr io_uring_recvmsg_cmsg_nexthdr io_uring_recvmsg_payload
    io_uring_recvmsg_payload_length
"""

# Our own.
ADDITIONS = """
    int ul_register_buffer_ring(struct io_uring *ring, void *address, unsigned entries, unsigned group,
                                unsigned flags);
"""
