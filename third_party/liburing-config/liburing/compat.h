/*
 * What liburing.h needs and old kernel headers lack.  liburing's configure script writes such a file after trial
 * compilations; this one asks the preprocessor.  The layouts are the kernel's ABI.
 */
#ifndef LIBURING_COMPAT_H
#define LIBURING_COMPAT_H

#include <stdint.h>
#include <sys/wait.h> /* idtype_t */
#include <linux/fs.h>

#if __has_include(<linux/time_types.h>) /* since Linux 5.1 */
#include <linux/time_types.h>
#else
struct __kernel_timespec {
    int64_t tv_sec;
    long long tv_nsec;
};
#endif
#define UAPI_LINUX_IO_URING_H_SKIP_LINUX_TIME_TYPES_H 1

#ifndef RWF_APPEND /* headers before Linux 4.16 have no __kernel_rwf_t either */
typedef int __kernel_rwf_t;
#endif

#if __has_include(<linux/openat2.h>) /* since Linux 5.6 */
#include <linux/openat2.h>
#else
struct open_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};
#endif

#include <linux/futex.h>
#ifndef FUTEX_WAITV_MAX /* since Linux 5.16 */
#define FUTEX_32 2
#define FUTEX_WAITV_MAX 128
struct futex_waitv {
    uint64_t val;
    uint64_t uaddr;
    uint32_t flags;
    uint32_t __reserved;
};
#endif

#if __has_include(<linux/blkdev.h>) /* since Linux 6.13 */
#include <linux/blkdev.h>
#else
#include <linux/ioctl.h>
#ifndef BLOCK_URING_CMD_DISCARD
#define BLOCK_URING_CMD_DISCARD _IO(0x12, 0)
#endif
#endif

#endif
