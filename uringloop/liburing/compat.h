/*
 * The calls that liburing does not offer in the form that the loop needs, all `static inline` and without Python.
 */
#ifndef URINGLOOP_COMPAT_H
#define URINGLOOP_COMPAT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "../support/pause.h"
#include <liburing.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * liburing fills sq.array at every submit; ours is filled once with the identity, which is what
 * io_uring_get_sqe() always means, so that publishing is one store.  NULL with IORING_SETUP_NO_SQARRAY.
 */
static inline void ul_identity_sq_array(struct io_uring *ring)
{
    if (ring->sq.array)
        for (unsigned i = 0; i < ring->sq.ring_entries; i++)
            ring->sq.array[i] = i;
}

static inline unsigned ul_sq_flags(struct io_uring *ring)
{
    return IO_URING_READ_ONCE(*ring->sq.kflags);
}

/* Show the kernel the filled SQEs; returns how many there are to submit. */
static inline unsigned ul_publish(struct io_uring *ring)
{
    ring->sq.sqe_head = ring->sq.sqe_tail;
    io_uring_smp_store_release(ring->sq.ktail, ring->sq.sqe_tail);
    return io_uring_sq_ready(ring);
}

/*
 * io_uring_enter(2): submit `to_submit` published SQEs, and wait for `wait_count` completions at most
 * `timeout_ns` nanoseconds (-1: for ever).  Returns the number of SQEs consumed or a negated errno.
 * Reads nothing that another thread may write meanwhile: it runs without the GIL.
 * The timespec may live on this stack: the kernel reads it before the call returns (EXT_ARG, since 5.11).
 */
static inline int ul_enter(int ring_fd, unsigned to_submit, unsigned wait_count, unsigned flags, int64_t timeout_ns)
{
    struct __kernel_timespec timeout;
    struct io_uring_getevents_arg arg;
    long done;

    if (timeout_ns >= 0) {
        timeout.tv_sec = timeout_ns / 1000000000;
        timeout.tv_nsec = timeout_ns % 1000000000;
        memset(&arg, 0, sizeof arg);
        arg.sigmask_sz = 8;
        arg.ts = (uint64_t)(uintptr_t)&timeout;
        done = syscall(__NR_io_uring_enter, ring_fd, to_submit, wait_count,
                       flags | IORING_ENTER_EXT_ARG, &arg, sizeof arg);
    } else {
        done = syscall(__NR_io_uring_enter, ring_fd, to_submit, wait_count, flags, NULL, 8);
    }
    return done < 0 ? -errno : (int)done;
}

static inline int ul_register_buffer_ring(struct io_uring *ring, void *address, unsigned entries,
                                          unsigned group, unsigned flags)
{
    struct io_uring_buf_reg reg = {
        .ring_addr = (uint64_t)(uintptr_t)address,
        .ring_entries = entries,
        .bgid = (uint16_t)group,
    };
    return io_uring_register_buf_ring(ring, &reg, flags);
}

/* Cancel everything in flight on the ring (since Linux 5.19). */
static inline void ul_prep_cancel_any(struct io_uring_sqe *sqe)
{
    io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    sqe->user_data = 0;
}

/*
 * A number for the calling thread that no other thread of this process ever has.  pthread_self() and gettid() are
 * reused, and a ring would be taken for one's own.
 */
static inline uint64_t ul_thread_serial(void)
{
    static uint64_t last;
    static __thread uint64_t mine;
    if (mine == 0)
        mine = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    return mine;
}

/* The calling thread's number in the kernel; reused once the thread has ended. */
static inline int ul_thread_number(void)
{
    return (int)syscall(SYS_gettid);
}

/* Whether no thread of this process has that number. */
static inline int ul_is_thread_gone(int number)
{
    return syscall(SYS_tgkill, getpid(), number, 0) < 0 && errno == ESRCH;
}

/* Whether two fds of this process are the same open file; 0 also if unknown (kcmp needs CONFIG_KCMP). */
static inline int ul_is_same_file(int one, int other)
{
    long me = getpid();
    return syscall(SYS_kcmp, me, me, 0 /* KCMP_FILE */, (unsigned long)one, (unsigned long)other) == 0;
}

static inline int ul_is_main_thread(void)
{
    return syscall(SYS_gettid) == getpid();
}

/*
 * Poll until a completion is visible, the kernel has deferred one (IORING_SQ_TASKRUN), `notified` is set, or the
 * monotonic clock passes until_ns.  Plain memory reads: no system call.  1 when there is something, else 0.
 */
static inline int ul_spin(struct io_uring *ring, const int *notified, int64_t until_ns)
{
    struct timespec now;
    for (;;) {
        for (int i = 0; i < 16; i++) {
            if (io_uring_cq_ready(ring) || (ul_sq_flags(ring) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
                || __atomic_load_n(notified, __ATOMIC_SEQ_CST))
                return 1;
            ul_cpu_pause();
        }
        clock_gettime(CLOCK_MONOTONIC, &now); /* vDSO */
        if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= until_ns)
            return 0;
    }
}
#endif
