from libc.stdint cimport int32_t, int64_t, uint32_t
from cpython.ref cimport PyObject

from ..liburing.liburing cimport io_uring_sqe
from ..support.references cimport References
from .buffers cimport BufferRing, LentBuffers
from .completions cimport CompletionFifo
from .request cimport InFlight, Request
from .ring cimport Ring

cdef enum:
    SPARE_MOST = 64  # more than one harvest takes, and so more than most turns send

cdef class Engine:
    cdef Ring ring                     # replaced when the loop moves to another thread
    cdef InFlight in_flight
    cdef InFlight late                 # completed, and a notification may follow: see uring/request, end()
    cdef bint has_remains              # requests that are over may have left state in the ring: see note_sqe()
    cdef LentBuffers lent              # objects that provided buffers keep alive; None until there are some
    cdef BufferRing buffers            # made on first use; None until then
    cdef bint has_no_buffers           # the kernel has no buffer ring or no multishot RECV, or memory is short
    cdef CompletionFifo fifo           # harvested, not dispatched
    cdef unsigned long long n_dispatches
    cdef Py_ssize_t harvested_bytes    # received since this wait began
    cdef long long n_bytes             # received into provided buffers so far
    cdef References unsettled          # KIND_SKIP_SENDs of this enter
    cdef PyObject *spare[SPARE_MOST]   # requests that are over and have no owner, for reuse; owned
    cdef int n_spare
    cdef bint has_run                  # begin_run was called
    cdef bint is_pollable              # the ring is of the kind that wakes sleepers on its fd, also after a move
    cdef bint is_bound                 # registrations were made with this ring
    cdef bint has_tables               # buffers or files were registered with this ring
    cdef readonly bint is_restricted   # the kernel refuses what connections do not need: no raw requests, no files
    cdef readonly bint skip_sends      # a failed SEND reports its partial count: CQE-less sends are sound
    cdef unsigned long long n_completed
    cdef unsigned long long n_cq_overflows
    cdef unsigned long long n_syscalls_before  # of rings that were replaced
    cdef unsigned long long n_submitted_before
    cdef size_t n_leaked               # requests whose memory the kernel may still hold after a foreign close

    cdef inline io_uring_sqe *get_sqe(self) except NULL:
        """Room for one request; it is submitted as it stands, so fill it, and `add` it, at once."""
        return self.ring.get_sqe()

    cdef int add(self, Request request, io_uring_sqe *sqe) except -1
    cdef int add_skip_send(self, Request request, io_uring_sqe *sqe) except -1
    cdef int add_raw(self, PyObject **requests, unsigned n, const io_uring_sqe *filled) except -1
    cdef int make_room(self, unsigned n_sqes) except -1
    cdef int prepare_for_raw(self) except -1
    cdef Request take_spare(self)
    cdef void keep_spare(self, Request request) noexcept
    cdef int cancel(self, Request request) except -1
    cdef int cancel_behind(self, Request request) except -1
    cdef bint is_elsewhere(self) noexcept
    cdef int deliver(self, Request request, int32_t res, uint32_t flags) except -1
    cdef LentBuffers lend_to_kernel(self)
    cdef BufferRing buffer_ring(self)
    cdef bint has_work(self) noexcept
    cdef bint spin(self, const int *notified, int64_t until_ns) except -1
    cdef bint has_undispatched(self) noexcept
    cdef int wait(self, int64_t timeout_ns) except -1
    cdef int enter_and_harvest(self, unsigned wait_count, int64_t timeout_ns) except -1
    cdef int harvest(self) except -1
    cdef int settle_sends(self) except -1
    cdef int flush_cq_overflow(self) except -1
    cdef int submit(self) except -1
    cdef int begin_run(self) except -1
    cdef int settle(self) except -1
    cdef int settle_all(self, bint is_moving) except -1
    cdef int make_pollable(self) except -1
    cdef int grow(self) except -1
    cdef int move(self, Ring fresh, bint may_keep=*) except -1
    cdef int part(self) except -1
    cdef int forget_ring(self) except -1
    cdef bint hand_on(self, bint may_keep=*) except -1
    cdef bint can_leave(self) except -1
    cdef int leave(self) except -1
    cdef int count_into(self, dict numbers) except -1
    cdef int close(self) except -1
    cdef int drain(self) except -1
    cdef int drop_all(self, bint was_enabled) except -1
    cdef int deliver_last(self) except -1
