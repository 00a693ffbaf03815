"""The io_uring monitor: readiness and completions from one ring, one system call per turn.

How it works:
 1. Everything that was queued since the last wait (POLL_ADD of handlers, RECV, SEND, ACCEPT, cancels) is submitted
    by the same io_uring_enter(2) that waits.
 2. `harvest` copies CQEs out of the ring: readiness goes to the ready list, everything else into a FIFO,
    from which `dispatch` runs the completion callbacks.  A nested wait appends to the same FIFO and a nested
    dispatch takes from its head, so each is delivered once and in order.
 3. Handlers are watched by one-shot POLL_ADD, re-armed at the next wait: after the callbacks in a flat turn, at once in
    a nested one.  There is no level-triggered multishot poll in io_uring (measured; QEMU dropped it, too).
    An armed POLL_ADD holds a reference to its file: closing the fd would close nothing.  So the fds that the program
    may close while they are watched (add_reader) are in an epoll set, which holds none and drops what is closed, and
    one POLL_ADD watches for that set; what it reports is read from the set by epoll_wait(2).
    That costs system calls for each wait.  Where waits are many and short (FdHandler.is_brief, the RECV of a socket
    that the program has as well, the ACCEPT of a listener) the first is in an epoll set; once something came the next
    are on the ring, and a sweep moves those that last to the set.  A TIMEOUT in the ring brings the sweeps, while there
    is anything on the ring that may have to move.
 4. A KIND_SKIP_SEND is MSG_WAITALL | MSG_DONTWAIT with IOSQE_CQE_SKIP_SUCCESS: once the kernel has consumed its SQE the
    send is over, and no CQE means that all of it was copied.  So after an enter that consumed everything, and
    after an overflowed CQ was flushed, what posted no CQE is settled as sent.
 5. With DEFER_TASKRUN one enter runs at most 20 deferred completions, so a full load is taken by several
    cheap enters before any Python runs.

Invariant: a request is on `in_flight` from hold to release, and everything on it is cancelled and drained, or kept
for ever, before its memory goes.

Threads: the thread that enables the ring owns it for ever; `move` makes a new ring for another thread.
Kernel: 5.19 at least, 6.0 for multishot receive, 6.1 for DEFER_TASKRUN.

Not here: what a completion means (`transports/ring_wire`), memory rules (`uring/request`).
"""

cimport cython
from libc.errno cimport EAGAIN, EBADF
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..liburing.liburing cimport *
from ..support.errors cimport os_error
from ..support.references cimport References
from ..support.system cimport POLLIN
from ..uring.buffers cimport BufferRing
from ..uring.completions cimport Completion, CompletionFifo
from ..uring.request cimport (ALL_SENT, CANCELLING, IN_FLIGHT, KIND_COMPLETION, KIND_POLL, KIND_RAW, KIND_SKIP_SEND,
                              KIND_SWEEP, InFlight, Request, decode, encode, end, hold, note_sqe, release)
from ..uring.ring cimport Ring
from ..uring.sendprobe cimport failed_send_reports_count
from .base cimport (FDMonitor, FdHandler, ReadyList, Stopwatch, check_pollable, identity, ul_is_clock_faked,
                    ul_monotonic_ns)
from .epoll cimport EpollMonitor
from .polling cimport PolledEvent

import logging

from ..exceptions import MonitorUnavailable
from ..uring import ring as _ring

# Deferred completions are taken up to here before Python runs.  More delays the first callback, and what the kernel
# touched to receive is no longer in the cache when it sends (CPU per 1 KiB message: 300 and 1,000 connections 1.02
# to 1.03 better than with 100, none worse).
cdef enum:
    HARVEST_TARGET = 32
    DEFERRED_PER_ENTER = 16  # the kernel runs up to 20; fewer than this means that there are no more
    HARVEST_BYTES = 128 * 1024  # received data taken before Python runs: more would leave the cache, and the buffers
    DRAIN_ROUNDS = 1000
    FAKED_WAIT_NS = 1_000_000
    SWEEP_NS = 50_000_000  # a wait is moved after one to two of these
    WANTED = 0x1F  # POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP: what handlers are called for

# Once per process: None until it could be probed.
cdef object sends_report_count = None


@cython.no_gc_clear
cdef class PollRequest(Request):
    """POLL_ADD of one FdHandler."""

    def __cinit__(self, FdHandler handler=None):
        self.kind = KIND_POLL
        self.handler = handler


@cython.no_gc_clear
cdef class SweepRequest(Request):
    """TIMEOUT until the next sweep; its SQE points to `period`, which is never changed."""

    def __cinit__(self):
        self.kind = KIND_SWEEP
        self.period.tv_nsec = SWEEP_NS


@cython.no_gc_clear
cdef class MovableRequest(Request):
    """One that holds a file which the program may close, so that it must not wait for long.

    What delivers a completion of it sets `used_at` to the monitor's n_sweeps.
    """

    cdef int leave_ring(self) except -1:
        """It was not used for long: have the epoll set watch (`rest`), and cancel it.  No user code."""
        raise NotImplementedError


cdef class SetHandler(FdHandler):
    """The poll request's view of an epoll set inside of the ring."""


cdef class IoUringMonitor(FDMonitor):
    """FDMonitor on io_uring.  Raises MonitorUnavailable; then nothing is left behind."""

    name = "io_uring"

    def __cinit__(self):
        self.ring = _ring.take_ring()
        self.has_requests = True
        self.in_flight = InFlight()
        self.late = InFlight()
        self.to_arm = []
        self.fifo = CompletionFifo()
        self.unsettled = References()
        self.movable = set()
        self.next_sweep = SweepRequest()
        self.n_sweeps = 1

    def __dealloc__(self):
        free(self.busy_at)

    # -- what transports use ---------------------------------------------------------------------------

    cdef int add(self, Request request, io_uring_sqe *sqe) except -1:
        """`sqe`, filled, is on its way for `request`; it reaches the kernel with the next wait at the latest."""
        return hold(request, self.in_flight, sqe)

    cdef int add_skip_send(self, Request request, io_uring_sqe *sqe) except -1:
        """The same for a SEND without a CQE on success; `settle` is called in the next wait or submit."""
        try:
            self.unsettled.put(request)
        except MemoryError:
            io_uring_prep_nop(sqe)  # it has its place in the SQ, and must not go out behind its owner's back
            sqe.user_data = 0
            raise
        hold(request, self.in_flight, sqe)
        return 0

    cdef int add_raw(self, PyObject **requests, unsigned n, const io_uring_sqe *filled) except -1:
        """Somebody's own requests, as one unit that no submission tears apart; all of them or none.

        Parameters:
            requests: n Requests of KIND_RAW, borrowed; held until their final completions.
            filled: their SQEs, copied; user_data is set here.

        Raises: RuntimeError from a thread that may not touch the ring, OSError (EAGAIN) where the kernel takes nothing.
        Completions may be harvested, for dispatch; no user code runs.
        """
        cdef io_uring_sqe *sqe
        cdef unsigned i
        self.prepare_for_raw()
        if n > self.ring.ring.sq.ring_entries:
            self.grow()
            if n > self.ring.ring.sq.ring_entries:
                raise OSError(EAGAIN, f"a chain of {n} requests needs a larger ring, which this loop cannot have while "
                                      f"others are in flight, or when locked memory (RLIMIT_MEMLOCK) is short")
        if not self.ring.has_room(n):
            self.make_room(n)
        for i in range(n):
            sqe = self.ring.get_sqe()
            memcpy(sqe, &filled[i], sizeof(io_uring_sqe))
            self.has_remains |= note_sqe(<Request>requests[i], sqe, i != 0)
            hold(<Request>requests[i], self.in_flight, sqe)
        return 0

    cdef int grow(self) except -1:
        """A large ring from now on, if it can be had: a chain has to fit into the SQ.

        Not by IORING_REGISTER_RESIZE_RINGS (since Linux 6.13): while that swaps the rings, a completion on another CPU
        sets IORING_SQ_TASKRUN in memory that is gone.  So as if the loop went to another thread (`move`): what is in
        flight is cancelled and armed again.  Not with raw requests in flight, or what those have left in the ring.
        """
        cdef Ring fresh, ring = self.ring
        cdef int number = ring.ring.ring_fd
        if ring.is_large or self.has_tables or self.is_bound or ring.is_enabled and (
                self.has_remains or any([(<Request>one).kind == KIND_RAW for one in self.in_flight.snapshot()])):
            return 0
        try:
            fresh = Ring(bool(ring.setup_flags & IORING_SETUP_SINGLE_ISSUER), is_large=True, is_patient=False)
        except MonitorUnavailable:
            return 0  # memory is short; all but the longest chains fit into the small one
        if not ring.is_enabled:
            fresh.adopt(ring)
            ring.close()
            self.ring = fresh
            self.buffers = None
        else:
            self.settle_all(True)
            self.move(fresh, False)
            fresh.enable()
        fresh.take_number(number)  # fileno() stays what it was
        return 0

    cdef int make_room(self, unsigned n_sqes) except -1:
        """Submit what is queued until so many SQEs fit into the SQ at once."""
        cdef int rounds = 0
        if self.ready_list is None:
            self.ready_list = ReadyList()
        while not self.ring.has_room(n_sqes):
            if rounds == DRAIN_ROUNDS:
                raise OSError(EAGAIN, "io_uring_enter: the kernel takes no requests at the moment")
            rounds += 1
            # with what is done harvested, a full CQ is no reason to refuse more
            self.enter_and_harvest(0, -1)
        return 0

    cdef int prepare_for_raw(self) except -1:
        """This thread may touch the ring, and before the first run any other may be the one that runs the loop."""
        cdef Ring fresh
        self.ring.reopen()
        if not (self.has_run or not self.ring.is_enabled or self.in_flight.count or self.ring.has_unsubmitted()):
            # a spare ring, which belongs to its thread for ever
            fresh = _ring.take_ring(only_disabled=True)
            if not _ring.give_back(self.ring):
                self.ring.close()
            self.ring = fresh
            self.buffers = None
        if self.ring.is_enabled and not self.ring.is_mine():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the loop; "
                               "use loop.call_soon_threadsafe() to make requests")
        return 0

    cdef int cancel(self, Request request) except -1:
        """Best effort, by request and never by fd; exactly one final completion still comes."""
        cdef io_uring_sqe *sqe
        if request.owner is None or request.state == CANCELLING:
            return 0
        sqe = self.ring.get_sqe()
        io_uring_prep_cancel64(sqe, encode(request), 0)
        # Nobody waits for the cancel's own result; -ENOENT (already done) posts a CQE all the same: ignored.
        sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
        sqe.user_data = 0
        if request.state == IN_FLIGHT:
            request.state = CANCELLING
        return 0

    cdef BufferRing buffer_ring(self):
        """The loop's provided buffers, made on first use; None where they cannot be had."""
        if self.buffers is None and not self.has_no_buffers:
            self.ring.reopen()
            try:
                self.buffers = BufferRing(self.ring)
            except OSError as error:
                # before Linux 5.19, or locked memory is used up: connections read by readiness
                logging.getLogger("uringloop").debug("no provided buffers: %s", error)
                self.has_no_buffers = True
        return self.buffers

    # -- the FDMonitor interface -----------------------------------------------------------------------

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        cdef FdHandler before
        cdef bint is_by_epoll = False
        if new is not None:
            if self.left_files is not None:
                self.renew()
            before = self.handlers.get(new.fd)
            if old is None:
                old = before  # its fd was closed without a word, and the number used again
            if new.may_be_closed and not (new.is_brief and self.is_busy(new.fd)):
                if new.is_brief:
                    new.file_id = identity(new.fd)  # for its way back to the set: not per message
                is_by_epoll = self.watch_by_epoll(old, new)
            if not is_by_epoll:
                check_pollable(new.fd)
        try:
            if new is not None:
                self.handlers[new.fd] = new
                if not is_by_epoll:
                    new.arming = PollRequest(new)
                    self.to_arm.append(new)
            if old is not None and old.arming is not None:
                self.cancel(<PollRequest>old.arming)  # the last step that can fail
        except BaseException:
            if new is not None:
                new.is_removed = True
                if before is not None:
                    self.handlers[new.fd] = before
                else:
                    self.handlers.pop(new.fd, None)
            if is_by_epoll:
                self.closable.watches.update(new, None)
            raise
        if old is not None and old.arming is not None:
            old.arming = None
        elif old is not None and not is_by_epoll and self.closable is not None:
            self.closable.watches.update(old, None)
        if new is None and old is not None and self.handlers.get(old.fd) is old:
            del self.handlers[old.fd]
        if old is not None:
            old.is_removed = True
        return 0

    cdef bint watch_by_epoll(self, FdHandler old, FdHandler new) except -1:
        """Watch for `new` in the epoll set, in the place of `old` if that is there; False where there can be no set."""
        if self.closable is None:
            check_pollable(new.fd)  # first: of a closed fd the set would get the number
            try:
                self.closable = self.watch_set(EpollMonitor())
            except MonitorUnavailable:
                return False  # no descriptor left, or a sandbox without epoll: closing is not noticed then
        self.closable.watches.update(old if old is not None and old.arming is None else None, new)
        return True

    cdef SetHandler watch_set(self, EpollMonitor watches):
        """A poll request for an epoll set goes out with the next wait."""
        cdef SetHandler handler = SetHandler(watches.fileno(), POLLIN)
        handler.watches = watches
        handler.arming = PollRequest(handler)
        self.to_arm.append(handler)
        return handler

    cdef int rest(self, FdHandler old, FdHandler new) except -1:
        """As `update`, for what waits in the place of a request that has left the ring.

        In a set of its own: the program may watch the same fd.
        """
        if new is not None:
            if self.is_closed:
                raise os_error(EBADF)  # another set would be closed with the loop's memory only
            if self.left_files is not None:
                self.renew()
            if self.resting is None:
                self.resting = self.watch_set(EpollMonitor())
        if self.resting is not None:
            self.resting.watches.update(old, new)
        return 0

    cdef int collect(self, SetHandler handler) except -1:
        """The set has something for the ready list.  What comes back to life there begins on the ring again."""
        cdef FdHandler one
        cdef size_t at = self.ready_list.tail
        handler.watches.collect(self.ready_list)
        while at != self.ready_list.tail:
            one = <FdHandler>self.ready_list.items[at & self.ready_list.mask]
            at += 1
            if not one.is_brief:
                continue
            self.mark_busy(one.fd)
            if one.arming is None:
                request = PollRequest(one)
                self.to_arm.append(one)
                one.arming = request
                handler.watches.withdraw(one)
        return 0

    # -- waits that last -------------------------------------------------------------------------------

    cdef bint may_last(self, MovableRequest request) except -1:
        """It was armed; it leaves the ring if it is not used.  False: no memory to remember it, so that it stays."""
        try:
            self.movable.add(request)
        except MemoryError:
            return False
        request.used_at = self.n_sweeps
        self.begin_sweeps()
        return True

    cdef int begin_sweeps(self) except -1:
        """The next sweep is a period away, or with the next wait, where the kernel takes no request for it now.

        No exception of that: who calls has armed something, and would take it for not armed.
        """
        cdef io_uring_sqe *sqe
        if self.next_sweep.owner is not None:
            return 0
        try:
            sqe = self.ring.get_sqe()
        except (MemoryError, OSError):
            self.must_sweep = True
            return 0
        io_uring_prep_timeout(sqe, &self.next_sweep.period, 0, 0)
        return hold(self.next_sweep, self.in_flight, sqe)

    cdef int sweep(self) except -1:
        """What has waited since before the last sweep leaves the ring.  Runs no user code.

        There is another one only if something is left that may have to move: an idle process stays idle.
        """
        self.must_sweep = False
        try:
            return self.move_what_lasts()
        except (MemoryError, OSError):  # OSError: the kernel takes no requests at the moment
            return self.begin_sweeps()  # later; it holds a file so long

    cdef int move_what_lasts(self) except -1:
        cdef FdHandler handler
        cdef MovableRequest request
        cdef bint is_any_left = False
        for handler in list(self.handlers.values()):
            if handler.is_brief and handler.may_be_closed and handler.arming is not None:
                if (handler.armed_at == self.n_sweeps or handler.is_queued
                        or (<PollRequest>handler.arming).owner is None):  # it goes out with the next wait
                    is_any_left = True
                else:
                    self.move_to_set(handler)
        for request in list(self.movable):
            if request.owner is not None and request.used_at == self.n_sweeps:
                is_any_left = True
                continue
            if request.owner is not None and request.state == IN_FLIGHT:
                request.leave_ring()  # first: where memory is short the next sweep tries again
            self.movable.discard(request)
        self.n_sweeps += 1 if is_any_left else 2  # after a rest nothing counts as busy
        return self.begin_sweeps() if is_any_left else 0

    cdef bint is_busy(self, int fd) noexcept:
        """Something came for a handler that is_brief, not long ago."""
        return 0 <= fd < self.busy_capacity and self.busy_at[fd] and self.n_sweeps - self.busy_at[fd] <= 1

    cdef void mark_busy(self, int fd) noexcept:
        cdef unsigned *grown
        cdef int capacity
        if fd >= self.busy_capacity:
            capacity = max(64, 2 * fd)
            grown = <unsigned *>realloc(self.busy_at, capacity * sizeof(unsigned))
            if grown == NULL:
                return  # its waits begin in the set, which costs more
            memset(grown + self.busy_capacity, 0, (capacity - self.busy_capacity) * sizeof(unsigned))
            self.busy_at, self.busy_capacity = grown, capacity
        self.busy_at[fd] = self.n_sweeps

    cdef int move_to_set(self, FdHandler handler) except -1:
        """The epoll set watches for it from now on, or nothing, if its file is closed."""
        cdef PollRequest request = handler.arming
        cdef bint is_closed = (handler.is_closed_by_program()
                               or handler.file_id is not None and handler.file_id != identity(handler.fd))
        if not is_closed:
            try:
                handler.may_be_closed = self.watch_by_epoll(None, handler)
            except OSError as error:
                is_closed = error.errno == EBADF
                handler.may_be_closed = is_closed
            if not handler.may_be_closed:
                return 0  # there is no set, or no room in it: the ring watches on, and holds the file
        try:
            self.cancel(request)
        except BaseException:
            if not is_closed:
                self.closable.watches.withdraw(handler)
            raise
        handler.arming = None
        return 0

    cdef int arm_later(self, FdHandler handler) except -1:
        """A poll request for it goes out with the next wait, whatever fails here: nothing else would look at its fd."""
        try:
            self.to_arm.append(handler)
        except MemoryError:
            self.is_to_arm_short = True  # `arm_polls` finds it
        return 0

    cdef bint arm_polls(self) except -1:
        """POLL_ADD for all handlers that wait for it; an fd closed since then was removed and is skipped.

        Returns: False where the kernel takes no more for the moment; the rest keeps its place.
        """
        cdef FdHandler handler
        cdef PollRequest request
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t n_armed = 0
        cdef bint is_any_brief = False, is_complete = True
        if self.is_to_arm_short:
            # what is armed, or has been seen to, is passed over below
            self.to_arm += [*self.handlers.values(), *self.sets()]
            self.is_to_arm_short = False
        try:
            while n_armed < len(self.to_arm):
                handler = <FdHandler>self.to_arm[n_armed]
                request = <PollRequest>handler.arming
                if not handler.is_removed and request is not None:
                    if request.is_multishot and request.owner is not None:
                        # it has reported what is wanted: back to one that sees what is still there
                        self.cancel(request)
                        request = handler.arming = PollRequest(handler)
                    if request.owner is None:
                        sqe = self.ring.get_sqe()
                        if request.is_multishot:
                            io_uring_prep_poll_multishot(sqe, handler.fd, <unsigned short>handler.events)
                        else:
                            io_uring_prep_poll_add(sqe, handler.fd, <unsigned short>handler.events)
                        hold(request, self.in_flight, sqe)
                        if handler.is_brief:
                            handler.armed_at = self.n_sweeps
                            is_any_brief = True
                n_armed += 1
        except OSError as error:
            if error.errno != EAGAIN:
                raise
            is_complete = False
        finally:
            del self.to_arm[:n_armed]
        if is_any_brief:
            self.begin_sweeps()
        return is_complete

    cdef bint need_wait(self) noexcept:
        return (self.ring.has_completions() or self.ring.has_unsubmitted() or len(self.to_arm) != 0
                or self.is_to_arm_short or self.must_sweep or self.unsettled.head != self.unsettled.tail)

    cdef bint spin(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1:
        cdef bint is_hit
        self.ready_list = ready_list
        if (self.to_arm or self.is_to_arm_short) and not self.arm_polls():
            return True
        # what is queued goes out first: its answers are what to look for
        if self.ring.has_unsubmitted():
            harvested = self.enter_and_harvest(0, -1)
            self.settle_sends()
            if harvested:
                return True
        with nogil:
            # Other threads write `notified` meanwhile, the kernel the ring; nobody else touches either.
            is_hit = ul_spin(&self.ring.ring, notified, until_ns)
        return is_hit

    cdef bint has_undispatched(self) noexcept:
        return self.fifo.head != self.fifo.tail

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef int harvested, total
        if not self.ring.is_open:
            raise RuntimeError("the loop is closed")
        self.ready_list = ready_list
        if self.must_sweep:
            self.sweep()
            if self.must_sweep and (timeout_ns < 0 or timeout_ns > SWEEP_NS):
                timeout_ns = SWEEP_NS  # nothing in the ring brings the next one: see begin_sweeps
        if (self.to_arm or self.is_to_arm_short) and not self.is_prepared and not self.arm_polls():
            timeout_ns = 0  # what is harvested now makes room
        self.harvested_bytes = self.is_prepared = 0
        if timeout_ns == 0 or self.has_undispatched() or ul_visible_cqes(&self.ring.ring):
            if self.ring.has_unsubmitted() or self.ring.has_completions():
                total = harvested = self.enter_and_harvest(0, -1)
            else:
                return 0
        else:
            if timeout_ns > FAKED_WAIT_NS and ul_is_clock_faked():
                timeout_ns = FAKED_WAIT_NS  # which is real, whatever the clock does: then it is asked again
            total = harvested = self.enter_and_harvest(1, timeout_ns)
        while (harvested >= DEFERRED_PER_ENTER and total < HARVEST_TARGET
               and self.harvested_bytes < HARVEST_BYTES and self.ring.has_completions()):
            harvested = self.enter_and_harvest(0, -1)
            total += harvested
        self.settle_sends()
        return 0

    cdef int enter_and_harvest(self, unsigned wait_count, int64_t timeout_ns) except -1:
        if (wait_count == 0 and not self.ring.has_unsubmitted()
                and not ul_sq_flags(&self.ring.ring) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)):
            return self.harvest()  # all there is, is visible already: no system call
        self.ring.enter(wait_count, timeout_ns)
        return self.harvest()

    cdef int harvest(self) except -1:
        """Take all visible CQEs; returns how many.  Runs no user code."""
        cdef io_uring_cqe *cqe
        cdef unsigned head = self.ring.ring.cq.khead[0]
        cdef unsigned count = ul_visible_cqes(&self.ring.ring), tail = head + count
        cdef Request request
        cdef uint64_t user_data
        cdef int32_t res
        cdef uint32_t flags
        cdef char *data
        if ul_sq_flags(&self.ring.ring) & IORING_SQ_CQ_OVERFLOW:
            self.n_cq_overflows += 1  # the kernel keeps what the CQ does not hold; the next enter brings it
        self.fifo.reserve(count)
        while head != tail:
            cqe = &self.ring.ring.cq.cqes[head & self.ring.ring.cq.ring_mask]
            user_data, res, flags = cqe.user_data, cqe.res, cqe.flags
            head += 1
            io_uring_smp_store_release(self.ring.ring.cq.khead, head)
            if user_data == 0:
                continue
            request = decode(user_data)
            if request.kind == KIND_COMPLETION or request.kind == KIND_RAW:
                if request.owner is self.late:
                    release(request)
                    continue
                data = NULL
                if flags & IORING_CQE_F_BUFFER and request.kind == KIND_COMPLETION:
                    data = self.buffers.take(res, flags)
                    self.harvested_bytes += res
                self.fifo.push(request, res, flags, data)
                if not flags & IORING_CQE_F_MORE:
                    end(request, flags, self.late)
            elif flags & IORING_CQE_F_MORE and request.kind == KIND_POLL:
                self.poll_reported(<PollRequest>request, res)
            else:
                release(request)
                if request.kind == KIND_POLL:
                    self.poll_completed(<PollRequest>request, res)
                elif request.kind == KIND_SWEEP:
                    self.must_sweep = True
                else:
                    request.settle(res)
        self.n_completed += count
        return <int>count

    cdef int poll_reported(self, PollRequest request, int32_t res) except -1:
        """A multishot POLL_ADD goes on.  It is like an edge, so what it reports is for one dispatch only."""
        cdef FdHandler handler = request.handler
        if res & WANTED and not handler.is_removed and handler.arming is request:
            self.arm_later(handler)  # first: what is not collected for want of memory is reported again
            self.ready_list.append(handler, <short>(res & WANTED))
            if handler.is_brief:
                self.mark_busy(handler.fd)
        return 0

    cdef int poll_completed(self, PollRequest request, int32_t res) except -1:
        cdef FdHandler handler = request.handler
        if handler.is_removed or handler.arming is not request:
            return 0
        if res >= 0:
            # The kernel polls for POLLRDHUP, too.  A socket without room whose peer has shut down its side is ready for
            # that all the time, and each POLL_ADD would be over at once; a multishot one reports it once.
            request.is_multishot = not res & WANTED
            self.arm_later(handler)  # first, as above
            if type(handler) is SetHandler:
                return self.collect(<SetHandler>handler)
            if res & WANTED:
                self.ready_list.append(handler, <short>(res & WANTED))
                if handler.is_brief:
                    self.mark_busy(handler.fd)
        elif res == -EBADF:
            # closed without removing the handler; epoll forgets such an fd, too
            self.update(handler, None)
        else:
            # -ECANCELED that was not ours (somebody's broad cancel, a thread that ended): watch again
            self.arm_later(handler)
        return 0

    cdef int settle_sends(self) except -1:
        """Everything was consumed: what posted no CQE was sent.  Runs no user code."""
        cdef Request request
        if self.unsettled.head == self.unsettled.tail or self.ring.has_unsubmitted():
            return 0
        self.flush_cq_overflow()
        while self.unsettled.head != self.unsettled.tail:
            request = <Request>self.unsettled.take()
            if request.kind == KIND_SKIP_SEND and request.owner is not None:
                release(request)
                request.settle(ALL_SENT)
        return 0

    cdef int flush_cq_overflow(self) except -1:
        """Completions beyond the CQ are kept by the kernel (IORING_FEAT_NODROP) until an enter asks."""
        while ul_sq_flags(&self.ring.ring) & IORING_SQ_CQ_OVERFLOW:
            self.ring.enter(0, -1)
            if self.harvest() == 0:
                break
        return 0

    cdef int dispatch(self) except -1:
        cdef Completion slot
        cdef Request request
        cdef size_t n = self.fifo.count()
        cdef int count = 0
        # What arrives meanwhile waits for the next turn, or one busy socket would keep timers waiting.
        while n != 0 and self.fifo.head != self.fifo.tail:
            n -= 1
            slot = self.fifo.pop()
            request = <Request>slot.request
            Py_DECREF(request)  # taken by push
            count += 1
            if self.polling is not None:
                request.polled = self.polling.touch(<PolledEvent>request.polled)
            if self.stopwatch is None:
                request.complete(slot.res, slot.flags, slot.data)
            else:
                self.complete_timed(request, slot)
        return count

    cdef int complete_timed(self, Request request, Completion slot) except -1:
        cdef object behind = request.behind()  # before: a wire that is over forgets whose it was
        cdef int64_t started_ns = ul_monotonic_ns()
        request.complete(slot.res, slot.flags, slot.data)
        cdef Stopwatch stopwatch = self.stopwatch  # it may have been put away meanwhile
        return stopwatch.check(behind, started_ns) if stopwatch is not None else 0

    cdef int submit(self) except -1:
        if not self.ring.is_mine():
            return 0  # the next run submits, or close() drops it
        if self.ring.has_unsubmitted():
            self.enter_and_harvest(0, -1)
        return self.settle_sends()

    cdef int begin_run(self) except -1:
        global sends_report_count
        if self.is_closed:
            raise RuntimeError("this loop belongs to the parent process; make a new one after fork")
        if not self.ring.is_mine():
            if self.ring.is_enabled:
                self.move(_ring.take_ring(single_issuer=not (self.has_run or self.is_pollable)))
            self.ring.enable()
        while self.ring.n_overflow and self.ring.move_overflow():
            self.make_room(self.ring.ring.sq.ring_entries)
        self.has_run = True
        if sends_report_count is None:
            sends_report_count = failed_send_reports_count()
        self.skip_sends = sends_report_count is True
        return 0

    cdef int make_pollable(self) except -1:
        """A ring without DEFER_TASKRUN, whose completions wake nobody who sleeps on its fd: docs/decisions/0015."""
        self.ring.reopen()
        if self.ring.setup_flags & IORING_SETUP_DEFER_TASKRUN and (not self.ring.is_enabled or self.ring.is_mine()):
            if self.in_flight.count or self.ring.has_unsubmitted():
                self.begin_run()
                self.settle_all(True)
            self.move(_ring.take_ring(single_issuer=False))
        self.is_pollable = True  # a ring of another thread: the next run moves anyhow
        return 0

    cdef int move(self, Ring fresh, bint may_keep=True) except -1:
        """Another ring from now on; what was in flight is re-armed by its owners.

        Parameters: may_keep: an empty old ring may go to the next loop; False: it is closed.

        Nothing is lost, although the old ring's owner may never be asked again: `settle` left no send half-way,
        data that no CQE reported is still in its socket, and what was harvested is in the FIFO.
        """
        cdef Request request
        raw = [one for one in self.in_flight.snapshot() if (<Request>one).kind == KIND_RAW]
        if raw or self.has_tables:
            raise RuntimeError(f"a loop with requests in flight or tables registered stays with its ring, in its "
                               f"thread: {raw}")
        if self.ready_list is None:
            self.ready_list = ReadyList()
        self.harvest()
        if not self.hand_on(may_keep):
            self.ring.close()
        self.ring = fresh
        self.is_bound = False
        self.buffers = None  # its last users keep it until their completions are dispatched
        self.forget_ring()
        self.unsettled.clear()
        for request in reversed(self.in_flight.snapshot()):
            release(request)
            if request.kind == KIND_POLL:
                self.poll_completed(<PollRequest>request, -ECANCELED)
            elif request.kind == KIND_COMPLETION:
                self.fifo.push(request, -ECANCELED, 0, NULL)
            elif request.kind == KIND_SWEEP:
                self.must_sweep = True
        return 0

    cdef int settle(self) except -1:
        """See FDMonitor."""
        # This thread may end, and nobody else could make the kernel let go of a socket then: nothing stays in flight.
        return self.settle_all(not ul_is_main_thread())

    cdef int settle_all(self, bint is_moving) except -1:
        """Parameters: is_moving: the next run is on another ring, perhaps."""
        cdef Request request
        cdef int rounds = 0
        cdef list waiting
        if not self.ring.is_mine():
            return 0
        if self.ready_list is None:
            self.ready_list = ReadyList()
        self.submit()
        if not is_moving:
            return 0
        # The next run delivers the cancellations, and whoever still wants to hear arms again.  But raw requests
        # are their makers': while one is in flight the loop stays with this thread.
        waiting = [one for one in self.in_flight.snapshot() if (<Request>one).kind != KIND_RAW]
        for request in waiting:
            self.cancel(request)
        while rounds < DRAIN_ROUNDS and any([(<Request>one).owner is not None for one in waiting]):
            self.enter_and_harvest(1, 10_000_000)
            rounds += 1
        return 0

    cdef bint gsource_prepare(self, ReadyList ready_list) except -1:
        if self.need_wait():
            self.wait(ready_list, 0)
            self.is_prepared = ready_list.head != ready_list.tail
        return self.need_wait()

    cdef bint gsource_check(self, bint is_fd_ready) except -1:
        return self.need_wait()

    cdef int fileno(self) noexcept:
        return self.ring.ring.ring_fd if self.ring.is_open else -1

    def statistics(self):
        numbers = FDMonitor.statistics(self)
        numbers.update(
            in_flight=self.in_flight.count,
            submitted=self.n_submitted_before + self.ring.n_submitted,
            completed=self.n_completed,
            cq_overflows=self.n_cq_overflows,
            syscalls=self.n_syscalls_before + self.ring.n_syscalls,
        )
        for one in self.sets():
            numbers["syscalls"] += (<SetHandler>one).watches.n_syscalls
        if self.n_in_limbo:
            numbers["in_limbo"] = self.n_in_limbo
        return numbers

    # -- the end ---------------------------------------------------------------------------------------

    cdef int close(self) except -1:
        if self.is_closed:
            return 0
        FDMonitor.close(self)
        if self.ready_list is None:
            self.ready_list = ReadyList()
        self.to_arm = []
        self.drop_sets()
        was_enabled = self.ring.is_enabled
        try:
            if self.ring.is_mine():
                self.drain()
            elif self.ring.is_enabled:
                # The owner is elsewhere or gone: only it could make the kernel run deferred work.
                self.harvest()
            if not self.hand_on():
                self.ring.close()
        finally:
            self.drop_all(was_enabled)
        return 0

    cdef list sets(self):
        return [one for one in (self.closable, self.resting) if one is not None]

    cdef int drop_sets(self) except -1:
        """No more from the epoll sets; a poll request that is armed has the epoll object until it is drained."""
        cdef SetHandler one
        self.must_sweep = False
        self.movable.clear()
        for one in self.sets():
            one.is_removed = True
            one.watches.close()
        return 0

    cdef int forget_ring(self) except -1:
        """That ring is closed: it notifies no more, and has no buffers of requests."""
        self.late.release_all()
        if self.n_in_limbo and self.lent is not None:
            Py_INCREF(self.lent)  # what is leaked to the kernel may still take them
        self.lent, self.has_remains = None, False
        return 0

    cdef bint hand_on(self, bint may_keep=True) except -1:
        """Give an empty ring to the next loop; False where it must be closed."""
        cdef Ring ring = self.ring
        self.n_syscalls_before += ring.n_syscalls
        self.n_submitted_before += ring.n_submitted
        ring.n_syscalls = ring.n_submitted = 0
        if (not may_keep or self.in_flight.count or self.has_tables or self.has_remains
                or (self.has_run and not ring.is_mine())
                or (self.buffers is not None and not self.buffers.unregister()) or not _ring.give_back(ring)):
            return False
        self.ring = Ring.__new__(Ring, False, True)
        return True

    cdef int drain(self) except -1:
        """Cancel everything and wait until the kernel holds nothing."""
        cdef Py_ssize_t n_before, idle_rounds = 0
        if self.in_flight.count == 0 and not self.ring.has_unsubmitted():
            return 0
        self.submit()
        while self.in_flight.count and idle_rounds < DRAIN_ROUNDS:
            if idle_rounds % 8 == 0:
                # Not once: behind a hard link the next one starts only now, and what is changing hands is not found.
                ul_prep_cancel_any(self.ring.get_sqe())
            if idle_rounds % 64 == 32:
                self.ring.fill_cq()
            n_before = self.in_flight.count
            self.enter_and_harvest(1, 10_000_000)
            # the kernel gives back some 20 at a time: many rounds
            idle_rounds = 1 if self.in_flight.count < n_before else idle_rounds + 1
        if self.in_flight.count:
            logging.getLogger("uringloop").error(
                "closing a ring with %d requests that the kernel does not give back", self.in_flight.count)
        return 0

    cdef int drop_all(self, bint was_enabled) except -1:
        """The ring is closed: only raw requests are still told, by deliver_last."""
        cdef Completion slot
        cdef Request request
        cdef size_t n
        for request in reversed(self.in_flight.snapshot()):
            if not was_enabled or request.keepalive is None:
                release(request)
            else:
                # Closed from another thread: memory the kernel may still touch is kept for ever, and counted.
                self.n_in_limbo += 1
                Py_INCREF(request.keepalive)
            if request.kind == KIND_RAW:
                self.fifo.push(request, -ECANCELED, 0, NULL)
        self.forget_ring()
        self.unsettled.clear()
        self.to_arm = []  # cancelled handlers are back on it
        while self.ready_list.count():
            self.ready_list.pop()
        n = self.fifo.count()
        while n:
            n -= 1
            slot = self.fifo.pop()
            request = <Request>slot.request
            if request.kind == KIND_RAW:
                self.fifo.push(request, slot.res, slot.flags, NULL)
            else:
                request.drop(slot.res, slot.flags)
            Py_DECREF(request)  # taken by push
        return 0

    cdef int deliver_last(self) except -1:
        """See FDMonitor: each raw request hears of its end, whatever the callbacks of others raise."""
        cdef Completion slot
        cdef Request request
        cdef object first_error = None
        cdef size_t n_left = 2 * self.fifo.count()  # for want of memory one is put back, and tried once more
        while self.fifo.count():
            slot = self.fifo.pop()
            request = <Request>slot.request
            Py_DECREF(request)  # taken by push
            if n_left == 0:
                request.drop(slot.res, slot.flags)
                continue
            n_left -= 1
            try:
                request.complete(slot.res, slot.flags, slot.data)
            except BaseException as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error
        return 0

    cdef bint can_leave(self) except -1:
        """Raw requests, their buffers and registrations are the parent's ring's; how far a send came is not known."""
        return not (self.has_tables or self.is_bound or self.has_remains or any(
            [(<Request>one).kind not in (KIND_POLL, KIND_COMPLETION, KIND_SWEEP)
             for one in self.in_flight.snapshot()]))

    cdef int leave(self) except -1:
        """As `move` to another ring, which is made with the next SQE; but the CQ is the parent's, and stays untouched.

        What the kernel has of requests in flight points to the parent's memory: ours is free to go.
        """
        cdef Request request
        cdef SetHandler one
        FDMonitor.leave(self)
        if self.ready_list is None:
            self.ready_list = ReadyList()
        for one in self.sets():
            one.watches.leave()
            one.is_removed = True  # `renew` makes another one, for another epoll object
        self.n_syscalls_before += self.ring.n_syscalls
        self.n_submitted_before += self.ring.n_submitted
        self.ring.leave()
        self.buffers = None  # its last users keep it until their completions are dispatched
        self.forget_ring()
        self.unsettled.clear()
        for request in reversed(self.in_flight.snapshot()):
            release(request)
            if request.kind == KIND_POLL:
                self.poll_completed(<PollRequest>request, -ECANCELED)
            elif request.kind == KIND_SWEEP:
                self.must_sweep = True
            else:
                self.fifo.push(request, -ECANCELED, 0, NULL)
        return 0

    cdef int renew(self) except -1:
        cdef FdHandler handler
        cdef SetHandler one
        for one in self.sets():
            if one.watches.epoll_fd < 0:
                one.watches.create()
        if self.closable is not None and self.closable.is_removed:
            self.closable = self.watch_set(self.closable.watches)
        if self.resting is not None and self.resting.is_removed:
            self.resting = self.watch_set(self.resting.watches)
        FDMonitor.renew(self)
        for one in self.sets():
            one.watches.renew()
        for handler in list(self.handlers.values()):
            if handler.is_removed:  # that one found it to be another file
                del self.handlers[handler.fd]
        return 0

    cdef int forget(self) except -1:
        self.is_closed = True
        self.handlers.clear()
        self.to_arm = []
        self.drop_sets()
        self.ring.close()
        return 0
