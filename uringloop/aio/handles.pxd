# Cancellable callbacks: asyncio's Handle and TimerHandle.
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    int PyContext_Enter(object)  # -1 with an exception set, which the caller handles
    int PyContext_Exit(object) except -1

cdef class Guarded:
    cdef object guard              # of its context; None: it belongs to none yet

cdef class TimerOwner:
    cdef object guard              # its context's
    cdef void handle_cancelled(self) noexcept

cdef class Handle:
    cdef object callback           # None after cancel
    cdef object first              # up to two arguments are here, which saves the tuple
    cdef object second
    cdef object args               # tuple of all arguments where there are more, or once `_args` was read; else None
    cdef object context            # contextvars.Context to run in (asyncio's `context` argument)
    cdef object loop               # what reports exceptions; opaque here
    cdef object debug_info         # debug mode only: source traceback; after cancel the repr from before
    cdef object __weakref__
    # The timer's fields are here so that both classes have one size and share the freelist of the base.
    cdef TimerOwner timers         # the heap it is on; None unless scheduled
    cdef int64_t when_ns           # due at this monotonic time
    cdef double when_s             # as the caller passed it
    cdef int n_args                # in first and second; -1: in args
    cdef bint is_cancelled
    cdef int run(self) except -1
    cdef int run_with_tuple(self, object callback, object args, object context) except -1
    cdef int refused(self, object callback) except -1
    cdef int failed(self, object callback, object context) except -1
    cdef object arguments(self)
    cdef int report(self, object error, object callback) except -1
    cdef int do_cancel(self) except -1

cdef class TimerHandle(Handle):
    pass

cdef class ThreadSafeHandle(Handle):
    cdef object lock               # threading.RLock: held while the callback runs

cdef list enter_entered(object context)
cdef list leave_down_to(object context)
cdef int enter_again(list left) except -1


cdef inline list enter_context(object context):
    """Enter it, also when a frame further down on this stack is in it; returns the argument for leave_context."""
    if PyContext_Enter(context) == 0:
        return None
    return enter_entered(context)


cdef inline int leave_context(object context, list left) except -1:
    PyContext_Exit(context)
    return 0 if left is None else enter_again(left)
