from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from cpython.ref cimport PyObject

from ..liburing.liburing cimport __kernel_timespec, io_uring_sqe
from ..support.references cimport References
from ..uring.buffers cimport BufferRing, LentBuffers
from ..uring.completions cimport Completion, CompletionFifo
from ..uring.request cimport InFlight, Request
from ..uring.ring cimport Ring
from .base cimport FDMonitor, FdHandler, ReadyList
from .epoll cimport EpollMonitor

cdef class PollRequest(Request):
    cdef FdHandler handler
    cdef bint is_multishot         # what nobody asked for ended the last one: see poll_completed

cdef class SweepRequest(Request):
    cdef __kernel_timespec period  # what its SQE points to; lives in this held object

cdef class MovableRequest(Request):
    cdef unsigned used_at          # the sweep after which it was armed, or reported something
    cdef int leave_ring(self) except -1

cdef class SetHandler(FdHandler):
    cdef EpollMonitor watches

cdef class IoUringMonitor(FDMonitor):
    cdef Ring ring                     # replaced when the loop moves to another thread
    cdef InFlight in_flight
    cdef InFlight late                 # completed, and a notification may follow: see uring/request, end()
    cdef bint has_remains              # requests that are over may have left something in the ring: see note_sqe()
    cdef LentBuffers lent              # what those buffers keep alive; None until there are some
    cdef BufferRing buffers            # made on first use; None until then
    cdef bint has_no_buffers           # the kernel has no buffer ring or no multishot RECV, or memory is short
    cdef ReadyList ready_list          # the context's, known from the first wait on
    cdef CompletionFifo fifo           # harvested, not dispatched
    cdef Py_ssize_t harvested_bytes    # received since this wait began
    cdef bint is_prepared              # by gsource_prepare: what it reported is armed again after its dispatch only
    cdef list to_arm                   # FdHandlers whose POLL_ADD goes out with the next wait
    cdef bint is_to_arm_short          # one could not be appended: all handlers have to be looked at
    cdef SetHandler closable           # watches for handlers whose fd may be closed; None until there is one
    cdef SetHandler resting            # for what has left the ring (`rest`), which is not in `handlers`; or None
    cdef SweepRequest next_sweep       # in flight while something may have to leave the ring
    cdef bint must_sweep               # it is over: with the next wait
    cdef unsigned n_sweeps             # a time: never 0
    cdef unsigned *busy_at             # fd -> the sweep after which something came for it, 0 for never; owned array
    cdef int busy_capacity
    cdef set movable                   # MovableRequests, from their arming until a sweep finds that they are over
    cdef References unsettled          # KIND_SKIP_SENDs of this enter
    cdef bint has_run                  # begin_run was called
    cdef bint is_pollable              # of the ring's kind that wakes who sleeps on its fd, also after a move
    cdef bint is_bound                 # registrations were made with this ring
    cdef bint has_tables               # buffers or files were registered with this ring
    cdef readonly bint skip_sends      # a failed SEND reports its partial count: CQE-less sends are sound
    cdef unsigned long long n_completed
    cdef unsigned long long n_cq_overflows
    cdef unsigned long long n_syscalls_before  # of rings that were replaced
    cdef unsigned long long n_submitted_before
    cdef size_t n_in_limbo             # requests whose memory the kernel may still hold after a foreign close

    cdef int add(self, Request request, io_uring_sqe *sqe) except -1
    cdef int add_skip_send(self, Request request, io_uring_sqe *sqe) except -1
    cdef int add_raw(self, PyObject **requests, unsigned n, const io_uring_sqe *filled) except -1
    cdef int make_room(self, unsigned n_sqes) except -1
    cdef int prepare_for_raw(self) except -1
    cdef int grow(self) except -1
    cdef int cancel(self, Request request) except -1
    cdef BufferRing buffer_ring(self)
    cdef int harvest(self) except -1
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
    cdef int settle_sends(self) except -1
    cdef int flush_cq_overflow(self) except -1
    cdef int enter_and_harvest(self, unsigned wait_count, int64_t timeout_ns) except -1
    cdef int move(self, Ring fresh, bint may_keep=*) except -1
    cdef int settle_all(self, bint is_moving) except -1
    cdef int drop_sets(self) except -1
    cdef int forget_ring(self) except -1
    cdef bint hand_on(self, bint may_keep=*) except -1
    cdef int drop_all(self, bint was_enabled) except -1
    cdef int drain(self) except -1
    cdef int complete_timed(self, Request request, Completion slot) except -1
