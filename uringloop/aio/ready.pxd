# The FIFO of callbacks to run (QEMU: bottom halves, but first in first out).
from cpython.ref cimport PyObject

from .handles cimport Handle

cdef class ReadyQueue:
    cdef object collected     # always None: an object field makes the class one that is garbage-collected
    cdef PyObject **items     # a ring of owned references
    cdef size_t head
    cdef size_t tail
    cdef size_t mask
    cdef int grow(self) except -1
    cdef int push(self, Handle handle) except -1
    cdef Handle pop(self)
    cdef void clear(self) noexcept
    cdef size_t count(self) noexcept
