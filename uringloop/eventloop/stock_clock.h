/*
 * Is the clock of asyncio, `time.monotonic` as asyncio.base_events finds it, still the function of C?  And has a class
 * changed?  Programs replace both at any time, and stock asyncio looks them up each time; these cost a few comparisons.
 *
 * With the GIL.  State is the process's: sub-interpreters have no loops of ours.
 */
#ifndef URINGLOOP_STOCK_CLOCK_H
#define URINGLOOP_STOCK_CLOCK_H
#include <Python.h>
#include <stdint.h>
#include <string.h>

static PyObject *ul_asyncio_names;     /* these four are owned for ever */
static PyObject *ul_time_module;
static PyObject *ul_time_names;
static PyObject *ul_monotonic;         /* the function of C; NULL as long as only another one was seen */
static PyCFunction ul_monotonic_code;  /* some tools exchange this, and leave the object */
static int ul_has_stock_names;         /* what the last look into the two dictionaries found */

#if PY_VERSION_HEX >= 0x030C0000
static int ul_names_changed = 1;
static int ul_is_watching;

static int ul_on_change(PyDict_WatchEvent event, PyObject *names, PyObject *name, PyObject *value)
{
    (void)event, (void)names, (void)name, (void)value;
    ul_names_changed = 1;              /* before the change; nothing looks until it is made */
    return 0;
}
static int ul_watch_names(void)
{
    int id = PyDict_AddWatcher(ul_on_change);
    if (id < 0 || PyDict_Watch(id, ul_asyncio_names) < 0 || PyDict_Watch(id, ul_time_names) < 0)
        return -1;
    ul_is_watching = 1;
    return 0;
}
static inline int ul_take_change(void)
{
    int is_changed = ul_names_changed;
    ul_names_changed = !ul_is_watching;
    return is_changed;
}
#else
static uint64_t ul_asyncio_tag, ul_time_tag;

static int ul_watch_names(void)
{
    return 0;
}
static inline int ul_take_change(void)
{
    uint64_t asyncio_tag = ((PyDictObject *)ul_asyncio_names)->ma_version_tag;
    uint64_t time_tag = ((PyDictObject *)ul_time_names)->ma_version_tag;
    int is_changed = asyncio_tag != ul_asyncio_tag || time_tag != ul_time_tag;
    ul_asyncio_tag = asyncio_tag;
    ul_time_tag = time_tag;
    return is_changed;
}
#endif

static int ul_learn_clock(PyObject *asyncio_names, PyObject *time_module)
{
    ul_asyncio_names = Py_NewRef(asyncio_names);
    ul_time_module = Py_NewRef(time_module);
    ul_time_names = Py_NewRef(PyModule_GetDict(time_module));
    return ul_watch_names();
}

/* Whether the function is the module's own; the first that is, is remembered. */
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

/* Whether asyncio.base_events' time.monotonic is the function of C.  Compares pointers only. */
static inline int ul_is_clock_stock_by(PyObject *name_time, PyObject *name_monotonic)
{
    if (ul_take_change())
        ul_has_stock_names = PyDict_GetItemWithError(ul_asyncio_names, name_time) == ul_time_module
            && ul_is_own_monotonic(PyDict_GetItemWithError(ul_time_names, name_monotonic));
    return ul_has_stock_names && PyCFunction_GET_FUNCTION(ul_monotonic) == ul_monotonic_code;
}

/* Another one after each change of the type or its bases; 0: changed, and not looked up since. */
static inline unsigned ul_type_tag(PyObject *type)
{
    return ((PyTypeObject *)type)->tp_version_tag;
}
static inline unsigned ul_class_tag(PyObject *object)
{
    return Py_TYPE(object)->tp_version_tag;
}
#endif
