# Handlers in Python: callbacks of an fd, and memory that is polled.
from libc.stdint cimport int64_t

from ..fdmon.base cimport FdHandler, ReadyList
from .handles cimport Handle

cdef class PollHandler(FdHandler):
    cdef PollHandlers owner        # the context's; None for one without io_poll
    cdef object io_poll            # returns whether there is work to do, without side effects; or None
    cdef Handle io_poll_ready      # does the work
    cdef bint is_found             # its own io_poll returned true, and io_poll_ready did not run since
    cdef bint is_busy              # its io_poll or io_poll_ready runs: not to be polled in a nested turn
    cdef bint is_active            # called in each round of polling
    cdef int64_t last_ns           # when it last had something to do, or joined
    cdef int run_found(self) except -1

cdef class CallbackHandler(PollHandler):
    cdef Handle io_read
    cdef Handle io_write

cdef class PollHandlers:
    cdef object guard              # the context's
    cdef list active               # with an fd: called while the loop polls
    cdef list bare                 # without an fd: also polled in each turn
    cdef list resting              # without an fd and idle: polled now and then
    cdef unsigned long thread      # the context's; 0 for none yet
    cdef int depth                 # rounds in progress: lists are replaced, not changed
    cdef int64_t carried_ns        # waited since something happened, in waits that were cut short
    cdef int64_t last_ns           # when one without an fd last had something to do, or was added
    cdef int64_t next_rest_ns      # when to poll the resting ones
    cdef int64_t next_expiry_ns    # when to drop idle ones
    cdef int join(self, PollHandler handler) except -1
    cdef int leave(self, PollHandler handler) except -1
    cdef bint ask(self, ReadyList ready_list) except -1
    cdef bint ask_bare(self, ReadyList ready_list) except -1
    cdef bint ask_all_of(self, list handlers, ReadyList ready_list) except -1
    cdef bint ask_one(self, PollHandler handler, ReadyList ready_list) except -1
    cdef bint has_bare(self) noexcept
    cdef int64_t bounded_ns(self, int64_t timeout_ns) except? -2
    cdef int64_t carry(self, int64_t waited_ns, bint is_quiet) noexcept
    cdef int expire(self, int64_t now_ns, int64_t idle_ns, bint has_notification) except -1
    cdef int close(self) except -1
