# The FIFO of callbacks to run (QEMU: bottom halves, but first in first out).
from cpython.ref cimport PyObject

from ..support.guard cimport short_lock
from ..support.references cimport References
from .handles cimport Handle

cdef class ReadyQueue(References):
    cdef PyObject *spare[256]  # handles that ran, empty, without other references, for reuse; owned
    cdef int n_spare
    cdef size_t n_idle        # idle bottom halves that wait: the wait is bounded
    cdef unsigned long long n_void  # queued, and no progress: cancelled or idle bottom halves
    # Callbacks of other threads, where there is no GIL; the loop's thread takes them over:
    cdef References arrived
    cdef size_t n_arrived     # how many these are; read without the lock
    cdef bint is_shut         # closed: no more come
    cdef short_lock lock      # of these three
    cdef int push_from_any(self, object guard, Handle handle) except -1
    cdef int take_arrived(self) except -1
    cdef int shut(self) except -1
    cdef int have_room(self) except -1
    cdef int push(self, Handle handle) except -1
    cdef Handle pop(self)
    cdef list handles(self)
    cdef Handle new_handle(self)
    cdef int recycle(self, Handle handle) except -1
