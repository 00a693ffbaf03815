# Completions that were harvested and wait for dispatch.
from libc.stdint cimport int32_t, uint32_t
from cpython.ref cimport PyObject

from .request cimport Request

cdef struct Completion:
    PyObject *request   # owned reference
    char *data          # the provided buffer's bytes, or NULL
    int32_t res
    uint32_t flags

cdef class CompletionFifo:
    cdef object collected     # always None: an object field makes the class garbage-collected
    cdef Completion *items    # a ring
    cdef size_t head          # next to dispatch
    cdef size_t tail          # next free
    cdef size_t mask
    cdef size_t count(self) noexcept
    cdef int reserve(self, size_t n_more) except -1
    cdef int push(self, Request request, int32_t res, uint32_t flags, char *data) except -1
    cdef Completion pop(self) noexcept
    cdef int put_back(self, Request request, int32_t res, uint32_t flags) except -1
    cdef int grow(self) except -1
