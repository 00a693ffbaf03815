from libc.stdint cimport int32_t

from ..liburing.liburing cimport __kernel_timespec
from ..uring.completions cimport Completion
from ..uring.engine cimport Engine
from ..uring.request cimport Request
from .base cimport FDMonitor, FdHandler, ReadyList
from .epoll cimport EpollMonitor

cdef class PollRequest(Request):
    cdef FdHandler handler
    cdef IoUringMonitor monitor
    cdef bint is_multishot         # an end we did not cause ended the last one: see poll_completed

cdef class SweepRequest(Request):
    cdef __kernel_timespec period  # what its SQE points to; lives in this held object
    cdef IoUringMonitor monitor    # None unless in flight

cdef class MovableRequest(Request):
    # used_at: the sweep after which it was armed, or reported something
    cdef int leave_ring(self) except -1

cdef class SetHandler(FdHandler):
    cdef EpollMonitor watches

cdef class IoUringMonitor(FDMonitor):
    cdef Engine engine
    cdef ReadyList ready_list          # the context's, known from the first wait on
    cdef bint is_prepared              # by gsource_prepare: reported handlers are armed again only after dispatch
    cdef list to_arm                   # FdHandlers whose POLL_ADD is submitted with the next wait
    cdef bint is_to_arm_short          # one could not be appended: all handlers have to be checked
    cdef SetHandler closable           # watches for handlers whose fd may be closed; None until there is one
    cdef SetHandler resting            # for waits that have left the ring (`rest`), not in `handlers`; or None
    cdef SweepRequest next_sweep       # in flight while requests may have to leave the ring
    cdef bint must_sweep               # that is over: sweep with the next wait
    cdef unsigned n_sweeps             # a time: never 0
    cdef unsigned *busy_at             # fd -> the sweep after which it had an event, 0 for never; owned array
    cdef int busy_capacity
    cdef set movable                   # MovableRequests, from their arming until a sweep finds that they are over

    cdef int poll_reported(self, PollRequest request, int32_t res) except -1
    cdef int poll_completed(self, PollRequest request, int32_t res) except -1
    cdef bint watch_by_epoll(self, FdHandler old, FdHandler new) except -1
    cdef SetHandler watch_set(self, EpollMonitor watches)
    cdef int rest(self, FdHandler old, FdHandler new) except -1
    cdef int collect(self, SetHandler handler) except -1
    cdef bint may_last(self, MovableRequest request) except -1
    cdef int begin_sweeps(self) except -1
    cdef int sweep(self) except -1
    cdef int move_what_lasts(self) except -1
    cdef int move_to_set(self, FdHandler handler) except -1
    cdef bint is_busy(self, int fd) noexcept
    cdef void mark_busy(self, int fd) noexcept
    cdef list sets(self)
    cdef int arm_later(self, FdHandler handler) except -1
    cdef bint arm_polls(self) except -1
    cdef int disarm(self) except -1
    cdef int drop_sets(self) except -1
    cdef int complete_timed(self, Request request, Completion slot) except -1
