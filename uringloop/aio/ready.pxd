# The FIFO of callbacks to run (QEMU: bottom halves, but first in first out).
from cpython.ref cimport PyObject

from ..support.references cimport References
from .handles cimport Handle

cdef class ReadyQueue(References):
    cdef PyObject *spare[256]  # handles that ran, empty, without other references, for reuse; owned
    cdef int n_spare
    cdef size_t n_idle        # idle bottom halves that wait: the wait is bounded
    cdef unsigned long long n_void  # queued, and no progress: cancelled or idle bottom halves
    cdef int have_room(self) except -1
    cdef int push(self, Handle handle) except -1
    cdef Handle pop(self)
    cdef list handles(self)
    cdef Handle new_handle(self)
    cdef int recycle(self, Handle handle) except -1
