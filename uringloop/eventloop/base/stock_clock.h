/*
 * Is the clock of asyncio, `time.monotonic` as asyncio.base_events finds it, still the C function?  And has a class
 * changed?  Programs replace both at any time, and stock asyncio looks them up each time; these cost a few comparisons.
 *
 * With the GIL.  State is per process: sub-interpreters have no loops of ours.
 */
#ifndef URINGLOOP_STOCK_CLOCK_H
#define URINGLOOP_STOCK_CLOCK_H
#include <Python.h>
#include <stdint.h>
#include <string.h>

static PyObject *ul_asyncio_names;     /* these five are owned for ever */
static PyObject *ul_time_module;
static PyObject *ul_time_names;
static PyTypeObject *ul_view_type;
static PyObject *ul_monotonic;         /* the C function; NULL as long as only another one was seen */
static PyCFunction ul_monotonic_code;  /* some tools replace this, and leave the object */
static int ul_has_stock_names;         /* what the last lookup in the two dictionaries found */
static uint64_t ul_names_seen;         /* their version at that lookup */

#if PY_VERSION_HEX >= 0x030C0000
static uint64_t ul_n_changes = 1;

static int ul_on_change(PyDict_WatchEvent event, PyObject *names, PyObject *name, PyObject *value)
{
    (void)event, (void)names, (void)name, (void)value;
    ul_n_changes++;                    /* before the change; nothing is looked up until it is made */
    return 0;
}
static int ul_watch_names(void)
{
    int id = PyDict_AddWatcher(ul_on_change);
    return id < 0 || PyDict_Watch(id, ul_asyncio_names) < 0 || PyDict_Watch(id, ul_time_names) < 0 ? -1 : 0;
}
static inline uint64_t ul_names_version(void)
{
    return ul_n_changes;
}
#else
static int ul_watch_names(void)
{
    return 0;
}
static inline uint64_t ul_names_version(void)
{
    /* Both only ever grow. */
    return ((PyDictObject *)ul_asyncio_names)->ma_version_tag + ((PyDictObject *)ul_time_names)->ma_version_tag;
}
#endif

static int ul_learn_clock(PyObject *asyncio_names, PyObject *time_module)
{
    ul_asyncio_names = Py_NewRef(asyncio_names);
    ul_time_module = Py_NewRef(time_module);
    ul_time_names = Py_NewRef(PyModule_GetDict(time_module));
    return ul_watch_names();
}

/* Whether the function is the module's own; the first such function is remembered. */
static int ul_is_own_monotonic(PyObject *function)
{
    if (ul_monotonic != NULL || function == NULL || !PyCFunction_CheckExact(function)
        || PyCFunction_GET_SELF(function) != ul_time_module
        || strcmp(((PyCFunctionObject *)function)->m_ml->ml_name, "monotonic") != 0)
        return function != NULL && function == ul_monotonic;
    ul_monotonic = Py_NewRef(function);
    ul_monotonic_code = PyCFunction_GET_FUNCTION(function);
    return 1;
}

static inline int ul_has_stock_code(void)
{
    return ul_monotonic == NULL || PyCFunction_GET_FUNCTION(ul_monotonic) == ul_monotonic_code;
}

/* Whether asyncio.base_events' time.monotonic is the C function. */
static int ul_is_clock_stock_by(PyObject *name_time, PyObject *name_monotonic)
{
    uint64_t version = ul_names_version();
    if (version != ul_names_seen) {
        ul_has_stock_names = PyDict_GetItemWithError(ul_asyncio_names, name_time) == ul_time_module
            && ul_is_own_monotonic(PyDict_GetItemWithError(ul_time_names, name_monotonic));
        ul_names_seen = version;
    }
    return ul_has_stock_names && ul_has_stock_code();
}

/* As long as it is the same, so is the result of the function above; 0: call that. */
static inline uint64_t ul_clock_version(void)
{
    return ul_has_stock_code() ? ul_names_version() : 0;
}

static void ul_learn_view(PyObject *type)
{
    ul_view_type = (PyTypeObject *)Py_NewRef(type);
}

/* A different number after each change of the type or its bases; 0: changed, and not looked up since. */
static inline unsigned ul_view_tag(void)
{
    return ul_view_type->tp_version_tag;
}
static inline unsigned ul_class_tag(PyObject *object)
{
    return Py_TYPE(object)->tp_version_tag;
}
#endif
