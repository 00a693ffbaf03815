# Cancellable callbacks: asyncio's Handle and TimerHandle.
from libc.stdint cimport int64_t

cdef class Handle:
    cdef object callback           # None after cancel
    cdef object args               # tuple; None after cancel
    cdef object aio_context        # contextvars.Context to run in (asyncio's `context` argument)
    cdef object loop               # who reports exceptions; opaque here
    cdef object source_traceback   # debug mode only
    cdef object repr_text          # repr from before cancel, debug mode only
    cdef bint is_cancelled
    cdef object __weakref__
    cdef int run(self) except -1

cdef class TimerHandle(Handle):
    cdef int64_t when_ns           # due at this monotonic time
    cdef double when_s             # what the caller said
    cdef bint is_scheduled         # on the heap of `timers`
    cdef object timers             # the Timers it was scheduled on
