/*
 * The look-out for stalls: a thread that never takes the GIL reads what the loop's thread does (aio/recorder.h) from time
 * to time, and queues what it notices for another one, which has to wait for the GIL to report it.
 *
 * A callback that began long ago may be one that had no CPU.  So three times do not count: those that its thread waited
 * for a CPU (schedstat in proc(5), from Linux 2.6.23 on); the present one, which is not in there yet, if the thread is
 * runnable and used no CPU since the last look; and that by which the looking thread itself woke too late, as after
 * SIGSTOP or in a paused virtual machine.  Where the kernel does not count them they do.
 */
#ifndef URINGLOOP_WATCHDOG_H
#define URINGLOOP_WATCHDOG_H
#include <Python.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "../aio/recorder.h"
#include "../support/clock.h"
#include "peek.h"

enum { UL_MOST_NOTICES = 8 };  /* a power of two */
#define UL_WATCH_OVER 0x80000000u  /* in n_noticed: it grows no more */

typedef struct {
    int has_ended;
    ul_now seen;
    int64_t lasted_ns;        /* until it was noticed, or until it ended */
    ul_stack stack;           /* as it was when the stall was noticed */
} ul_notice;

typedef struct {
    const ul_now *now;
    const int *is_closed;     /* of the recorder */
    void *const *thread_state;  /* of the loop's thread */
    void *const *callers;     /* of the context: the frames that make turns, and how many there are */
    const int *n_callers;
    int most_callers;
    int64_t limit_ns, step_ns;
    uint32_t is_stopped;      /* a futex */
    uint32_t n_noticed;       /* a futex; how many were queued: written by the watching thread */
    uint32_t n_taken;         /* of these: written by the reporting one */
    ul_notice *notices;       /* a circular array */
    ul_scratch *scratch;      /* the watching thread's */
    pthread_t thread;
    int pid;                  /* of the process that has the thread; 0: none */
    ul_now seen;
    int64_t looked_ns;        /* when the last look at it was */
    int64_t cpu_ns;           /* the CPU time of its thread then, */
    int64_t delay_ns;         /* how long that had waited for a CPU, */
    int64_t first_delay_ns;   /* the same when it was seen first, */
    int64_t pending_ns;       /* and how long it may have been waiting for one */
    int64_t late_ns;          /* by how much this thread woke too late since, */
    int64_t unseen_ns;        /* and before it was seen at all */
} ul_watch;

/* A file of a thread of this process; returns whether it was read. */
static int ul_read_thread_file(int tid, const char *name, char *text, size_t size)
{
    ssize_t count;
    int fd;

    snprintf(text, size, "/proc/self/task/%d/%s", tid, name);
    fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    count = read(fd, text, size - 1);
    close(fd);
    text[count < 0 ? 0 : count] = 0;
    return count > 0;
}

/* How long the thread waited for a CPU so far; the wait that goes on is not in it. */
static int64_t ul_run_delay_ns(int tid)
{
    char text[256];
    char *end;

    if (!ul_read_thread_file(tid, "schedstat", text, sizeof text))
        return 0;
    strtoull(text, &end, 10);  /* time on a CPU */
    return (int64_t)strtoull(end, NULL, 10);
}

static int ul_is_runnable(int tid)
{
    char text[256];
    const char *end;

    if (!ul_read_thread_file(tid, "stat", text, sizeof text))
        return 0;
    end = strrchr(text, ')');  /* of the thread's name */
    return end != NULL && end[1] == ' ' && end[2] == 'R';
}

static int64_t ul_cpu_ns(int tid)
{
    struct timespec time;

    /* the clock of a thread: as pthread_getcpuclockid(3) makes it, but that needs the pthread_t */
    if (clock_gettime((clockid_t)((~(unsigned)tid << 3) | 6), &time) < 0)
        return 0;
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Sleep for a step; returns the time, and by how much it was too long. */
static int64_t ul_watch_step(ul_watch *watch, int64_t *late_ns)
{
    struct timespec step = {watch->step_ns / 1000000000, watch->step_ns % 1000000000};
    int64_t began_ns = ul_monotonic_ns(), now_ns;

    syscall(SYS_futex, &watch->is_stopped, FUTEX_WAIT_PRIVATE, 0, &step, NULL, 0);
    now_ns = ul_monotonic_ns();
    *late_ns = now_ns - began_ns - watch->step_ns;
    return now_ns;
}

static void ul_set_and_wake(uint32_t *futex, uint32_t value)
{
    __atomic_store_n(futex, value, __ATOMIC_RELEASE);
    syscall(SYS_futex, futex, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void ul_watch_first(ul_watch *watch, const ul_now *now, int64_t now_ns)
{
    watch->seen = *now;
    watch->looked_ns = now_ns;
    watch->unseen_ns = now_ns - now->since_ns - watch->step_ns;
    watch->late_ns = watch->pending_ns = 0;
    watch->cpu_ns = ul_cpu_ns(now->tid);
    watch->first_delay_ns = watch->delay_ns = ul_run_delay_ns(now->tid);
}

/* It is still there.  Returns for how much of its time it is not to blame. */
static int64_t ul_watch_again(ul_watch *watch, int64_t now_ns, int64_t late_ns)
{
    int64_t cpu_ns = ul_cpu_ns(watch->seen.tid), delay_ns = ul_run_delay_ns(watch->seen.tid), lost_ns;
    int64_t used_ns = cpu_ns - watch->cpu_ns;
    int64_t idle_ns = now_ns - watch->looked_ns - used_ns - (delay_ns - watch->delay_ns);

    if (!ul_is_runnable(watch->seen.tid))
        watch->pending_ns = 0;
    else if (used_ns > 0)
        watch->pending_ns = idle_ns;
    else
        watch->pending_ns += idle_ns;
    watch->looked_ns = now_ns;
    watch->cpu_ns = cpu_ns;
    watch->delay_ns = delay_ns;
    watch->late_ns += late_ns > 0 ? late_ns : 0;
    lost_ns = delay_ns - watch->first_delay_ns + (watch->pending_ns > 0 ? watch->pending_ns : 0);
    if (lost_ns < watch->late_ns)
        lost_ns = watch->late_ns;
    return lost_ns + (watch->unseen_ns > 0 ? watch->unseen_ns : 0);
}

/* Whether the loop's thread still does what was seen then. */
static int ul_is_current(const ul_watch *watch, const ul_now *seen)
{
    ul_now now;

    return ul_read_now(watch->now, &now) && now.n_begun == seen->n_begun;
}

/* The next free notice; NULL: the reporting thread is that far behind. */
static ul_notice *ul_watch_room(ul_watch *watch)
{
    if (watch->n_noticed - UL_READ(watch->n_taken) == UL_MOST_NOTICES)
        return NULL;
    return &watch->notices[watch->n_noticed & (UL_MOST_NOTICES - 1)];
}

static void ul_watch_notice(ul_watch *watch, int has_ended, int64_t lasted_ns)
{
    ul_notice *notice = ul_watch_room(watch);
    int n_callers;

    if (notice == NULL)
        return;
    notice->has_ended = has_ended;
    notice->seen = watch->seen;
    notice->lasted_ns = lasted_ns;
    notice->stack.count = 0;
    n_callers = __atomic_load_n(watch->n_callers, __ATOMIC_RELAXED);
    if (!has_ended && n_callers > 0 && n_callers <= watch->most_callers)
        ul_peek_stack(*watch->thread_state, watch->callers[n_callers - 1], &notice->stack, watch->scratch);
    if (!has_ended && !ul_is_current(watch, &watch->seen))
        notice->stack.count = 0;
    ul_set_and_wake(&watch->n_noticed, watch->n_noticed + 1);
}

/* Whether the stall that was noticed is over, which is noticed, too; it waits for room. */
static int ul_watch_has_ended(ul_watch *watch, int64_t now_ns)
{
    ul_now now;
    int is_busy = ul_read_now(watch->now, &now);

    if ((is_busy && now.n_begun == watch->seen.n_begun) || ul_watch_room(watch) == NULL)
        return 0;
    /* what came next began when it ended; if more than one thing did, it ended before this step */
    if (is_busy && now.n_begun == watch->seen.n_begun + 1)
        now_ns = now.since_ns;
    ul_watch_notice(watch, 1, now_ns - watch->seen.since_ns);
    return 1;
}

static void *ul_watch_run(void *argument)
{
    ul_watch *watch = argument;
    int64_t now_ns, late_ns;
    int is_over = 0, is_noticed = 0;  /* what was seen is a stall */
    ul_now now;

    while (!is_over) {
        now_ns = ul_watch_step(watch, &late_ns);
        is_over = UL_READ(watch->is_stopped) || __atomic_load_n(watch->is_closed, __ATOMIC_RELAXED);
        if (is_noticed) {
            is_noticed = !ul_watch_has_ended(watch, now_ns);
            continue;
        }
        if (is_over || !ul_read_now(watch->now, &now))
            continue;
        if (now.n_begun != watch->seen.n_begun) {
            ul_watch_first(watch, &now, now_ns);
            continue;
        }
        if (now_ns - now.since_ns - ul_watch_again(watch, now_ns, late_ns) >= watch->limit_ns
                && ul_watch_room(watch) != NULL) {
            is_noticed = 1;
            ul_watch_notice(watch, 0, now_ns - now.since_ns);
        }
    }
    ul_set_and_wake(&watch->n_noticed, watch->n_noticed | UL_WATCH_OVER);
    return NULL;
}

/* Begin to watch; returns an errno. */
static int ul_watch_begin(ul_watch *watch)
{
    sigset_t all, before;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  /* signals are for the program's threads */
    result = pthread_create(&watch->thread, NULL, ul_watch_run, watch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result == 0)
        watch->pid = getpid();
    return result;
}

/* And end it.  A fork child has no such thread. */
static void ul_watch_end(ul_watch *watch)
{
    if (watch->pid == getpid()) {
        ul_set_and_wake(&watch->is_stopped, 1);
        pthread_join(watch->thread, NULL);
    }
    watch->pid = 0;
}

/* For the reporting thread, without the GIL: the oldest notice, or NULL when the watch is over. */
static ul_notice *ul_watch_wait(ul_watch *watch)
{
    uint32_t n_noticed;

    while (((n_noticed = UL_READ(watch->n_noticed)) & ~UL_WATCH_OVER) == watch->n_taken) {
        if (n_noticed & UL_WATCH_OVER)
            return NULL;
        syscall(SYS_futex, &watch->n_noticed, FUTEX_WAIT_PRIVATE, n_noticed, NULL, NULL, 0);
    }
    return &watch->notices[watch->n_taken & (UL_MOST_NOTICES - 1)];
}

/* Its place is free from now on. */
static void ul_watch_take(ul_watch *watch)
{
    UL_PUBLISH(watch->n_taken, watch->n_taken + 1);
}
#endif
