"""Drivers for tests of modules that need liburing.

A `RecordingRequest` records its completions; `RequestsDriver` submits such requests on the Engine of an
IoUringMonitor; `RingDriver` and `BufferRingDriver` work on a bare ring.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE

from uringloop.aiocontext.context cimport AioContext
from uringloop.fdmon.base cimport FdHandler, ReadyList
from uringloop.fdmon.io_uring cimport IoUringMonitor
from uringloop.liburing.liburing cimport *
from uringloop.requests.checks cimport fill_sqe
from uringloop.requests.request cimport ContextRequest
from uringloop.uring.buffers cimport BufferRing, LentBuffers
from uringloop.uring.engine cimport Engine
from uringloop.uring.request cimport ALL_SENT, KIND_COMPLETION, KIND_SKIP_SEND, InFlight, Request
from uringloop.uring.request cimport CANCELLING, DONE, IDLE, IN_FLIGHT
from uringloop.uring.request cimport decode, encode, hold, release
from uringloop.uring.ring cimport Ring

from enum import IntEnum

from uringloop.uring import ring as _ring

cdef extern from "../liburing/compat.h" nogil:
    void io_uring_prep_nop(io_uring_sqe *)
    void io_uring_prep_recv(io_uring_sqe *, int fd, void *, size_t, int flags)
    int MSG_WAITALL, MSG_DONTWAIT, MSG_NOSIGNAL

EVERYTHING_SENT = ALL_SENT

# Not by `cpdef enum`, which makes a class each time that the module is imported.
RequestState = IntEnum("RequestState", {
    "IDLE": <int>IDLE, "IN_FLIGHT": <int>IN_FLIGHT, "CANCELLING": <int>CANCELLING, "DONE": <int>DONE})


cdef class ClosableMonitor(IoUringMonitor):
    """Treats each fd as one that the program may close, and so watches all of them by its epoll set."""

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        if new is not None:
            new.may_be_closed = True
        return IoUringMonitor.update(self, old, new)


cdef class RestlessMonitor(IoUringMonitor):
    """Treats the waits on each fd as short, and sweeps in each wait: all fds change their place often."""

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        if new is not None:
            new.may_be_closed = new.is_brief = True
        return IoUringMonitor.update(self, old, new)

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        self.must_sweep = True
        return IoUringMonitor.wait(self, ready_list, timeout_ns)


cdef class RefusingRing(Ring):
    """One call of get_sqe() fails, as if the kernel took no requests for lack of memory.

    `n_calls` counts them; the one that finds it equal to `refused` fails.
    """

    cdef public Py_ssize_t n_calls, refused

    cdef io_uring_sqe *get_sqe(self) except NULL:
        self.n_calls += 1
        if self.n_calls - 1 == self.refused:
            raise OSError(EAGAIN, "refused")
        return Ring.get_sqe(self)


def refuse_request(of, Py_ssize_t number):
    """Put a RefusingRing into a monitor on io_uring (or a context's) that has no requests; returns the ring."""
    cdef Engine engine = engine_of(of)
    cdef RefusingRing ring = RefusingRing()
    ring.refused = number
    if engine.ring.is_enabled:
        ring.enable()
    engine.ring.close()
    engine.ring = ring
    return ring


cdef Engine engine_of(of):
    """The ring of an IoUringMonitor, or of a context on one."""
    return (<AioContext>of).engine if isinstance(of, AioContext) else (<IoUringMonitor>of).engine


def skips_sends(of):
    """Whether sends post a completion only where they fail."""
    return engine_of(of).skip_sends


def n_chunks_taken(of):
    """Chunks in provided buffers that were not given back."""
    cdef BufferRing buffers = engine_of(of).buffers
    return 0 if buffers is None else sum([buffers.n_taken[i] for i in range(buffers.n_buffers)])


def is_sweeping(AioContext context not None):
    """Something on the ring has to leave it if no event arrives for it."""
    cdef IoUringMonitor monitor = context.monitor
    return bool(monitor.must_sweep or monitor.next_sweep.owner is not None)


cdef class RecordingRequest(Request):
    """A Request that records its completions.

    `calls` gets ("complete", res, has_more, bytes or None), ("settle", res) or ("drop", res).

    Parameters:
        callback: called with (request, res) by a completion, or None.
        skip_send: the request is a SEND that posts a CQE on failure only.
    """

    cdef public object callback
    cdef readonly list calls
    cdef Engine engine
    cdef object __weakref__

    def __init__(self, callback=None, *, bint skip_send=False):
        self.callback = callback
        self.calls = []
        self.kind = KIND_SKIP_SEND if skip_send else KIND_COMPLETION

    @property
    def request_state(self):
        """A number of RequestState."""
        return <int>self.state

    @property
    def is_in_flight(self):
        return self.owner is not None

    @property
    def kept_alive(self):
        return self.keepalive

    @kept_alive.setter
    def kept_alive(self, value):
        self.keepalive = value

    def forget_kept_alive(self):
        """What the owner does after the final completion."""
        if self.state != DONE:
            raise RuntimeError("the kernel may still touch it")
        self.keepalive = None

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        received = None
        if data != NULL:
            received = PyBytes_FromStringAndSize(data, max(res, 0))
            self.engine.buffers.give_back(flags)
        self.calls.append(("complete", res, bool(flags & IORING_CQE_F_MORE), received))
        if self.callback is not None:
            self.callback(self, res)
        return 0

    cdef void settle(self, int32_t res) noexcept:
        self.calls.append(("settle", res))

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        self.calls.append(("drop", res))


cdef class RequestsDriver:
    """Submits RecordingRequests on a monitor; a MonitorDriver waits for them."""

    cdef readonly IoUringMonitor monitor
    cdef Engine engine

    def __init__(self, IoUringMonitor monitor not None):
        self.monitor = monitor
        self.engine = monitor.engine

    @property
    def in_flight(self):
        return self.engine.in_flight.count

    @property
    def ring_fd(self):
        return self.engine.ring.ring.ring_fd

    @property
    def n_submitted_now(self):
        return self.engine.ring.n_submitted

    def snapshot(self):
        return self.engine.in_flight.snapshot()

    def nop(self, RecordingRequest request not None):
        cdef io_uring_sqe *sqe = self.engine.get_sqe()
        io_uring_prep_nop(sqe)
        self.engine.add(request, sqe)

    def recv(self, RecordingRequest request not None, int fd, bytearray memory not None):
        """`memory` is kept alive by the request and must not be resized."""
        cdef io_uring_sqe *sqe = self.engine.get_sqe()
        io_uring_prep_recv(sqe, fd, PyByteArray_AS_STRING(memory), PyByteArray_GET_SIZE(memory), 0)
        request.keepalive = (memory, memoryview(memory))
        self.engine.add(request, sqe)

    def recv_multishot(self, RecordingRequest request not None, int fd):
        cdef BufferRing buffers = self.engine.buffer_ring()
        cdef io_uring_sqe *sqe = self.engine.get_sqe()
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0)
        sqe.flags |= IOSQE_BUFFER_SELECT
        sqe.buf_group = buffers.group
        request.engine = self.engine
        self.engine.add(request, sqe)

    def skip_send(self, RecordingRequest request not None, int fd, bytes data not None):
        cdef io_uring_sqe *sqe = self.engine.get_sqe()
        io_uring_prep_send(sqe, fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                           MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL)
        sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
        request.keepalive = (data,)
        self.engine.add_skip_send(request, sqe)

    def cancel(self, RecordingRequest request not None):
        self.engine.cancel(request)


cdef class RingDriver:
    """A Ring and an InFlight of its own.

    Parameters: ring: None for one from take_ring().
    """

    cdef readonly Ring ring
    cdef InFlight owner

    def __init__(self, Ring ring=None):
        self.ring = _ring.take_ring() if ring is None else ring
        self.owner = InFlight()

    @property
    def fd(self):
        return self.ring.ring.ring_fd if self.ring.is_open else -1

    @property
    def n_beyond_sq(self):
        """SQEs in user space that wait until the ring is enabled."""
        return self.ring.n_overflow

    @property
    def in_flight(self):
        return self.owner.count

    def enable(self):
        self.ring.enable()
        while self.ring.move_overflow():
            self.ring.enter(0, -1)

    def enter(self, unsigned wait_count=0, int64_t timeout_ns=-1):
        return self.ring.enter(wait_count, timeout_ns)

    def has_unsubmitted(self):
        return self.ring.has_unsubmitted()

    def has_completions(self):
        return self.ring.has_completions()

    def close(self):
        self.ring.close()

    def nop(self, uint64_t user_data):
        cdef io_uring_sqe *sqe = self.ring.get_sqe()
        io_uring_prep_nop(sqe)
        sqe.user_data = user_data

    def copy(self, bytes filled not None, uint64_t user_data):
        """Queue a copy of a `struct io_uring_sqe`."""
        cdef io_uring_sqe *sqe = self.ring.get_sqe()
        memcpy(sqe, PyBytes_AS_STRING(filled), sizeof(io_uring_sqe))
        sqe.user_data = user_data

    def abandon_nop(self):
        """An SQE whose owner fails before it is filled."""
        io_uring_prep_nop(self.ring.get_sqe())

    def recv_into_buffers(self, int fd, BufferRing buffers not None, uint64_t user_data):
        cdef io_uring_sqe *sqe = self.ring.get_sqe()
        io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0)
        sqe.flags |= IOSQE_BUFFER_SELECT
        sqe.buf_group = buffers.group
        sqe.user_data = user_data

    def reap(self):
        """All visible CQEs as [(user_data, res, flags)]."""
        cdef unsigned head = self.ring.ring.cq.khead[0]
        cdef unsigned tail = head + io_uring_cq_ready(&self.ring.ring)
        cdef io_uring_cqe *cqe
        found = []
        while head != tail:
            cqe = &self.ring.ring.cq.cqes[head & self.ring.ring.cq.ring_mask]
            found.append((cqe.user_data, cqe.res, cqe.flags))
            head += 1
        io_uring_smp_store_release(self.ring.ring.cq.khead, head)
        return found

    def hold(self, RecordingRequest request not None):
        """A NOP for the request; returns its user_data."""
        cdef io_uring_sqe *sqe = self.ring.get_sqe()
        io_uring_prep_nop(sqe)
        try:
            hold(request, self.owner, sqe)
        except RuntimeError:
            sqe.user_data = 0
            raise
        return sqe.user_data

    def release(self, RecordingRequest request not None):
        release(request)

    def snapshot(self):
        return self.owner.snapshot()


def user_data_of(Request request not None):
    return encode(request)


def request_of(uint64_t user_data):
    """The request of a user_data; it must be alive."""
    if user_data == 0:
        raise ValueError("0 has no owner")
    return decode(user_data)


cdef class BufferRingDriver:
    """A BufferRing on the ring of a RingDriver; drop it only after that was closed."""

    cdef readonly BufferRing buffers
    cdef readonly RingDriver ring_driver

    def __init__(self, RingDriver ring_driver not None):
        self.ring_driver = ring_driver
        self.buffers = BufferRing(ring_driver.ring)

    def take(self, int32_t res, uint32_t flags):
        """The bytes of one completion."""
        cdef char *data = self.buffers.take(res, flags)
        return PyBytes_FromStringAndSize(data, max(res, 0))

    def take_in_place(self, int32_t res, uint32_t flags):
        """The address of the bytes of one completion, for `read`."""
        return <uint64_t>self.buffers.take(res, flags)

    def read(self, uint64_t address, Py_ssize_t n_bytes):
        return PyBytes_FromStringAndSize(<char *>address, n_bytes)

    def give_back(self, uint32_t flags):
        self.buffers.give_back(flags)


cdef class LentBuffersDriver:
    """A LentBuffers; `use` and `remove` return the list of what is no longer needed, or None."""

    cdef LentBuffers lent

    def __init__(self):
        self.lent = LentBuffers()

    @property
    def groups(self):
        """{group: {buffer id: [how many, objects they keep alive ...]}}"""
        return self.lent.groups

    def lend(self, unsigned group, unsigned first_id, int count, keepalive):
        self.lent.lend(group, first_id, count, keepalive)

    def use(self, unsigned group, unsigned id):
        return self.lent.use(group, id)

    def remove(self, unsigned group, int n_removed):
        return self.lent.remove(group, n_removed)


def check_call(tuple call, keepalive=None, *, bint is_multishot=False, bint is_linked=False):
    """What add_sqe() does before it submits: have prep fill an SQE, and check that.

    Parameters:
        call: (prep, *args).
    Returns: (opcode, buffer group, first buffer id, whether it is forced async, fd, whether it makes fds).
    Raises: what add_sqe() raises.
    """
    from uringloop.liburing import ffi
    cdef ContextRequest request = ContextRequest.__new__(ContextRequest)
    pointer = ffi.new("struct io_uring_sqe *")
    request.is_multishot = is_multishot
    fill_sqe(request, <io_uring_sqe *><uintptr_t>int(ffi.cast("uintptr_t", pointer)), pointer, call, keepalive,
             is_linked)
    return (request.opcode, request.group, request.first_id, request.is_forced_async, request.fd,
            request.makes_fds)


BUFFER_FLAG = IORING_CQE_F_BUFFER
MORE_FLAG = IORING_CQE_F_MORE
SINGLE_ISSUER_FLAG = IORING_SETUP_SINGLE_ISSUER
DEFER_TASKRUN_FLAG = IORING_SETUP_DEFER_TASKRUN
DISABLED_FLAG = IORING_SETUP_R_DISABLED
