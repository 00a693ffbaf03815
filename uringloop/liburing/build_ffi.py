"""Builds `uringloop.liburing._ffi`: liburing for users of raw requests, as a cffi module in API mode.

 1. The C compiler checks every declaration below against the header and supplies sizes, offsets and values,
    so nothing here can drift from liburing; `...` says "whatever the header has".
 2. API mode compiles wrappers, so the `static inline` io_uring_prep_* work without liburing-ffi, which the
    floor (liburing 2.3) does not have.
 3. Anonymous unions are written flat: each member gets its own offset all the same.

Declared is what liburing 2.3 has; what a newer one adds is not here, so that every build has the same names.
(io_uring_enable_rings is in the header of 2.3, and missing from its shared library.)

setup.py runs `ffibuilder`, and takes `liburing_flags` from here, so that the compiled modules and this one
are linked alike.  Nothing here is imported at run time.
"""

import os
import shutil
import subprocess
import sys

LIBURING_FLOOR = "2.3"

# Macros and enumerators.  Their values come from the header.
CONSTANTS = """
    IOSQE_FIXED_FILE IOSQE_IO_DRAIN IOSQE_IO_LINK IOSQE_IO_HARDLINK IOSQE_ASYNC IOSQE_BUFFER_SELECT
    IOSQE_CQE_SKIP_SUCCESS

    IORING_SETUP_IOPOLL IORING_SETUP_SQPOLL IORING_SETUP_SQ_AFF IORING_SETUP_CQSIZE IORING_SETUP_CLAMP
    IORING_SETUP_ATTACH_WQ IORING_SETUP_R_DISABLED IORING_SETUP_SUBMIT_ALL IORING_SETUP_COOP_TASKRUN
    IORING_SETUP_TASKRUN_FLAG IORING_SETUP_SQE128 IORING_SETUP_CQE32 IORING_SETUP_SINGLE_ISSUER
    IORING_SETUP_DEFER_TASKRUN

    IORING_OP_NOP IORING_OP_READV IORING_OP_WRITEV IORING_OP_FSYNC IORING_OP_READ_FIXED
    IORING_OP_WRITE_FIXED IORING_OP_POLL_ADD IORING_OP_POLL_REMOVE IORING_OP_SYNC_FILE_RANGE
    IORING_OP_SENDMSG IORING_OP_RECVMSG IORING_OP_TIMEOUT IORING_OP_TIMEOUT_REMOVE IORING_OP_ACCEPT
    IORING_OP_ASYNC_CANCEL IORING_OP_LINK_TIMEOUT IORING_OP_CONNECT IORING_OP_FALLOCATE IORING_OP_OPENAT
    IORING_OP_CLOSE IORING_OP_FILES_UPDATE IORING_OP_STATX IORING_OP_READ IORING_OP_WRITE IORING_OP_FADVISE
    IORING_OP_MADVISE IORING_OP_SEND IORING_OP_RECV IORING_OP_OPENAT2 IORING_OP_EPOLL_CTL IORING_OP_SPLICE
    IORING_OP_PROVIDE_BUFFERS IORING_OP_REMOVE_BUFFERS IORING_OP_TEE IORING_OP_SHUTDOWN IORING_OP_RENAMEAT
    IORING_OP_UNLINKAT IORING_OP_MKDIRAT IORING_OP_SYMLINKAT IORING_OP_LINKAT IORING_OP_MSG_RING
    IORING_OP_FSETXATTR IORING_OP_SETXATTR IORING_OP_FGETXATTR IORING_OP_GETXATTR IORING_OP_SOCKET
    IORING_OP_URING_CMD IORING_OP_SEND_ZC IORING_OP_SENDMSG_ZC

    IORING_FILE_INDEX_ALLOC IORING_URING_CMD_FIXED IORING_FSYNC_DATASYNC IORING_TIMEOUT_ABS
    IORING_TIMEOUT_UPDATE IORING_TIMEOUT_BOOTTIME IORING_TIMEOUT_REALTIME IORING_LINK_TIMEOUT_UPDATE
    IORING_TIMEOUT_ETIME_SUCCESS IORING_TIMEOUT_CLOCK_MASK IORING_TIMEOUT_UPDATE_MASK SPLICE_F_FD_IN_FIXED
    IORING_POLL_ADD_MULTI IORING_POLL_UPDATE_EVENTS IORING_POLL_UPDATE_USER_DATA IORING_POLL_ADD_LEVEL
    IORING_ASYNC_CANCEL_ALL IORING_ASYNC_CANCEL_FD IORING_ASYNC_CANCEL_ANY IORING_ASYNC_CANCEL_FD_FIXED
    IORING_RECVSEND_POLL_FIRST IORING_RECV_MULTISHOT IORING_RECVSEND_FIXED_BUF IORING_ACCEPT_MULTISHOT
    IORING_MSG_DATA IORING_MSG_SEND_FD IORING_MSG_RING_CQE_SKIP

    IORING_CQE_F_BUFFER IORING_CQE_F_MORE IORING_CQE_F_SOCK_NONEMPTY IORING_CQE_F_NOTIF
    IORING_CQE_BUFFER_SHIFT IORING_SQ_NEED_WAKEUP IORING_SQ_CQ_OVERFLOW IORING_SQ_TASKRUN
    IORING_CQ_EVENTFD_DISABLED IORING_ENTER_GETEVENTS IORING_ENTER_SQ_WAKEUP IORING_ENTER_SQ_WAIT
    IORING_ENTER_EXT_ARG IORING_ENTER_REGISTERED_RING IORING_FEAT_SINGLE_MMAP IORING_FEAT_NODROP
    IORING_FEAT_SUBMIT_STABLE IORING_FEAT_RW_CUR_POS IORING_FEAT_CUR_PERSONALITY IORING_FEAT_FAST_POLL
    IORING_FEAT_POLL_32BITS IORING_FEAT_SQPOLL_NONFIXED IORING_FEAT_EXT_ARG IORING_FEAT_NATIVE_WORKERS
    IORING_FEAT_RSRC_TAGS IORING_FEAT_CQE_SKIP IORING_FEAT_LINKED_FILE IORING_FEAT_NO_IOWAIT
    IORING_REGISTER_FILES_SKIP IORING_RSRC_REGISTER_SPARSE IO_URING_OP_SUPPORTED

    AT_FDCWD AT_EMPTY_PATH AT_SYMLINK_NOFOLLOW AT_SYMLINK_FOLLOW AT_REMOVEDIR AT_STATX_SYNC_AS_STAT
    AT_STATX_FORCE_SYNC AT_STATX_DONT_SYNC STATX_BASIC_STATS STATX_BTIME STATX_ALL STATX_SIZE STATX_MODE
    STATX_TYPE RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT FALLOC_FL_KEEP_SIZE FALLOC_FL_PUNCH_HOLE
    FALLOC_FL_ZERO_RANGE FALLOC_FL_COLLAPSE_RANGE FALLOC_FL_INSERT_RANGE RESOLVE_NO_XDEV
    RESOLVE_NO_MAGICLINKS RESOLVE_NO_SYMLINKS RESOLVE_BENEATH RESOLVE_IN_ROOT RWF_HIPRI RWF_DSYNC RWF_SYNC
    RWF_NOWAIT RWF_APPEND POSIX_FADV_NORMAL POSIX_FADV_SEQUENTIAL POSIX_FADV_RANDOM POSIX_FADV_WILLNEED
    POSIX_FADV_DONTNEED POSIX_FADV_NOREUSE

    UL_PBUF_RING_INC UL_CQE_F_BUF_MORE UL_ENTER_NO_IOWAIT UL_LIBURING_IS_STATIC
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
    struct cmsghdr;

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

# io_uring_prep_*, without the first parameter, which is always `struct io_uring_sqe *sqe`.
PREP = """
    nop()
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
    fsync(int fd, unsigned fsync_flags)
    sync_file_range(int fd, unsigned len, __u64 offset, int flags)
    fallocate(int fd, int mode, off_t offset, off_t len)
    fadvise(int fd, __u64 offset, off_t len, int advice)
    madvise(void *addr, off_t length, int advice)

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

    socket(int domain, int type, int protocol, unsigned flags)
    socket_direct(int domain, int type, int protocol, unsigned file_index, unsigned flags)
    socket_direct_alloc(int domain, int type, int protocol, unsigned flags)
    connect(int fd, const struct sockaddr *addr, socklen_t addrlen)
    accept(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    accept_direct(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags, unsigned file_index)
    multishot_accept(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    multishot_accept_direct(int fd, struct sockaddr *addr, socklen_t *addrlen, int flags)
    shutdown(int fd, int how)
    send(int sockfd, const void *buf, size_t len, int flags)
    send_zc(int sockfd, const void *buf, size_t len, int flags, unsigned zc_flags)
    send_zc_fixed(int sockfd, const void *buf, size_t len, int flags, unsigned zc_flags, unsigned buf_index)
    send_set_addr(const struct sockaddr *dest_addr, __u16 addr_len)
    sendmsg(int fd, const struct msghdr *msg, unsigned flags)
    sendmsg_zc(int fd, const struct msghdr *msg, unsigned flags)
    recv(int sockfd, void *buf, size_t len, int flags)
    recv_multishot(int sockfd, void *buf, size_t len, int flags)
    recvmsg(int fd, struct msghdr *msg, unsigned flags)
    recvmsg_multishot(int fd, struct msghdr *msg, unsigned flags)

    poll_add(int fd, unsigned poll_mask)
    poll_multishot(int fd, unsigned poll_mask)
    poll_remove(__u64 user_data)
    poll_update(__u64 old_user_data, __u64 new_user_data, unsigned poll_mask, unsigned flags)
    epoll_ctl(int epfd, int fd, int op, struct epoll_event *ev)
    timeout(struct __kernel_timespec *ts, unsigned count, unsigned flags)
    timeout_remove(__u64 user_data, unsigned flags)
    timeout_update(struct __kernel_timespec *ts, __u64 user_data, unsigned flags)
    link_timeout(struct __kernel_timespec *ts, unsigned flags)
    cancel64(__u64 user_data, int flags)
    cancel(void *user_data, int flags)
    cancel_fd(int fd, unsigned flags)
    provide_buffers(void *addr, int len, int nr, int bgid, int bid)
    remove_buffers(int nr, int bgid)
    msg_ring(int fd, unsigned len, __u64 data, unsigned flags)
"""

FUNCTIONS = """
    void io_uring_prep_rw(int op, struct io_uring_sqe *sqe, int fd, const void *addr, unsigned len,
                          __u64 offset);
    void io_uring_sqe_set_flags(struct io_uring_sqe *sqe, unsigned flags);

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
    int io_uring_peek_cqe(struct io_uring *ring, struct io_uring_cqe **cqe_ptr);
    int io_uring_wait_cqe(struct io_uring *ring, struct io_uring_cqe **cqe_ptr);
    void io_uring_cqe_seen(struct io_uring *ring, struct io_uring_cqe *cqe);
    void io_uring_cq_advance(struct io_uring *ring, unsigned nr);
    unsigned io_uring_sq_ready(const struct io_uring *ring);
    unsigned io_uring_sq_space_left(const struct io_uring *ring);
    unsigned io_uring_cq_ready(const struct io_uring *ring);

    struct io_uring_probe *io_uring_get_probe(void);
    struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring);
    void io_uring_free_probe(struct io_uring_probe *probe);
    int io_uring_opcode_supported(const struct io_uring_probe *p, int op);

    int io_uring_register_buffers(struct io_uring *ring, const struct iovec *iovecs, unsigned nr_iovecs);
    int io_uring_unregister_buffers(struct io_uring *ring);
    int io_uring_register_files(struct io_uring *ring, const int *files, unsigned nr_files);
    int io_uring_register_files_sparse(struct io_uring *ring, unsigned nr);
    int io_uring_unregister_files(struct io_uring *ring);
    int io_uring_register_eventfd(struct io_uring *ring, int fd);
    int io_uring_unregister_eventfd(struct io_uring *ring);
    int io_uring_register_sync_cancel(struct io_uring *ring, struct io_uring_sync_cancel_reg *reg);
    int io_uring_register_buf_ring(struct io_uring *ring, struct io_uring_buf_reg *reg, unsigned flags);
    int io_uring_unregister_buf_ring(struct io_uring *ring, int bgid);
    int io_uring_buf_ring_mask(__u32 ring_entries);
    void io_uring_buf_ring_init(struct io_uring_buf_ring *br);
    void io_uring_buf_ring_add(struct io_uring_buf_ring *br, void *addr, unsigned len, unsigned short bid,
                               int mask, int buf_offset);
    void io_uring_buf_ring_advance(struct io_uring_buf_ring *br, int count);
    struct io_uring_recvmsg_out *io_uring_recvmsg_validate(void *buf, int buf_len, struct msghdr *msgh);
    void *io_uring_recvmsg_name(struct io_uring_recvmsg_out *o);
    void *io_uring_recvmsg_payload(struct io_uring_recvmsg_out *o, struct msghdr *msgh);
    unsigned io_uring_recvmsg_payload_length(struct io_uring_recvmsg_out *o, int buf_len,
                                                  struct msghdr *msgh);

    int ul_register_buffer_ring(struct io_uring *ring, void *address, unsigned entries, unsigned group,
                                unsigned flags);
    static const char *const ul_liburing_version;
"""

SOURCE = """
#include "compat.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
static const char *const ul_liburing_version = "%(version)s";
#define UL_LIBURING_IS_STATIC %(is_static)d
"""


def pkg_config(*args: str) -> str | None:
    """What pkg-config answers, None where it or liburing is not there."""
    program = shutil.which(os.environ.get("PKG_CONFIG", "pkg-config"))
    if program is None:
        return None
    done = subprocess.run([program, *args, "liburing"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def liburing_flags() -> dict[str, list[str]]:
    """Compiler and linker flags for liburing; the static library where there is one.

    A static liburing makes a wheel self-contained: the shared one has another soname on each distribution.
    """
    if pkg_config("--exists", f"--atleast-version={LIBURING_FLOOR}") is None:
        sys.exit(
            f"uringloop needs the headers of liburing >= {LIBURING_FLOOR} and pkg-config: "
            "on Debian and Ubuntu `apt-get install liburing-dev pkg-config`, on Fedora `dnf install "
            "liburing-devel pkgconf`; or set URINGLOOP_WITHOUT_LIBURING=1 for a loop on epoll and poll only."
        )
    flags = {"extra_compile_args": (pkg_config("--cflags") or "").split()}
    archive = os.path.join(pkg_config("--variable=libdir") or "", "liburing.a")
    if os.path.exists(archive) and not os.environ.get("URINGLOOP_SHARED_LIBURING"):
        flags["extra_objects"] = [archive]
    else:
        flags["extra_link_args"] = (pkg_config("--libs") or "-luring").split()
    return flags


def declarations() -> str:
    """Everything for FFI.cdef."""
    parts = [f"#define {name} ..." for name in CONSTANTS.split()]
    parts.append(TYPES)
    for line in filter(None, map(str.strip, PREP.splitlines())):
        name, _, parameters = line.rstrip(")").partition("(")
        parameters = ", ".join(filter(None, ["struct io_uring_sqe *sqe", parameters]))
        parts.append(f"void io_uring_prep_{name}({parameters});")
    parts.append(FUNCTIONS)
    return "\n".join(parts)


def ffibuilder():  # type: ignore[no-untyped-def]
    """The cffi.FFI that setup.py's `cffi_modules` compiles."""
    from cffi import FFI  # type: ignore[import-untyped]

    flags = liburing_flags()
    details = {"version": pkg_config("--modversion") or "", "is_static": "extra_objects" in flags}
    flags["extra_compile_args"] += ["-O2", "-Wall", "-Wno-unused-function", "-Wno-cpp"]
    builder = FFI()
    builder.cdef(declarations())
    builder.set_source(
        "uringloop.liburing._ffi",
        SOURCE % details,
        include_dirs=["uringloop/liburing"],
        depends=["uringloop/liburing/compat.h", "uringloop/liburing/build_ffi.py"],
        **flags,
    )
    return builder
