# A context driven by a foreign loop, in three steps.
from libc.stdint cimport int64_t

from .context_core cimport ContextCore

cdef class ForeignTurns:
    cdef readonly ContextCore aio_context
    cdef readonly unsigned depth      # dispatches on the stack
    cdef bint is_attached             # until detach
    cdef bint may_sleep               # prepare allowed it, and the foreign loop is not known to be awake again
    cdef bint is_yielding             # this iteration of the foreign loop is left to others
    cdef bint is_last_turn            # stop() was called: this dispatch ends with its turn
    cdef int64_t served_ns            # spent in dispatch since others had an iteration
    cdef bint must_ask(self) noexcept
    cdef bint prepare(self, int64_t *timeout_ns) except -1
    cdef bint check(self, bint is_fd_ready) except -1
    cdef int dispatch(self, bint is_inside) except -1
    cdef bint awake(self, bint is_fd_ready) except -1
    cdef bint has_work(self) except -1
    cdef int send_off(self) except -1
