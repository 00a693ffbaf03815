# collect.h: references in C memory that the garbage collector sees.
from cpython.ref cimport PyObject

cdef extern from "../support/collect.h":
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*ul_traverse_own)(PyObject *, visitproc, void *) noexcept
