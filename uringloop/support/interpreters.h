/*
 * The state of a module in each interpreter of the process (PEP 684): Cython's constants and types, and the `cdef`
 * variables of the module.  building/interpreters.py puts it into the C sources that Cython makes.
 *
 * The main interpreter's state is in static memory, and lives as long as the process: most processes have no other
 * interpreter, and pay a comparison.  The state of another one is on the heap, and holds the module object.  It ends
 * with the interpreter's dictionary, after the modules' own end but before the last garbage collection, which collects
 * the types then: one object that stayed would keep all memory of the interpreter.  Objects of our types that are freed
 * even later find `ul_ended_state`, in which there is nothing, and which keeps no freed objects.
 *
 * Locks: `ul_lock` guards the list of states, and what is filled in once for all interpreters.  A state itself is guarded
 * by the GIL of its interpreter.
 */
#ifndef URINGLOOP_INTERPRETERS_H
#define URINGLOOP_INTERPRETERS_H
#include <Python.h>
#include <pthread.h>
#include <stdlib.h>

typedef struct ul_home {
    PyInterpreterState *interpreter;
    struct ul_home *next;
    __pyx_mstatetype state;
} ul_home;

static __pyx_mstatetype ul_main_state;
static __pyx_mstatetype ul_ended_state = {UL_KEEPS_NOTHING};  /* never changes */
static int ul_has_others;           /* atomic; once set it stays: any other interpreter has imported this module */
static unsigned ul_n_changes_made;  /* atomic; changes with each state that is made or freed */
static ul_home *ul_homes;           /* under ul_lock */
static pthread_mutex_t ul_lock = PTHREAD_MUTEX_INITIALIZER;

/* NULL: this interpreter has not imported the module.  With the GIL. */
static __attribute__((noinline, cold)) __pyx_mstatetype *ul_state_elsewhere(void)
{
    static __thread struct { PyInterpreterState *interpreter; __pyx_mstatetype *state; unsigned n_changes; } last;
    PyInterpreterState *interpreter = PyThreadState_Get()->interp;
    unsigned n_changes;
    ul_home *home;

    if (interpreter == PyInterpreterState_Main())
        return &ul_main_state;
    n_changes = __atomic_load_n(&ul_n_changes_made, __ATOMIC_ACQUIRE);
    if (last.interpreter == interpreter && last.n_changes == n_changes)
        return last.state;
    pthread_mutex_lock(&ul_lock);
    for (home = ul_homes; home != NULL && home->interpreter != interpreter; home = home->next)
        ;
    last.n_changes = __atomic_load_n(&ul_n_changes_made, __ATOMIC_ACQUIRE);
    pthread_mutex_unlock(&ul_lock);
    last.interpreter = interpreter;
    return last.state = home != NULL ? &home->state : NULL;
}

static __attribute__((noinline, cold)) __pyx_mstatetype *ul_some_state_elsewhere(void)
{
    __pyx_mstatetype *state = ul_state_elsewhere();
    return state != NULL ? state : &ul_ended_state;
}

static inline __attribute__((always_inline)) __pyx_mstatetype *ul_state(void)
{
    if (__builtin_expect(!__atomic_load_n(&ul_has_others, __ATOMIC_RELAXED), 1))
        return &ul_main_state;
    return ul_some_state_elsewhere();
}

/* The module object in this interpreter, NULL if it has none. */
static PyObject *ul_own_module(void)
{
    if (!__atomic_load_n(&ul_has_others, __ATOMIC_RELAXED) && PyThreadState_Get()->interp != PyInterpreterState_Main())
        return NULL;  /* the first import by another interpreter begins */
    return ul_state()->ul_module;
}

/* For the garbage collector: the main interpreter's state is no garbage, and is not looked through. */
static __pyx_mstatetype *ul_state_of(PyObject *module)
{
    __pyx_mstatetype *state = ul_state();
    return state == &ul_main_state || state->ul_module != module ? NULL : state;
}

/* Called when the interpreter's dictionary is cleared. */
static void ul_free_home(PyObject *capsule)
{
    ul_home **at, *home = PyCapsule_GetPointer(capsule, NULL);

    ul_clear_all(&home->state);
    Py_CLEAR(home->state.ul_module);
    pthread_mutex_lock(&ul_lock);
    for (at = &ul_homes; *at != home; at = &(*at)->next)
        ;
    *at = home->next;
    __atomic_fetch_add(&ul_n_changes_made, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&ul_lock);
    ul_free_memory(&home->state);
    free(home);
}

static int ul_make_home(PyInterpreterState *interpreter)
{
    ul_home *home = calloc(1, sizeof *home);
    PyObject *names = PyInterpreterState_GetDict(interpreter), *name, *capsule;
    int result = -1;

    if (home == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (names == NULL) {
        free(home);
        PyErr_SetString(PyExc_ImportError, "this interpreter has no place for the state of modules");
        return -1;
    }
    home->interpreter = interpreter;
    pthread_mutex_lock(&ul_lock);
    home->next = ul_homes;
    ul_homes = home;
    __atomic_fetch_add(&ul_n_changes_made, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&ul_lock);
    capsule = PyCapsule_New(home, NULL, ul_free_home);
    if (capsule == NULL)
        return -1;                    /* of no use, and small: the import fails */
    name = PyUnicode_FromFormat("uringloop's state %p", &__pyx_moduledef);
    if (name != NULL)
        result = PyDict_SetItem(names, name, capsule);
    Py_XDECREF(name);
    Py_DECREF(capsule);
    return result;
}

/* Takes over a reference to the module. */
static int ul_add_module(PyObject *module)
{
    PyInterpreterState *interpreter = PyThreadState_Get()->interp;

    if (interpreter != PyInterpreterState_Main()) {
        __atomic_store_n(&ul_has_others, 1, __ATOMIC_SEQ_CST);
        if (ul_state_elsewhere() == NULL && ul_make_home(interpreter) < 0) {
            Py_DECREF(module);
            return -1;
        }
    }
    ul_state()->ul_module = module;
    return 0;
}

/* Cython's own code has the module object in hand, of this interpreter. */
#undef __Pyx_PyModule_GetState
#define __Pyx_PyModule_GetState(module) ((void)(module), ul_state())

/* Whether the methods of a class have to be filled in, by the first interpreter that imports it. */
static int ul_begin_filling(void **table)
{
    pthread_mutex_lock(&ul_lock);
    return *table == NULL;
}

static void ul_end_filling(void)
{
    pthread_mutex_unlock(&ul_lock);
}

static void ul_remove_module(void)
{
    /* Where the exec of the module failed.  The reference stays: with the main interpreter, or until the state ends. */
}
#endif
