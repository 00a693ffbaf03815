/*
 * What a recorder keeps in C: histograms, the events of the last while, and what the loop's thread does right now.
 *
 * The last is for other threads, which need no GIL to read it: the loop's thread alone writes, each field by itself.
 * `n_begun` changes first, so a reader that finds it the same before and after has read one state.
 */
#ifndef URINGLOOP_RECORDER_H
#define URINGLOOP_RECORDER_H
#include <stdint.h>

enum ul_state {
    UL_OUTSIDE,      /* nothing runs the loop */
    UL_LOOP,         /* the loop's own work */
    UL_CALLBACK,     /* user code, and the protocols and tasks of asyncio */
    UL_CALLS,        /* system calls that do not wait */
    UL_WAIT,         /* asleep until an event or a timer */
    UL_POLL,         /* busy-polling */
    UL_COLLECT,      /* garbage collection, in the loop's thread */
    UL_N_STATES
};

/*
 * Histograms have 16 buckets per power of two, so that a value is known to 6.25 %, from 1 ns to 18 minutes: longer ones
 * are in the last bucket.
 */
enum { UL_SUB_BITS = 4, UL_LONGEST_BITS = 40, UL_N_BUCKETS = (UL_LONGEST_BITS - UL_SUB_BITS + 1) << UL_SUB_BITS };

typedef struct {
    uint64_t count;
    int64_t total_ns, longest_ns;
    uint64_t buckets[UL_N_BUCKETS];
} ul_histogram;

static inline int ul_bucket(int64_t value_ns)
{
    int exponent;

    if (value_ns < (1 << UL_SUB_BITS))
        return value_ns < 0 ? 0 : (int)value_ns;
    exponent = 63 - __builtin_clzll((unsigned long long)value_ns);
    if (exponent >= UL_LONGEST_BITS)
        return UL_N_BUCKETS - 1;
    return ((exponent - UL_SUB_BITS + 1) << UL_SUB_BITS)
        + (int)((value_ns >> (exponent - UL_SUB_BITS)) & ((1 << UL_SUB_BITS) - 1));
}

/* The least value that falls into a bucket. */
static inline int64_t ul_bucket_start(int bucket)
{
    int exponent = (bucket >> UL_SUB_BITS) + UL_SUB_BITS - 1;

    if (bucket < (1 << UL_SUB_BITS))
        return bucket;
    return ((int64_t)(1 << UL_SUB_BITS) + (bucket & ((1 << UL_SUB_BITS) - 1))) << (exponent - UL_SUB_BITS);
}

static inline void ul_count(ul_histogram *into, int64_t value_ns)
{
    into->count++;
    into->total_ns += value_ns;
    if (value_ns > into->longest_ns)
        into->longest_ns = value_ns;
    into->buckets[ul_bucket(value_ns)]++;
}

typedef struct {
    int64_t began_ns, took_ns;
    int state, entry;             /* enum ul_state; with UL_CALLBACK its number in the recorder's table */
} ul_event;

/* Written by the loop's thread alone; the rest of this file is its own. */
typedef struct {
    uint64_t n_begun;             /* what began: callbacks, returns to one from a nested run, the loop's own work */
    int64_t since_ns;             /* when it did; 0: the loop waits, or does not run */
    int entry;                    /* the callback's number in the table; -1: the loop's own work */
    int tid;                      /* the thread that runs the loop; 0: none does */
} ul_now;

#define UL_PUBLISH(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)
#define UL_READ(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)

static inline void ul_now_begin(ul_now *now, int64_t since_ns, int entry)
{
    __atomic_store_n(&now->n_begun, now->n_begun + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __atomic_store_n(&now->entry, entry, __ATOMIC_RELAXED);
    UL_PUBLISH(now->since_ns, since_ns);
}

static inline void ul_now_rest(ul_now *now)
{
    UL_PUBLISH(now->since_ns, 0);
}

/* For any thread: what the loop's thread does, as one consistent state.  Returns 0 where it waits, or runs no loop. */
static inline int ul_read_now(const ul_now *now, ul_now *copy)
{
    do {
        copy->n_begun = UL_READ(now->n_begun);
        copy->since_ns = UL_READ(now->since_ns);
        copy->entry = __atomic_load_n(&now->entry, __ATOMIC_RELAXED);
        copy->tid = __atomic_load_n(&now->tid, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
    } while (__atomic_load_n(&now->n_begun, __ATOMIC_RELAXED) != copy->n_begun);
    return copy->since_ns != 0 && copy->tid != 0;
}
#endif
