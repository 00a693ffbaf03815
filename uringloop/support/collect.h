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

typedef int (*ul_traverse_own)(PyObject *self, visitproc visit, void *arg);

#define UL_COLLECTED(NAME)                                                                     \
    static ul_traverse_own ul_own_##NAME;                                                      \
    static traverseproc ul_generated_##NAME;                                                   \
    static int ul_traverse_##NAME(PyObject *self, visitproc visit, void *arg)                  \
    {                                                                                          \
        int stop = ul_own_##NAME(self, visit, arg);                                            \
        return stop ? stop : ul_generated_##NAME ? ul_generated_##NAME(self, visit, arg) : 0;  \
    }                                                                                          \
    static void ul_collect_##NAME(PyObject *type, ul_traverse_own own)                         \
    {                                                                                          \
        ul_own_##NAME = own;                                                                   \
        ul_generated_##NAME = ((PyTypeObject *)type)->tp_traverse;                             \
        ((PyTypeObject *)type)->tp_traverse = ul_traverse_##NAME;                              \
    }
#endif
