"""The completion engine: one ring, the requests on it, and their completions.

How it works:
 1. All requests queued since the last wait are submitted by the same io_uring_enter(2) that waits.
 2. `harvest` copies CQEs out of the ring into a FIFO, from which the monitor's `dispatch` runs the completion
    callbacks.  A nested wait appends to the same FIFO and a nested dispatch takes from its head, so each is delivered
    once and in order.  The monitor's own requests (KIND_INTERNAL) are reported to it at once.
 3. A KIND_SKIP_SEND is MSG_WAITALL | MSG_DONTWAIT with IOSQE_CQE_SKIP_SUCCESS: once the kernel has consumed its SQE the
    send is over, and no CQE means that all of it was copied.  So after an enter that consumed everything, and
    after an overflowed CQ was flushed, what posted no CQE is settled as sent.
 4. With DEFER_TASKRUN one enter runs at most 20 deferred completions, so a full load is taken by several
    cheap enters before any Python runs.

Invariant: a request is on `in_flight` from hold to release, and everything on it is cancelled and drained, or kept
for ever, before its memory is freed.

Threads: the thread that enables the ring owns it for ever; `move` makes a new ring for another thread.
Kernel: 5.19 at least, 6.0 for multishot receive, 6.1 for DEFER_TASKRUN.

Not here: readiness (`fdmon/io_uring`), what a completion means (`transports/stream/ring_wire`, `requests/`), memory
rules (`request`).
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..liburing.liburing cimport *
from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.guard cimport peek_int, poke_int
from ..support.probes cimport ul_probe_complete
from ..support.references cimport References
from .buffers cimport BufferRing, LentBuffers
from .completions cimport Completion, CompletionFifo
from .request cimport (ALL_SENT, CANCELLING, IN_FLIGHT, KIND_COMPLETION, KIND_INTERNAL, KIND_RAW, KIND_SKIP_SEND,
                       InFlight, Request, decode, encode, end, hold, note_sqe, release)
from .ring cimport Ring, raise_kernel_busy
from .sendprobe cimport failed_send_reports_count

import logging

from ..exceptions import MonitorUnavailable
from . import ring as _ring

cdef extern from "../support/clock.h" nogil:
    bint ul_is_clock_faked() noexcept

# Deferred completions are taken up to here before Python runs.  More delays the first callback, and what the kernel
# touched to receive is no longer in the cache when it sends (CPU per 1 KiB message: 300 and 1,000 connections 1.02
# to 1.03 better than with 100, none worse).
cdef enum:
    HARVEST_TARGET = 32
    DEFERRED_PER_ENTER = 16  # the kernel runs up to 20; fewer than this means that there are no more
    HARVEST_BYTES = 128 * 1024  # received data taken before Python runs: more would leave the cache, and the buffers
    DRAIN_ROUNDS = 1000
    FAKED_WAIT_NS = 1_000_000

# Once per process: -1 until it could be probed.
cdef int sends_report_count = -1


cdef class Engine:
    """A ring and the requests in flight on it.  Raises MonitorUnavailable; then nothing is left behind."""

    def __cinit__(self):
        self.ring = _ring.take_ring()
        self.is_restricted = _ring.is_restricted
        self.in_flight = InFlight()
        self.late = InFlight()
        self.fifo = CompletionFifo()
        self.unsettled = References()

    def __dealloc__(self):
        while self.n_spare:
            self.n_spare -= 1
            Py_DECREF(<object>self.spare[self.n_spare])  # taken by keep_spare

    # -- requests --------------------------------------------------------------------------------------

    cdef int add(self, Request request, io_uring_sqe *sqe) except -1:
        """`sqe`, filled, is on its way for `request`; it reaches the kernel with the next wait at the latest."""
        return hold(request, self.in_flight, sqe)

    cdef int add_skip_send(self, Request request, io_uring_sqe *sqe) except -1:
        """The same for a SEND without a CQE on success; `settle` is called in the next wait or submit."""
        must(request.kind == KIND_SKIP_SEND, "only a send without a CQE is settled")
        try:
            self.unsettled.put(request)
        except MemoryError:
            io_uring_prep_nop(sqe)  # it keeps its place in the SQ, and must not send without its owner
            sqe.user_data = 0
            raise
        hold(request, self.in_flight, sqe)
        return 0

    cdef int add_raw(self, PyObject **requests, unsigned n, const io_uring_sqe *filled) except -1:
        """Add the user's own requests, as one unit that no submission splits; all of them or none.

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
            must((<Request>requests[i]).kind == KIND_RAW, "what add_sqe() makes is of KIND_RAW")
            self.has_remains |= note_sqe(<Request>requests[i], sqe, i != 0)
            hold(<Request>requests[i], self.in_flight, sqe)
        return 0

    cdef int make_room(self, unsigned n_sqes) except -1:
        """Submit what is queued until so many SQEs fit into the SQ at once."""
        cdef int rounds = 0
        while not self.ring.has_room(n_sqes):
            if rounds == DRAIN_ROUNDS:
                raise_kernel_busy()
            rounds += 1
            # once finished requests are harvested, a full CQ is no reason to refuse more
            self.enter_and_harvest(0, -1)
        return 0

    cdef int prepare_for_raw(self) except -1:
        """Make sure that this thread may touch the ring, and before the first run, that any thread may run the loop."""
        cdef Ring fresh
        self.ring.reopen()
        if not (self.has_run or not self.ring.is_enabled or self.in_flight.count or self.ring.has_unsubmitted()):
            # a spare ring, which belongs to its thread for ever
            fresh = _ring.take_ring(only_disabled=True)
            if not _ring.give_back(self.ring):
                self.ring.close()
            self.ring = fresh
            self.buffers = None
        if self.is_elsewhere():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the loop; "
                               "use loop.call_soon_threadsafe() to make requests")
        return 0

    cdef Request take_spare(self):
        """A request of transports/stream/ring_wire that is over, or None.

        Each send needs one; a connection that waits for data needs none.
        """
        cdef Request request
        if self.n_spare == 0:
            return None
        self.n_spare -= 1
        request = <Request>self.spare[self.n_spare]
        Py_DECREF(request)  # taken by keep_spare
        must(is_none(<void *>request.owner), "a spare request is not in flight")
        return request

    cdef void keep_spare(self, Request request) noexcept:
        """Keep one that is over, which keeps nothing alive, for take_spare."""
        must(is_none(<void *>request.keepalive), "a spare request keeps nothing alive")
        must(is_none(<void *>request.owner), "a spare request is not in flight")
        request.polled = None
        if self.n_spare == SPARE_MOST:
            return
        Py_INCREF(request)  # undone by take_spare or __dealloc__
        self.spare[self.n_spare] = <PyObject *>request
        self.n_spare += 1

    cdef int cancel(self, Request request) except -1:
        """Best effort, by request and never by fd; exactly one final completion still comes."""
        cdef io_uring_sqe *sqe
        if request.owner is None or request.state == CANCELLING:
            return 0
        sqe = self.ring.get_sqe()
        io_uring_prep_cancel64(sqe, encode(request), 0)
        # The cancel's own result is not waited for; -ENOENT (already done) still posts a CQE, which is ignored.
        sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
        sqe.user_data = 0
        if request.state == IN_FLIGHT:
            request.state = CANCELLING
        return 0

    cdef int cancel_behind(self, Request request) except -1:
        """A cancellation that runs after the work that the kernel defers to the end of an enter.

        A multishot timeout is found only while its timer is set.  A quick one expires before every enter that submits a
        cancellation, and is set again by the last step of that enter; so it would never be found.  A request linked to
        a NOP runs after that step.
        """
        cdef io_uring_sqe *sqe
        if not self.ring.has_room(2):
            self.make_room(2)
        if request.owner is None:
            return 0  # that ended it
        sqe = self.ring.get_sqe()
        io_uring_prep_nop(sqe)
        sqe.flags |= IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS
        sqe.user_data = 0
        sqe = self.ring.get_sqe()
        io_uring_prep_cancel64(sqe, encode(request), 0)
        sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
        sqe.user_data = 0
        return 0

    cdef bint is_elsewhere(self) noexcept:
        """Whether the ring is another thread's: this one may queue nothing."""
        return self.ring.is_enabled and not self.ring.is_mine()

    cdef int deliver(self, Request request, int32_t res, uint32_t flags) except -1:
        """Add a completion without a CQE: the next dispatch calls `complete`."""
        return self.fifo.push(request, res, flags, NULL)

    cdef LentBuffers lend_to_kernel(self):
        """The object that keeps the buffers of PROVIDE_BUFFERS alive, made on first use."""
        if self.lent is None:
            self.lent = LentBuffers()
        return self.lent

    cdef BufferRing buffer_ring(self):
        """The loop's provided buffers, made on first use; None where they are not available."""
        if self.buffers is None and not self.has_no_buffers:
            self.ring.reopen()
            try:
                self.buffers = BufferRing(self.ring)
            except OSError as error:
                # before Linux 5.19, or locked memory is used up: connections read by readiness
                logging.getLogger("uringloop").debug("no provided buffers: %s", error)
                self.has_no_buffers = True
        return self.buffers

    # -- called by the monitor -------------------------------------------------------------------------

    cdef bint has_work(self) noexcept:
        """Whether `wait` has work to do without sleeping, apart from completions harvested already."""
        return (self.ring.has_completions() or self.ring.has_unsubmitted()
                or self.unsettled.head != self.unsettled.tail)

    cdef bint spin(self, const int *notified, int64_t until_ns) except -1:
        """Busy-poll for completions, until `notified` or the time is up; True if there are any to harvest."""
        cdef bint is_hit
        # queued requests are submitted first: their completions are what to poll for
        if self.ring.has_unsubmitted():
            harvested = self.enter_and_harvest(0, -1)
            self.settle_sends()
            if harvested:
                return True
        with nogil:
            # Other threads write `notified` meanwhile, the kernel the ring; nothing else touches either.
            is_hit = ul_spin(&self.ring.ring, notified, until_ns)
        return is_hit

    cdef bint has_undispatched(self) noexcept:
        return self.fifo.head != self.fifo.tail

    cdef int wait(self, int64_t timeout_ns) except -1:
        """Submit, sleep until there is a completion, and harvest.  Runs no user code.

        Parameters: timeout_ns: 0 does not sleep, negative is for ever.
        """
        cdef int harvested, total
        self.harvested_bytes = 0
        if timeout_ns == 0 or self.has_undispatched() or io_uring_cq_ready(&self.ring.ring):
            if not self.ring.has_unsubmitted() and not self.ring.has_completions():
                return 0
            total = harvested = self.enter_and_harvest(0, -1)
        else:
            if timeout_ns > FAKED_WAIT_NS and ul_is_clock_faked():
                timeout_ns = FAKED_WAIT_NS  # in real time, whatever the clock does: then the clock is read again
            total = harvested = self.enter_and_harvest(1, timeout_ns)
        while (harvested >= DEFERRED_PER_ENTER and total < HARVEST_TARGET
               and self.harvested_bytes < HARVEST_BYTES and self.ring.has_completions()):
            harvested = self.enter_and_harvest(0, -1)
            total += harvested
        return self.settle_sends()

    cdef int enter_and_harvest(self, unsigned wait_count, int64_t timeout_ns) except -1:
        if (wait_count == 0 and not self.ring.has_unsubmitted()
                and not ul_sq_flags(&self.ring.ring) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)):
            return self.harvest()  # all completions are visible already: no system call
        self.ring.enter(wait_count, timeout_ns)
        return self.harvest()

    cdef int harvest(self) except -1:
        """Take all visible CQEs; returns how many.  Runs no user code."""
        cdef io_uring_cqe *cqe
        cdef unsigned head = self.ring.ring.cq.khead[0]
        cdef unsigned count = io_uring_cq_ready(&self.ring.ring), tail = head + count
        cdef Request request
        cdef uint64_t user_data
        cdef int32_t res
        cdef uint32_t flags
        cdef char *data
        if ul_sq_flags(&self.ring.ring) & IORING_SQ_CQ_OVERFLOW:
            self.n_cq_overflows += 1  # the kernel keeps those beyond the CQ; the next enter posts them
        self.fifo.reserve(count)
        while head != tail:
            cqe = &self.ring.ring.cq.cqes[head & self.ring.ring.cq.ring_mask]
            user_data, res, flags = cqe.user_data, cqe.res, cqe.flags
            head += 1
            io_uring_smp_store_release(self.ring.ring.cq.khead, head)
            if user_data == 0:
                continue
            request = decode(user_data)
            ul_probe_complete(<void *>request, res, flags)
            must_not(is_none(<void *>request.owner), "the request of a CQE is in flight")
            must_if(<void *>request.owner != <void *>self.in_flight, <void *>request.owner == <void *>self.late,
                    "a CQE is of a request of its ring")
            if request.kind == KIND_COMPLETION or request.kind == KIND_RAW:
                if request.owner is self.late:
                    release(request)
                    continue
                data = NULL
                if flags & IORING_CQE_F_BUFFER and request.kind == KIND_COMPLETION:
                    must(<void *>self.buffers.ring == <void *>self.ring,
                         "the buffers that a CQE names are registered with its ring")
                    data = self.buffers.take(res, flags)
                    self.harvested_bytes += res
                    self.n_bytes += res
                self.fifo.push(request, res, flags, data)
                if not flags & IORING_CQE_F_MORE:
                    end(request, flags, self.late)
            elif request.kind == KIND_INTERNAL:
                if not flags & IORING_CQE_F_MORE:
                    release(request)
                request.reported(res, flags & IORING_CQE_F_MORE != 0)
            else:
                release(request)
                request.settle(res)
        self.n_completed += count
        return <int>count

    cdef int settle_sends(self) except -1:
        """All SQEs were consumed: sends that posted no CQE are complete.  Runs no user code."""
        cdef Request request
        if self.unsettled.head == self.unsettled.tail or self.ring.has_unsubmitted():
            return 0
        self.flush_cq_overflow()
        while self.unsettled.head != self.unsettled.tail:
            must_not(self.ring.has_unsubmitted(), "a send that is settled was consumed")
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

    cdef int submit(self) except -1:
        """Submit queued requests now, without waiting.  Runs no user code."""
        if not self.ring.is_mine():
            return 0  # the next run submits, or close() drops it
        if self.ring.has_unsubmitted():
            self.enter_and_harvest(0, -1)
        return self.settle_sends()

    cdef int begin_run(self) except -1:
        """The calling thread is going to run the loop: the ring is, or becomes, its own."""
        global sends_report_count
        if not self.ring.is_mine():
            if self.ring.is_enabled:
                self.move(_ring.take_ring(single_issuer=not (self.has_run or self.is_pollable)))
            self.ring.enable()
        while self.ring.n_overflow and self.ring.move_overflow():
            self.make_room(self.ring.ring.sq.ring_entries)
        must(self.ring.is_mine(), "the thread that runs the loop owns the ring")
        must(self.ring.n_overflow == 0, "what waited for `enable` is in the SQ before the first wait")
        self.has_run = True
        if peek_int(&sends_report_count) < 0:
            found = failed_send_reports_count()
            if found is not None:
                poke_int(&sends_report_count, found is True)
        self.skip_sends = peek_int(&sends_report_count) == 1
        return 0

    cdef int settle(self) except -1:
        """The loop is going to stop: leave nothing half-way in user space.  Runs no user code."""
        # This thread may end, and only it could make the kernel release a socket: nothing stays in flight.
        return self.settle_all(not ul_is_main_thread())

    cdef int settle_all(self, bint is_moving) except -1:
        """Parameters: is_moving: the next run may be on another ring."""
        cdef Request request
        cdef int rounds = 0
        cdef list waiting
        if not self.ring.is_mine():
            return 0
        self.submit()
        if not is_moving:
            return 0
        # The next run delivers the cancellations, and owners that still want events arm again.  But raw requests
        # are their makers': while one is in flight the loop stays with this thread.
        waiting = [one for one in self.in_flight.snapshot() if (<Request>one).kind != KIND_RAW]
        for request in waiting:
            self.cancel(request)
        while rounds < DRAIN_ROUNDS and any([(<Request>one).owner is not None for one in waiting]):
            self.enter_and_harvest(1, 10_000_000)
            rounds += 1
        return 0

    # -- another ring ----------------------------------------------------------------------------------

    cdef int make_pollable(self) except -1:
        """A ring without DEFER_TASKRUN, whose completions do not wake a sleeper on its fd: docs/decisions/0015."""
        self.ring.reopen()
        if self.ring.setup_flags & IORING_SETUP_DEFER_TASKRUN and (not self.ring.is_enabled or self.ring.is_mine()):
            if self.in_flight.count or self.ring.has_unsubmitted():
                self.begin_run()
                self.settle_all(True)
            self.move(_ring.take_ring(single_issuer=False))
        self.is_pollable = True  # a ring of another thread: the next run moves anyhow
        return 0

    cdef int grow(self) except -1:
        """A large ring from now on, if one is available: a chain has to fit into the SQ.

        Not by IORING_REGISTER_RESIZE_RINGS (since Linux 6.13): while that swaps the rings, a completion on another CPU
        sets IORING_SQ_TASKRUN in freed memory.  So as if the loop moved to another thread (`move`): requests in flight
        are cancelled and armed again.  Not with raw requests in flight, or with state that those have left in the ring.
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

    cdef int move(self, Ring fresh, bint may_keep=True) except -1:
        """Another ring from now on; owners re-arm the requests that were in flight.

        Parameters: may_keep: an empty old ring may be given to the next loop; False: it is closed.

        Nothing is lost, although the old ring's owner may never run again: `settle` left no send half-way,
        data that no CQE reported is still in its socket, and what was harvested is in the FIFO.
        """
        raw = [one for one in self.in_flight.snapshot() if (<Request>one).kind == KIND_RAW]
        if raw or self.has_tables:
            raise RuntimeError(f"a loop with requests in flight or tables registered stays with its ring, in its "
                               f"thread: {raw}")
        self.harvest()
        if not self.hand_on(may_keep):
            self.ring.close()
        self.ring = fresh
        self.is_bound = False
        return self.part()

    cdef int part(self) except -1:
        """End the requests in flight on the old ring, without a result; their owners re-arm them."""
        cdef Request request
        self.buffers = None  # its last users keep it until their completions are dispatched
        self.forget_ring()
        self.unsettled.clear()
        for request in reversed(self.in_flight.snapshot()):
            release(request)
            if request.kind == KIND_INTERNAL:
                request.reported(-ECANCELED, False)
            elif request.kind == KIND_COMPLETION:
                self.fifo.push(request, -ECANCELED, 0, NULL)
        must(self.in_flight.count == 0, "a ring that is left has nothing in flight")
        must(self.unsettled.head == self.unsettled.tail, "a send is settled on the ring that it is on")
        return 0

    cdef int forget_ring(self) except -1:
        """That ring is closed: it sends no more notifications, and has no buffers of requests."""
        self.late.release_all()
        if self.n_leaked and self.lent is not None:
            Py_INCREF(self.lent)  # requests leaked to the kernel may still take them
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

    cdef bint can_leave(self) except -1:
        """Raw requests, their buffers and registrations belong to the parent's ring; progress of a send is unknown."""
        return not (self.has_tables or self.is_bound or self.has_remains or any(
            [(<Request>one).kind not in (KIND_INTERNAL, KIND_COMPLETION)
             for one in self.in_flight.snapshot()]))

    cdef int leave(self) except -1:
        """In a fork child: as `move` to another ring, which is made with the next SQE; but the CQ is the parent's, and
        stays untouched.

        The kernel's requests in flight point to the parent's memory: ours may be freed.
        """
        self.n_syscalls_before += self.ring.n_syscalls
        self.n_submitted_before += self.ring.n_submitted
        self.ring.leave()
        return self.part()

    cdef int count_into(self, dict numbers) except -1:
        """Add what the engine has counted, as FDMonitor.count_into does; `syscalls` of the monitor is there."""
        numbers.update(
            in_flight=self.in_flight.count,
            bytes_received=numbers["bytes_received"] + self.n_bytes,
            submitted=self.n_submitted_before + self.ring.n_submitted,
            completed=self.n_completed,
            cq_overflows=self.n_cq_overflows,
            leaked=self.n_leaked,
            syscalls=numbers["syscalls"] + self.n_syscalls_before + self.ring.n_syscalls,
        )
        return 0

    # -- the end ---------------------------------------------------------------------------------------

    cdef int close(self) except -1:
        """Cancel everything, drain until nothing is in flight, close, only then release memory.

        Raw requests are still on the FIFO, for deliver_last.
        """
        was_enabled = self.ring.is_enabled
        try:
            if self.ring.is_mine():
                self.drain()
            elif self.ring.is_enabled:
                # The owner is elsewhere or gone: only it could make the kernel run deferred work.
                self.harvest()
            self.hand_on()  # an empty one; then no ring is left here
        finally:
            # Also after an exception (the kernel takes no requests, memory is short): the memory of requests in flight
            # is released afterwards.
            self.ring.close()
            self.drop_all(was_enabled)
        return 0

    cdef int drain(self) except -1:
        """Cancel everything and wait until the kernel holds nothing."""
        cdef Py_ssize_t n_before, idle_rounds = 0
        if self.in_flight.count == 0 and not self.ring.has_unsubmitted():
            return 0
        self.submit()
        while self.in_flight.count and idle_rounds < DRAIN_ROUNDS:
            if idle_rounds % 8 == 0:
                # Repeatedly: behind a hard link the next one starts only now, and one between two states is not found.
                ul_prep_cancel_any(self.ring.get_sqe())
            if idle_rounds % 64 == 32:
                self.ring.fill_cq()
            n_before = self.in_flight.count
            self.enter_and_harvest(1, 10_000_000)
            # the kernel returns some 20 at a time: many rounds
            idle_rounds = 1 if self.in_flight.count < n_before else idle_rounds + 1
        if self.in_flight.count:
            logging.getLogger("uringloop").error(
                "closing a ring with %d requests that the kernel does not give back", self.in_flight.count)
        return 0

    cdef int drop_all(self, bint was_enabled) except -1:
        """The ring is closed: only raw requests are still notified, by deliver_last."""
        cdef Completion slot
        cdef Request request
        cdef size_t n
        must_not(self.ring.is_open, "the ring is closed before memory that the kernel may touch is released")
        for request in reversed(self.in_flight.snapshot()):
            if not was_enabled or request.keepalive is None:
                release(request)
            else:
                # Closed from another thread: memory the kernel may still touch is kept for ever, and counted.
                self.n_leaked += 1
                Py_INCREF(request.keepalive)
            if request.kind == KIND_RAW:
                self.fifo.push(request, -ECANCELED, 0, NULL)
        self.forget_ring()
        self.unsettled.clear()
        must(self.late.count == 0, "a ring that is closed notifies no more")
        must(<size_t>self.in_flight.count <= self.n_leaked, "what the kernel holds after the end is counted as leaked")
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
        """See FDMonitor: the end of each raw request is reported, whatever the callbacks of others raise."""
        cdef Completion slot
        cdef Request request
        cdef object first_error = None
        cdef size_t n_left = 2 * self.fifo.count()  # for lack of memory one is put back, and tried once more
        while self.fifo.count():
            slot = self.fifo.pop()
            request = <Request>slot.request
            Py_DECREF(request)  # taken by push
            must(request.kind == KIND_RAW, "only raw requests are notified of the end")
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
