/*
 * References that the garbage collector cannot see, made visible.
 *
 * Cython writes tp_traverse from the object fields of a class; arrays of owned references in C memory are not among
 * them, and a loop that is dropped with callbacks pending would never be collected (loop -> queue -> handle -> loop).
 * ul_collect() puts our function before Cython's.
 */
#ifndef URINGLOOP_COLLECT_H
#define URINGLOOP_COLLECT_H
#include <Python.h>

/*
 * Takes no reference to `self`, not even for a moment: a Python with Py_DEBUG calls it for objects that are being freed
 * (PyObject_GC_Track() visits what it is given), and the end of that reference would free them again.  In Cython,
 * `(<Class>self).field` takes none, and a variable of the class does.
 */
typedef int (*ul_traverse_own)(PyObject *self, visitproc visit, void *arg);

/*
 * The next class behind that of `current`.  Where types are on the heap (support/interpreters.h) Cython's function
 * looks for itself in the classes of the object, to continue with the base, and does not find itself behind ours.
 */
static inline int ul_traverse_base(PyObject *self, visitproc visit, void *arg, traverseproc current)
{
#if CYTHON_USE_MODULE_STATE
    PyTypeObject *type = Py_TYPE(self);

    while (type != NULL && type->tp_traverse != current)
        type = type->tp_base;
    while (type != NULL && type->tp_traverse == current)
        type = type->tp_base;
    return type != NULL && type->tp_traverse != NULL ? type->tp_traverse(self, visit, arg) : 0;
#else
    (void)self, (void)visit, (void)arg, (void)current;
    return 0;
#endif
}

#define UL_COLLECTED(NAME)                                                                     \
    static ul_traverse_own ul_own_##NAME;                                                      \
    static traverseproc ul_generated_##NAME;                                                   \
    static int ul_traverse_##NAME(PyObject *self, visitproc visit, void *arg)                  \
    {                                                                                          \
        int stop = ul_own_##NAME(self, visit, arg);                                            \
        if (!stop && ul_generated_##NAME)                                                      \
            stop = ul_generated_##NAME(self, visit, arg);                                      \
        return stop ? stop : ul_traverse_base(self, visit, arg, ul_traverse_##NAME);           \
    }                                                                                          \
    static void ul_collect_##NAME(PyObject *type, ul_traverse_own own)                         \
    {                                                                                          \
        ul_own_##NAME = own;                                                                   \
        ul_generated_##NAME = ((PyTypeObject *)type)->tp_traverse;                             \
        ((PyTypeObject *)type)->tp_traverse = ul_traverse_##NAME;                              \
    }
#endif
