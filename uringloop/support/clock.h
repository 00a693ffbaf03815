/* The loop's only clock: CLOCK_MONOTONIC in nanoseconds, the clock of time.monotonic(). */
#ifndef URINGLOOP_CLOCK_H
#define URINGLOOP_CLOCK_H
#include <dlfcn.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline int64_t ul_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The same clock from the kernel itself; -1 where that is refused. */
static inline int64_t ul_kernels_monotonic_ns(void)
{
    struct timespec now;
    if (syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now) < 0)
        return -1;
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * A preloaded library (libfaketime) moves the clock: it has an offset, or runs at another speed.  Such a library
 * replaces functions of the C library, but not other system calls, whose timeouts stay real.
 * The first line is the whole cost for all other programs: clock_gettime() is the C library's own.
 */
static inline int ul_is_clock_faked(void)
{
    static int is_interposed = -1;
    int64_t before_ns, faked_ns, after_ns;
    Dl_info clock, libc;

    if (is_interposed < 0)
        is_interposed = dladdr((void *)clock_gettime, &clock) && dladdr((void *)getauxval, &libc)
            && clock.dli_fbase != libc.dli_fbase;
    if (!is_interposed)
        return 0;
    before_ns = ul_kernels_monotonic_ns();
    faked_ns = ul_monotonic_ns();
    after_ns = ul_kernels_monotonic_ns();
    return before_ns >= 0 && (faked_ns < before_ns || faked_ns > after_ns);
}
#endif
