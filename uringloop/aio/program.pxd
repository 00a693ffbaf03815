# A program's replacements for the loop's clock and wait.
from libc.stdint cimport int64_t

from .ready cimport ReadyQueue
from .timers cimport Timers

cdef class Program:
    cdef double left_s                # the last result of timeout_ns(), in seconds and not rounded
    cdef int begin_turn(self) except -1
    cdef double now_s(self) except? -1.0
    cdef double resolution(self) except? -1.0
    cdef int select(self, object timeout_s) except -1
    cdef int64_t timeout_ns(self, Timers timers, double most_s) except? -2
    cdef int wait(self, int64_t timeout_ns, bint is_exact) except -1
    cdef int take_due(self, Timers timers, ReadyQueue due) except -1
