/* The loop's only clock: CLOCK_MONOTONIC in nanoseconds, the clock of time.monotonic(). */
#ifndef URINGLOOP_CLOCK_H
#define URINGLOOP_CLOCK_H
#include <stdint.h>
#include <time.h>

static inline int64_t ul_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
#endif
