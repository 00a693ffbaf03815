# Timers by due time.
from libc.stdint cimport int64_t, uint64_t
from cpython.ref cimport PyObject

from .handles cimport TimerHandle, TimerOwner

cdef struct TimerEntry:
    int64_t when_ns
    uint64_t sequence      # keeps the order of equal times
    PyObject *handle       # owned reference to a TimerHandle

cdef class Timers(TimerOwner):
    cdef object collected  # always None: an object field makes the class garbage-collected
    cdef TimerEntry *heap  # 4-ary; owned
    cdef size_t count
    cdef size_t capacity
    cdef size_t n_cancelled
    cdef uint64_t sequence
    cdef int push(self, TimerHandle handle) except -1
    cdef TimerHandle pop(self)
    cdef int64_t next_when_ns(self) noexcept
    cdef TimerHandle first(self)
    cdef list handles(self)
    cdef void sift_down(self, size_t at, TimerEntry entry) noexcept
    cdef void compact(self) noexcept
    cdef void clear(self) noexcept
