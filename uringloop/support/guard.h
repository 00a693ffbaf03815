/*
 * Guards: what the GIL is to the objects of one context, in a free-threaded Python (PEP 703).  Elsewhere there is nothing
 * here but constants.
 *
 * Each context has a guard, an object whose mutex a thread holds while it works on the context, its loop, or anything
 * that belongs to them.  It is taken where Python calls in: building/guards.py puts ul_begin_visit() and ul_end_visit()
 * around the methods.  The run of a loop is such a visit, too: the loop's thread has the guard all the time, and finds
 * that out by a look at its own stack, without an atomic operation, in each call from its callbacks.
 *
 * It is taken as a critical section.  So, as the GIL, it is released while its thread is detached: in a wait, in blocking
 * calls of callbacks, and for a stop of all threads (garbage collection, fork).  There another thread may get in.
 * No order of guards, and nothing that a callback waits for, leads to a deadlock.
 *
 * Not guarded are what any thread may call at any time, call_soon_threadsafe() first of all: short locks, named in
 * support/process_state.py and in docs/architecture.md.
 */
#ifndef URINGLOOP_GUARD_H
#define URINGLOOP_GUARD_H
#include <Python.h>
#include <stdlib.h>

#ifdef Py_GIL_DISABLED
#include <pthread.h>
#define UL_FREE_THREADED 1

/* In the pointers that link critical sections, see Python's pycore_critical_section.h: the same in 3.13 and 3.14. */
#define UL_SECTION_IS_INACTIVE 1
#define UL_SECTION_TAGS 3

typedef struct {
    PyCriticalSection section;
    PyCriticalSection *below;          /* what has the guard below other sections, for the time of the visit not; or NULL */
    PyObject *guard;                   /* owned; NULL where nothing was taken */
} ul_visit;

/* The section of this thread that has the guard now, or NULL. */
static inline PyCriticalSection *ul_section_with(uintptr_t at, PyObject *guard)
{
    /* What is below an inactive one is inactive as well: released, until the one above ends. */
    while ((at & ~(uintptr_t)UL_SECTION_TAGS) && !(at & UL_SECTION_IS_INACTIVE)) {
        PyCriticalSection *section = (PyCriticalSection *)(at & ~(uintptr_t)UL_SECTION_TAGS);

        if (section->_cs_mutex == &guard->ob_mutex)
            return section;
        at = section->_cs_prev;
    }
    return NULL;
}

/* Whether this thread has the guard now. */
static inline int ul_is_held(PyObject *guard)
{
    return ul_section_with(PyThreadState_GetUnchecked()->critical_section, guard) != NULL;
}

static __attribute__((noinline)) void ul_take_guard(ul_visit *visit, PyObject *guard)
{
    visit->guard = Py_NewRef(guard);
    visit->below = NULL;
    PyCriticalSection_Begin(&visit->section, guard);
}

/*
 * The guard is held, but below another section: that of a task, in which asyncio calls each step.  Python takes back only
 * the uppermost one when a thread has been detached, so for the time of the visit the guard moves up.
 */
static inline void ul_lift_guard(ul_visit *visit, PyObject *guard, PyThreadState *state, PyCriticalSection *below)
{
    visit->guard = Py_NewRef(guard);
    visit->below = below;
    visit->section._cs_mutex = below->_cs_mutex;
    visit->section._cs_prev = state->critical_section;
    below->_cs_mutex = NULL;
    state->critical_section = (uintptr_t)&visit->section;
}

/* NULL or None: the object belongs to no context, or not any more. */
static inline void ul_begin_visit(ul_visit *visit, PyObject *guard)
{
    PyThreadState *state;
    PyCriticalSection *held;

    visit->guard = NULL;
    if (guard == NULL || guard == Py_None)
        return;
    state = PyThreadState_GetUnchecked();
    held = ul_section_with(state->critical_section, guard);
    if (held == NULL)
        ul_take_guard(visit, guard);
    else if ((uintptr_t)held != (state->critical_section & ~(uintptr_t)UL_SECTION_TAGS))
        ul_lift_guard(visit, guard, state, held);
}

static inline void ul_end_visit(ul_visit *visit)
{
    if (visit->guard == NULL)
        return;
    if (visit->below != NULL)
        visit->below->_cs_mutex = visit->section._cs_mutex;
    if (visit->below != NULL && !(visit->section._cs_prev & UL_SECTION_IS_INACTIVE))
        PyThreadState_GetUnchecked()->critical_section = visit->section._cs_prev;  /* never detached: it stays locked */
    else
        PyCriticalSection_End(&visit->section);  /* the one below takes the guard again when it is the uppermost */
    Py_DECREF(visit->guard);
}

/* Whether another thread waits for it: bit 1 of a PyMutex, the same in all versions so far. */
static inline int ul_is_wanted(PyObject *guard)
{
    return (__atomic_load_n(&guard->ob_mutex._bits, __ATOMIC_RELAXED) & 2) != 0;
}

/* Let another thread have it. */
static __attribute__((noinline, unused)) void ul_let_others_in(void)
{
    PyThreadState *state = PyEval_SaveThread();

    PyEval_RestoreThread(state);
}

/* A lock that is held for a few instructions, in which nothing waits and no Python code runs. */
typedef PyMutex ul_short_lock;
#define ul_acquire(lock) PyMutex_Lock(lock)
#define ul_release(lock) PyMutex_Unlock(lock)

/* Memory that this thread has to itself, one piece in each module: `make` makes it, and it is freed with the thread. */
static pthread_key_t ul_memory_key;
static pthread_once_t ul_memory_once = PTHREAD_ONCE_INIT;
static void ul_make_memory_key(void)
{
    pthread_key_create(&ul_memory_key, free);
}
static inline __attribute__((unused)) void *ul_own_memory(void *(*make)(void))
{
    static __thread void *mine;

    if (mine == NULL && (mine = make()) != NULL) {
        pthread_once(&ul_memory_once, ul_make_memory_key);
        pthread_setspecific(ul_memory_key, mine);
    }
    return mine;
}

/* Ours is the only reference, and this thread has made it. */
static inline int ul_is_ours_alone(PyObject *object)
{
    return __atomic_load_n(&object->ob_tid, __ATOMIC_RELAXED) == _Py_ThreadId()
        && __atomic_load_n(&object->ob_ref_local, __ATOMIC_RELAXED) == 1
        && __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED) == 0;
}

/* A reference to an object that is known by its address alone, and may be at its end: see TransportTable. */
static inline __attribute__((unused)) void ul_know_weakly(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030E0000
    PyUnstable_EnableTryIncRef(object);
#else
    Py_ssize_t shared = __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED);

    while (!(shared & _Py_REF_SHARED_FLAG_MASK)
           && !__atomic_compare_exchange_n(&object->ob_ref_shared, &shared, shared | _Py_REF_MAYBE_WEAKREF, 0,
                                           __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
#endif
}

/* Whether it is alive; the caller then has a reference.  Its memory must be there. */
static inline __attribute__((unused)) int ul_try_incref(PyObject *object)
{
#if PY_VERSION_HEX >= 0x030E0000
    return PyUnstable_TryIncRef(object);
#else
    Py_ssize_t shared = __atomic_load_n(&object->ob_ref_shared, __ATOMIC_RELAXED);

    if (__atomic_load_n(&object->ob_tid, __ATOMIC_RELAXED) == _Py_ThreadId()) {
        Py_INCREF(object);
        return 1;
    }
    do {
        if (shared == 0 || shared == _Py_REF_MERGED)
            return 0;
    } while (!__atomic_compare_exchange_n(&object->ob_ref_shared, &shared, shared + (1 << _Py_REF_SHARED_SHIFT), 0,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return 1;
#endif
}

#else

#define UL_FREE_THREADED 0
typedef char ul_short_lock;                  /* the GIL */
#define ul_acquire(lock) ((void)(lock))
#define ul_release(lock) ((void)(lock))
#define ul_is_held(guard) ((void)(guard), 1)
#define ul_is_wanted(guard) ((void)(guard), 0)
#define ul_let_others_in() ((void)0)
#define ul_own_memory(make) ((void)(make), (void *)NULL)
#define ul_is_ours_alone(object) (Py_REFCNT(object) == 1)
#define ul_know_weakly(object) ((void)(object))
#define ul_try_incref(object) (Py_INCREF(object), 1)

#endif

/* For a number or an address that one thread writes while others read it. */
#define ul_peek(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define ul_poke(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)

/* For what is found once and never changes: whether `value` is it from now on, and not another thread's. */
static inline __attribute__((unused)) int ul_set_once(void *place, void *value)
{
    void *none = NULL;

    return __atomic_compare_exchange_n((void **)place, &none, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
#endif
