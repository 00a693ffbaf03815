# The wire on io_uring: completions instead of readiness.
from libc.stdint cimport int32_t, uint32_t

from ...fdmon.base cimport FdHandler
from ...fdmon.io_uring cimport IoUringMonitor, MovableRequest
from ...liburing.liburing cimport msghdr
from ...support.flag cimport flag
from ...uring.buffers cimport BufferRing
from ...uring.request cimport Request
from .wire cimport Wire, WireEnd, iovec

cdef class ReceiveRequest(MovableRequest):
    cdef RingWire wire             # None when orphaned
    cdef BufferRing buffers        # its completions name buffers of this, which keeps their memory alive
    cdef unsigned long long read_at  # the last dispatch in which it was read
    cdef int32_t revents           # those of the entry of the FIFO by which it comes back
    cdef signed char reads_left    # in the dispatch of read_at
    cdef flag is_poll              # bulk mode: a multishot POLL_ADD instead of a multishot RECV
    cdef flag is_in_doubt          # a read fell short, and a sweep will see whether more is left
    cdef flag is_coming_back       # through an entry of the FIFO without a CQE

cdef class SendRequest(Request):
    cdef RingWire wire             # None when orphaned, or spare
    cdef msghdr message            # what a SENDMSG SQE points to; lives in this held object
    cdef iovec *vector             # owned; what message points to
    cdef size_t vector_capacity
    cdef Py_ssize_t asked          # bytes of this send
    cdef iovec *room_for(self, size_t n_chunks) except NULL

cdef class RoomRequest(Request):
    cdef RingWire wire             # None when orphaned

cdef class IdleHandler(FdHandler):
    cdef RingWire wire

cdef class RingWire(Wire):
    cdef IoUringMonitor monitor
    cdef ReceiveRequest receive    # None unless armed, as far as dispatch knows
    cdef SendRequest send          # None unless the kernel has it, as far as settle and dispatch know
    cdef RoomRequest room          # None unless armed, as far as dispatch knows
    cdef IdleHandler idle          # the epoll set's handler in place of requests, or None
    cdef object file               # of a shared socket its identity, once it has left the ring; else None
    cdef int protocol              # IPPROTO_TCP ..., 0 of UNIX sockets; -1 as long as it was not needed
    cdef int hint                  # expected size of the next bulk read, bytes
    cdef unsigned char n_large     # large chunks in a row
    cdef unsigned char n_short     # short bulk reads in a row
    cdef flag needs_room           # the last send fell short: the rest is sent when there is room
    cdef flag is_bulk
    cdef flag is_after_sweep       # the next read finds data left by an earlier one
    cdef flag is_counting          # each read reports how much is left
    cdef flag is_quiet             # the next receive does not begin in the ring
    cdef flag idle_read
    cdef flag idle_room
    cdef bint may_have_more(self, ReceiveRequest request, int32_t revents, int n_left) except -1
    cdef bint is_closed_by_program(self) except -1
    cdef bint watch_for_data(self) except -1
    cdef bint watch_for_room(self) except -1
    cdef bint watch_idle(self) except -1
    cdef int woken(self, short revents) except -1
    cdef int arm(self) except -1
    cdef int prep_receive(self) except -1
    cdef int submit_shared(self) except -1
    cdef int closed_by_program(self, ReceiveRequest request, uint32_t flags, char *data) except -1
    cdef int received(self, ReceiveRequest request, int32_t res, uint32_t flags, char *data) except -1
    cdef int deliver(self, int32_t res, uint32_t flags, char *data, BufferRing buffers) except -1
    cdef int judge_size(self, int32_t res) except -1
    cdef int read_ready(self, ReceiveRequest request, int32_t revents, uint32_t flags) except -1
    cdef int come_back(self, ReceiveRequest request, int32_t revents) except -1
    cdef int read_bulk(self, ReceiveRequest request, int32_t revents) except -1
    cdef int leave_bulk(self) except -1
    cdef void enter_bulk(self) noexcept
    cdef int send_completed(self, int32_t res, Py_ssize_t asked) except -1
    cdef bint is_only_local_send(self) noexcept
    cdef int submit_send(self, bint with_cqe) except -1
    cdef void give_back(self, SendRequest request) noexcept
    cdef int prep_send(self, bint with_cqe) except -1
    cdef int wait_for_room(self) except -1
    cdef int arm_room(self) except -1
    cdef int room_found(self, RoomRequest request, int32_t res, bint is_over) except -1
    cdef int stop_waiting(self) except -1
    cdef void skip_send_settled(self, int32_t res, Py_ssize_t asked) noexcept
    cdef int judge_sent(self, WireEnd end, int32_t res, Py_ssize_t asked) except -1
