/*
 * Is the clock of asyncio, `time.monotonic` as asyncio.base_events finds it, still the C function?  And has a class
 * changed?  Programs replace both at any time, and stock asyncio looks them up each time; these cost a few comparisons.
 *
 * Each interpreter has a clock: its asyncio and its `time`.  Any thread may ask; without a GIL two at once find the same.
 */
#ifndef URINGLOOP_STOCK_CLOCK_H
#define URINGLOOP_STOCK_CLOCK_H
#include <Python.h>
#include <stdint.h>
#include <string.h>

/* `kept` has a reference to each of the objects. */
struct ul_stock_clock {
    PyObject *kept;                    /* a list, borrowed as they are */
    PyObject *asyncio_names;
    PyObject *time_module;
    PyObject *time_names;
    PyTypeObject *view_type;
    PyObject *monotonic;               /* the C function; NULL as long as only another one was seen */
    PyCFunction monotonic_code;        /* some tools replace this, and leave the object */
    int has_stock_names;               /* what the last lookup in the two dictionaries found */
    uint64_t names_seen;               /* their version at that lookup */
};

#if PY_VERSION_HEX >= 0x030C0000
static uint64_t ul_n_changes = 1;      /* atomic; in any interpreter */

static int ul_on_change(PyDict_WatchEvent event, PyObject *names, PyObject *name, PyObject *value)
{
    (void)event, (void)names, (void)name, (void)value;
    /* before the change; nothing is looked up until it is made */
    __atomic_fetch_add(&ul_n_changes, 1, __ATOMIC_RELAXED);
    return 0;
}
static int ul_watch_names(const struct ul_stock_clock *clock)
{
    int id = PyDict_AddWatcher(ul_on_change);
    return id < 0 || PyDict_Watch(id, clock->asyncio_names) < 0 || PyDict_Watch(id, clock->time_names) < 0 ? -1 : 0;
}
static inline uint64_t ul_names_version(const struct ul_stock_clock *clock)
{
    (void)clock;
    return __atomic_load_n(&ul_n_changes, __ATOMIC_RELAXED);
}
#else
static int ul_watch_names(const struct ul_stock_clock *clock)
{
    (void)clock;
    return 0;
}
static inline uint64_t ul_names_version(const struct ul_stock_clock *clock)
{
    /* Both only ever grow. */
    return ((PyDictObject *)clock->asyncio_names)->ma_version_tag + ((PyDictObject *)clock->time_names)->ma_version_tag;
}
#endif

/* An object that stays, or NULL with an exception. */
static PyObject *ul_keep(struct ul_stock_clock *clock, PyObject *object)
{
    return PyList_Append(clock->kept, object) < 0 ? NULL : object;
}

static int ul_learn_clock(struct ul_stock_clock *clock, PyObject *kept, PyObject *asyncio_names, PyObject *time_module,
                          PyObject *view_type)
{
    clock->kept = kept;
    clock->asyncio_names = ul_keep(clock, asyncio_names);
    clock->time_module = ul_keep(clock, time_module);
    clock->time_names = ul_keep(clock, PyModule_GetDict(time_module));
    clock->view_type = (PyTypeObject *)ul_keep(clock, view_type);
    return PyErr_Occurred() ? -1 : ul_watch_names(clock);
}

/* An own reference, or NULL. */
static PyObject *ul_look_up(PyObject *names, PyObject *name)
{
    PyObject *found = NULL;

#if PY_VERSION_HEX >= 0x030D0000
    if (PyDict_GetItemRef(names, name, &found) < 0)
        PyErr_Clear();                 /* as if it were not there */
#else
    found = PyDict_GetItemWithError(names, name);
    Py_XINCREF(found);
#endif
    return found;
}

/* Whether the function is the module's own; the first such function is remembered. */
static int ul_is_own_monotonic(struct ul_stock_clock *clock, PyObject *function)
{
    PyObject *known = __atomic_load_n(&clock->monotonic, __ATOMIC_ACQUIRE);

    if (known != NULL || function == NULL || !PyCFunction_CheckExact(function)
        || PyCFunction_GET_SELF(function) != clock->time_module
        || strcmp(((PyCFunctionObject *)function)->m_ml->ml_name, "monotonic") != 0)
        return function != NULL && function == known;
    if (ul_keep(clock, function) == NULL) {
        PyErr_Clear();                 /* looked at again with the next question */
        return 0;
    }
    __atomic_store_n(&clock->monotonic_code, PyCFunction_GET_FUNCTION(function), __ATOMIC_RELAXED);
    __atomic_store_n(&clock->monotonic, function, __ATOMIC_RELEASE);
    return 1;
}

static inline int ul_has_stock_code(const struct ul_stock_clock *clock)
{
    PyObject *monotonic = __atomic_load_n(&clock->monotonic, __ATOMIC_ACQUIRE);

    return monotonic == NULL || PyCFunction_GET_FUNCTION(monotonic) == clock->monotonic_code;
}

/* Whether asyncio.base_events' time.monotonic is the C function. */
static int ul_is_clock_stock_by(struct ul_stock_clock *clock, PyObject *name_time, PyObject *name_monotonic)
{
    uint64_t version = ul_names_version(clock);
    if (version != __atomic_load_n(&clock->names_seen, __ATOMIC_ACQUIRE)) {
        PyObject *module = ul_look_up(clock->asyncio_names, name_time);
        PyObject *function = ul_look_up(clock->time_names, name_monotonic);
        int is_stock = module == clock->time_module && ul_is_own_monotonic(clock, function);

        Py_XDECREF(module);
        Py_XDECREF(function);
        __atomic_store_n(&clock->has_stock_names, is_stock, __ATOMIC_RELAXED);
        __atomic_store_n(&clock->names_seen, version, __ATOMIC_RELEASE);
    }
    return __atomic_load_n(&clock->has_stock_names, __ATOMIC_RELAXED) && ul_has_stock_code(clock);
}

/* As long as it is the same, so is the result of the function above; 0: call that. */
static inline uint64_t ul_clock_version(const struct ul_stock_clock *clock)
{
    return ul_has_stock_code(clock) ? ul_names_version(clock) : 0;
}

/* A different number after each change of the type or its bases; 0: changed, and not looked up since. */
static inline unsigned ul_view_tag(const struct ul_stock_clock *clock)
{
    return clock->view_type->tp_version_tag;
}
static inline unsigned ul_class_tag(PyObject *object)
{
    return Py_TYPE(object)->tp_version_tag;
}
#endif
