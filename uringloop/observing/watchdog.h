/*
 * The look-out for stalls: a thread without the GIL reads what the loop's thread does (aio/recorder.h) from time to time.
 *
 * A callback that began long ago may be one that had no CPU.  So the time that the thread was ready and another one ran
 * (proc(5), schedstat, from Linux 2.6.23 on; 0 where the kernel does not count it) and the time by which this thread
 * itself woke too late, as after SIGSTOP or in a paused virtual machine, do not count.
 */
#ifndef URINGLOOP_WATCHDOG_H
#define URINGLOOP_WATCHDOG_H
#include <Python.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "../aio/recorder.h"
#include "../support/clock.h"
#include "peek.h"

enum { UL_STALL_BEGAN, UL_STALL_ENDED, UL_WATCH_OVER };

typedef struct {
    const ul_now *now;
    const int *is_closed;     /* of the recorder */
    void *const *thread_state;  /* of the loop's thread */
    void *const *callers;     /* of the context: the frames that make turns, and how many there are */
    const int *n_callers;
    int most_callers;
    ul_stack *stack, *again;  /* as it was when the stall was noticed; room to read it twice */
    int64_t limit_ns, step_ns;
    uint32_t is_stopped;      /* a futex */
    int is_reported;          /* the callback `seen` is a stall */
    ul_now seen;
    int64_t delayed_ns;       /* how long its thread had waited for a CPU when it was seen first */
    int64_t late_ns;          /* by how much this thread woke too late since */
    int64_t lasted_ns;        /* until now, or until it ended */
} ul_watch;

/* How long a thread of this process waited for a CPU so far. */
static int64_t ul_run_delay_ns(int tid)
{
    char text[96];
    char *end;
    ssize_t count;
    int fd;

    snprintf(text, sizeof text, "/proc/self/task/%d/schedstat", tid);
    fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    count = read(fd, text, sizeof text - 1);
    close(fd);
    if (count <= 0)
        return 0;
    text[count] = 0;
    strtoull(text, &end, 10);  /* time on a CPU */
    return (int64_t)strtoull(end, NULL, 10);
}

/* Sleep for a step; returns the time, and by how much it was too long. */
static int64_t ul_watch_step(ul_watch *watch, int64_t *late_ns)
{
    struct timespec step = {watch->step_ns / 1000000000, watch->step_ns % 1000000000};
    int64_t began_ns = ul_monotonic_ns(), now_ns;

    syscall(SYS_futex, &watch->is_stopped, FUTEX_WAIT_PRIVATE, 0, &step, NULL, 0);
    now_ns = ul_monotonic_ns();
    *late_ns = now_ns - began_ns > 2 * watch->step_ns ? now_ns - began_ns - watch->step_ns : 0;
    return now_ns;
}

static void ul_watch_stop(ul_watch *watch)
{
    __atomic_store_n(&watch->is_stopped, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &watch->is_stopped, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Whether the loop's thread still does what was seen last. */
static int ul_watch_is_current(const ul_watch *watch)
{
    ul_now now;

    return ul_read_now(watch->now, &now) && now.n_begun == watch->seen.n_begun;
}

static void ul_watch_look(ul_watch *watch)
{
    int n_callers = __atomic_load_n(watch->n_callers, __ATOMIC_RELAXED);

    watch->stack->count = 0;
    if (n_callers > 0 && n_callers <= watch->most_callers)
        ul_peek_stack(*watch->thread_state, watch->callers[n_callers - 1], watch->stack, watch->again);
    if (!ul_watch_is_current(watch))
        watch->stack->count = 0;
}

/* Until a stall begins or ends, or the watch is over. */
static int ul_watch_wait(ul_watch *watch)
{
    int64_t now_ns, late_ns, lost_ns;
    int is_busy;
    ul_now now;

    while (!UL_READ(watch->is_stopped) && (watch->is_reported || !__atomic_load_n(watch->is_closed, __ATOMIC_RELAXED))) {
        now_ns = ul_watch_step(watch, &late_ns);
        is_busy = ul_read_now(watch->now, &now);
        if (watch->is_reported) {
            if (is_busy && now.n_begun == watch->seen.n_begun)
                continue;
            watch->is_reported = 0;
            /* what came next began when it ended; if more than one thing did, it ended before this step */
            if (is_busy && now.n_begun == watch->seen.n_begun + 1)
                now_ns = now.since_ns;
            watch->lasted_ns = now_ns - watch->seen.since_ns;
            return UL_STALL_ENDED;
        }
        if (!is_busy)
            continue;
        if (now.n_begun != watch->seen.n_begun) {
            watch->seen = now;
            watch->late_ns = late_ns;
            watch->delayed_ns = ul_run_delay_ns(now.tid);
            continue;
        }
        watch->late_ns += late_ns;
        watch->lasted_ns = now_ns - now.since_ns;
        if (watch->lasted_ns < watch->limit_ns)
            continue;
        lost_ns = ul_run_delay_ns(now.tid) - watch->delayed_ns;
        if (lost_ns < watch->late_ns)
            lost_ns = watch->late_ns;
        if (watch->lasted_ns - lost_ns >= watch->limit_ns) {
            watch->is_reported = 1;
            ul_watch_look(watch);
            return UL_STALL_BEGAN;
        }
    }
    return UL_WATCH_OVER;
}

#endif
