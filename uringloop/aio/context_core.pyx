"""The turn: one context waits for events on one fd monitor and dispatches them.

One turn (QEMU: aio_poll), in the order that asyncio's users can see:
 1. flush: data that transports collected in the last turn is written or queued;
 2. wait: the monitor submits, blocks for the next timer at most, and fills lists; no user code;
 3. callbacks that were ready when the turn began;
 4. completions and ready fds, in the order in which they were found;
 5. timers that were due after the wait, earliest first.
Callbacks that these schedule wait for the next turn.  Stock asyncio runs all of them from one FIFO in the same order.

A nested turn from any callback is allowed: lists and queues are the context's, and each entry leaves its list before
it runs, so the inner turn delivers what the outer one has pending, each once.

Invariant: the loop never blocks while a callback is ready, a completion or an fd is undispatched, or a notification is
published (notifier).

Thread: the loop's; `ready.push_from_any` and `notifier.notify` from any.
Not here: what users call (AioContext); asyncio.  This file knows callbacks (Handle) but no event loop.
"""

cimport cython
from libc.stdint cimport int64_t
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident

from ..fdmon.adaptive_polling cimport PollList
from ..fdmon.base cimport (
    NEVER_NS, OF_CALLBACK, OF_FD, OF_TIMER, FDMonitor, FdHandler, ReadyList, Stopwatch, Subject)
from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.guard cimport FREE_THREADED, is_wanted, let_others_in, peek_int, peek_size
from ..support.probes cimport ul_probe_turn, ul_probe_wait, ul_probe_woken
from ..support.references cimport References
from .bottom_halves cimport BottomHalves
from .handles cimport Handle
from .measured_polling cimport MeasuredPolling
from .notifier cimport Notifier
from .ready cimport ReadyQueue
from .recorder cimport UL_CALLS, UL_LOOP, UL_OUTSIDE, UL_POLL, UL_WAIT, Recorder
from .timers cimport Timers

import atexit
import logging
import os
import sys
import weakref

cdef object is_finalizing = sys.is_finalizing  # a C variable: module globals may be gone by then

# When this much data waits for the end of the turn it is written at once, so that its memory is reused while hot in
# the cache.  Large writes sooner: the peer of the first then works while the next are read (measured at 16 KiB
# and 100 connections, CPU per message against uvloop: 1.11 with 64 KiB, 1.01 with 256 KiB; at 1 KiB the other way
# round, since each system call wakes the peer).
cdef enum:
    FLUSH_BYTES = 256 * 1024
    FLUSH_BYTES_LARGE = 64 * 1024
    LARGE_WRITE = 8 * 1024

cdef extern from "Python.h":
    void *PyEval_GetFrame() noexcept

# While it busy-polls, the loop's thread does not notice signals; it checks from time to time.
cdef enum:
    SPIN_SLICE_NS = 1_000_000
    SPIN_WAIT_NS = 10_000  # epoll and poll need a system call to poll: between two of them, handlers are polled

cdef enum:
    IDLE_WAIT_NS = 10_000_000  # the longest wait of an idle bottom half

# Weak references, which leave it by themselves.  For a fork child, and before a process ends.  A list of them is made
# at once, also without a GIL.
cdef dict live_contexts = {}
cdef object forget_context = live_contexts.pop


cdef class Resumable(Subject):
    """An object that calls user code in the middle of a delivery."""

    cdef int go_on(self) except -1:
        """A turn begins in that user code: schedule the remaining deliveries.  Runs no user code; may be repeated."""
        raise NotImplementedError


cdef class Flushable(Resumable):
    """An object that collects output during a turn."""

    cdef int flush(self) except -1:
        """Write what was collected, or queue it with the monitor.  Runs no user code."""
        raise NotImplementedError

    cdef int flush_last(self) except -1:
        """The context closes: write what the kernel takes right now.  Any thread, no user code."""
        raise NotImplementedError


cdef class IdleWork:
    """Something to do when nothing is ready, before each wait."""

    cdef bint before_wait(self, int64_t timeout_ns) except -1:
        """The context waits next, for that long at most; -1 for ever.  Returns: whether user code may have run."""
        raise NotImplementedError

    cdef int end(self) except -1:
        """The context closes."""
        raise NotImplementedError


cdef class ContextCore:
    """What an AioContext runs: its queues, its monitor, and the turn; AioContext adds what users call.

    Parameters:
        fdmon: "io_uring", "epoll" or "poll" to force a monitor; "auto-any" for the best available to it; None
            for $URINGLOOP_FDMON, else the best available one; or an FDMonitor, which the context then owns and closes.

    Raises: MonitorUnavailable, ValueError; see fdmon/select.py.
    """

    def __cinit__(self, fdmon=None):
        cdef FDMonitor monitor
        self.guard = object()
        if not isinstance(fdmon, FDMonitor):
            from ..fdmon.select import make_monitor  # here: it imports all monitors
            fdmon, self.fdmon_reason = make_monitor(fdmon)
        monitor = self.monitor = fdmon
        self.engine = monitor.get_engine()
        self.ready = ReadyQueue()
        self.timers = Timers()
        self.timers.guard = self.guard
        self.due = ReadyQueue()
        self.ready_list = ReadyList()
        self.notifier = Notifier()
        self.bottom_halves = BottomHalves(self.ready, self.notifier, self.guard)
        self.dirty = References()
        monitor.update(None, self.notifier)
        live_contexts[weakref.ref(self, forget_context)] = None
        watch_departures()

    cdef int check_open(self) except -1:
        if self.monitor.is_closed:
            raise RuntimeError("the AioContext is closed" + (
                ": this process is a fork of the one that made it" if self.is_forgotten else ""))
        return 0

    cdef int begin_run(self) except -1:
        """This thread makes turns from now on; RuntimeError while another one does."""
        self.refuse_others()
        self.thread = <unsigned long>PyThread_get_thread_ident()
        if self.pollers is not None:
            self.pollers.thread = self.thread
        if self.is_left():
            self.renew()
        self.monitor.begin_run()
        return self.program.begin_turn() if self.program is not None else 0

    cdef int refuse_others(self) except -1:
        if self.is_elsewhere() and not self.is_forgotten:
            raise RuntimeError("another thread makes turns of this AioContext")
        return 0

    cdef bint is_elsewhere(self) noexcept:
        """Whether another thread makes turns: only that may touch the monitor."""
        return self.n_polls != 0 and self.is_other_thread()

    cdef bint is_other_thread(self) noexcept:
        """Whether another thread made the last turn; also between turns, which a foreign main loop makes one by one."""
        return self.thread != <unsigned long>PyThread_get_thread_ident()

    cdef int turn(self, bint blocking) except -1:
        cdef Py_ssize_t n_ready
        cdef size_t ready_end, idle_end = 0
        cdef PollList polling = self.polling
        cdef Py_ssize_t n_touched = len(polling.touched) if polling is not None else 0
        cdef int64_t block_ns
        must(self.n_polls > 0, "a turn is counted, so that other threads keep out")
        must_not(self.is_elsewhere(), "turns are made by the thread that runs the loop")
        if self.monitor.is_closed:
            self.check_open()  # a loop whose context was closed would turn endlessly, since it cannot block
        if is_wanted(self.guard):
            let_others_in()
        if FREE_THREADED and peek_size(&self.ready.n_arrived):
            self.ready.take_arrived()
        self.n_turns += 1
        ul_probe_turn(<void *>self, self.n_turns)
        if self.in_delivery is not None:
            self.resume_below()
        if self.dirty.head != self.dirty.tail:
            self.flush_turn()
        ready_end = self.ready.tail
        block_ns = self.timeout_ns(blocking and self.ready.head == ready_end)
        block_ns = self.wait(block_ns) if self.recorder is None else self.wait_recorded(block_ns)
        if self.has_own_clock:
            self.program.take_due(self.timers, self.due)
        elif self.timers.count:
            self.take_due_timers()
        # an io_poll, or the program's clock or select, may have run a nested turn, which took some of them
        n_ready = <Py_ssize_t>(ready_end - self.ready.head)
        if peek_size(&self.ready.n_idle):
            idle_end = self.bottom_halves.n_idle_taken + peek_size(&self.ready.n_idle)
        try:
            if n_ready > 0:
                self.n_dispatched += n_ready
                self.run_ready(n_ready)
            if idle_end:
                self.bottom_halves.run_idle(idle_end)
            if self.monitor.has_undispatched():
                self.n_dispatched += 1
                self.monitor.dispatch()
            if self.ready_list.head != self.ready_list.tail:
                self.dispatch_fds()
        finally:
            if self.polling is not None and self.polling.touched:
                # parameters that were set meanwhile count only what was dispatched since
                self.polling.adjust(n_touched if self.polling is polling else 0, block_ns, ul_monotonic_ns())
        if self.due.count():
            self.run_due_timers()
        return 0

    cdef int resume_below(self) except -1:
        """A frame below is in a delivery and waits for this turn: let this turn deliver the rest.

        Without this a nested run that waits for the rest would wait for ever.  The frame finds less to do afterwards.
        """
        cdef Resumable one = self.in_delivery
        must_not(is_none(<void *>one), "what is resumed is in delivery")
        self.in_delivery = None
        return one.go_on()

    cdef int64_t timeout_ns(self, bint blocking) except? -2:
        """How long the wait may block: -1 for ever, 0 not at all."""
        cdef int64_t when_ns
        if not blocking or not self.may_block():
            return 0
        if self.has_own_clock:
            return self.program.timeout_ns(self.timers, IDLE_WAIT_NS / 1e9 if peek_size(&self.ready.n_idle) else -1)
        when_ns = self.timers.next_when_ns()
        if when_ns < 0:
            return IDLE_WAIT_NS if peek_size(&self.ready.n_idle) else -1
        when_ns = max(when_ns - ul_monotonic_ns(), 0)
        return min(when_ns, IDLE_WAIT_NS) if peek_size(&self.ready.n_idle) else when_ns

    cdef bint may_block(self) noexcept:
        """Whether only callbacks and timers wait for this turn."""
        return not (self.wants_return or FREE_THREADED and peek_size(&self.ready.n_arrived)
                    or self.dirty.head != self.dirty.tail or self.due.count()
                    or self.monitor.has_undispatched() or self.ready_list.head != self.ready_list.tail)

    cdef int wait_for(self, int64_t timeout_ns) except -1:
        """The wait alone: the events are left to the next turn, or to the one in progress."""
        self.check_open()
        if self.dirty.head != self.dirty.tail:
            self.flush_dirty()
        if timeout_ns != 0:
            PyErr_CheckSignals()
            self.check_open()
        if self.monitor.has_undispatched() or self.ready_list.head != self.ready_list.tail:
            timeout_ns = 0
        return self.block(timeout_ns)

    cdef int block(self, int64_t timeout_ns) except -1:
        """Wait on the monitor; not at all if a notification is already pending."""
        if timeout_ns != 0:
            if not self.notifier.begin_wait():
                timeout_ns = 0
            elif peek_size(&self.ready.n_idle):  # by another thread, a moment ago
                timeout_ns = min(timeout_ns, IDLE_WAIT_NS) if timeout_ns > 0 else IDLE_WAIT_NS
        must_if(timeout_ns != 0, not self.monitor.has_undispatched(), "no wait sleeps on a completion that is there")
        must_if(timeout_ns != 0, self.ready_list.head == self.ready_list.tail, "no wait sleeps on a ready fd")
        ul_probe_wait(<void *>self, timeout_ns)
        try:
            if self.recorder is None:
                self.monitor.wait(self.ready_list, timeout_ns)
            else:
                self.block_recorded(timeout_ns)
        finally:
            self.notifier.end_wait()
        ul_probe_woken(<void *>self)
        PyErr_CheckSignals()
        return 0

    cdef int block_recorded(self, int64_t timeout_ns) except -1:
        cdef Recorder recorder = self.recorder
        cdef int state = recorder.enter(UL_CALLS if timeout_ns == 0 else UL_WAIT)
        try:
            return self.monitor.wait(self.ready_list, timeout_ns)
        finally:
            recorder.leave(state)

    cdef int64_t wait_recorded(self, int64_t timeout_ns) except -1:
        cdef Recorder recorder = self.recorder
        cdef int64_t waited_ns, before_ns = recorder.since_ns
        recorder.before_wait()
        waited_ns = self.wait(timeout_ns)
        recorder.after_wait(recorder.since_ns == before_ns)
        return waited_ns

    cdef int64_t wait(self, int64_t timeout_ns) except -1:
        """Busy-poll, then block, for that long at most; how long it took, 0 if that is not needed."""
        cdef int64_t bounded_ns, started_ns = 0
        if timeout_ns == 0 and self.pollers is None and not self.has_own_select:
            return self.take()  # most turns of a busy loop
        if self.pollers is not None and self.pollers.ask_bare(self.ready_list):
            timeout_ns = 0
        if timeout_ns != 0 and self._idle_work is not None:
            timeout_ns = self.use_idle_time(timeout_ns)
        if self.has_own_select:
            bounded_ns = self.pollers.bounded_ns(timeout_ns) if self.pollers is not None else timeout_ns
            self.program.wait(bounded_ns, self.has_own_clock and bounded_ns == timeout_ns)
            timeout_ns = 0
        if timeout_ns != 0 and not self.has_own_clock:
            if self.polling is not None:
                started_ns = ul_monotonic_ns()
                timeout_ns = self.spin_recorded(started_ns, timeout_ns)
            elif self.measured is not None and self.pollers is None:
                return self.measured_wait(timeout_ns)
        self.sleep(timeout_ns)
        if self.pollers is not None:
            return self.pollers.carry(
                ul_monotonic_ns() - started_ns if started_ns else 0,
                started_ns != 0 and self.timeout_ns(self.ready.head == self.ready.tail) != 0)
        return ul_monotonic_ns() - started_ns if started_ns else 0

    cdef int64_t use_idle_time(self, int64_t timeout_ns) except? -2:
        """Nothing is ready: do what is to be done then; returns how long the wait may take now.

        Before the busy-polling, not only before the sleep: a loop that polls with success never sleeps.  User code may
        run: it may schedule, write, close the context.
        """
        cdef IdleWork work = self._idle_work
        if not work.before_wait(timeout_ns):
            return timeout_ns
        if self.monitor.is_closed:
            return 0
        if self.has_own_clock:  # which is not read twice
            return timeout_ns if self.ready.head == self.ready.tail and self.may_block() else 0
        return self.timeout_ns(self.ready.head == self.ready.tail)

    cdef int measured_wait(self, int64_t timeout_ns) except -1:
        """The same with polling that is on by default."""
        cdef MeasuredPolling measured = self.measured  # the handler of a signal may switch it off
        cdef int64_t started_ns, spin_ns
        cdef int64_t spun_ns = 0
        cdef bint is_hit = False
        if measured.is_passed_over():
            return self.sleep(timeout_ns)
        started_ns = ul_monotonic_ns()
        spin_ns = measured.spin_ns(started_ns)
        if spin_ns:
            if self.recorder is not None:
                self.recorder.enter(UL_POLL)
            timeout_ns = self.spin_for(started_ns, spin_ns, timeout_ns, True, &is_hit)
            if self.recorder is not None:
                self.recorder.leave(UL_LOOP)
            spun_ns = ul_monotonic_ns() - started_ns
        self.sleep(timeout_ns)
        measured.waited(started_ns, spun_ns, is_hit, self.monitor.received_bytes())
        return 0

    cdef int sleep(self, int64_t timeout_ns) except -1:
        """Block for that long at most; with 0 take what is there."""
        if timeout_ns != 0:
            # A signal that arrived since the last byte code must not sleep with us, nor what its handler schedules.
            PyErr_CheckSignals()
            if not self.has_own_clock:
                timeout_ns = self.timeout_ns(self.ready.head == self.ready.tail)
            elif self.ready.head != self.ready.tail or not self.may_block():
                timeout_ns = 0
            if self.pollers is not None:
                timeout_ns = self.pollers.bounded_ns(timeout_ns)
        if timeout_ns == 0 or self.monitor.is_closed:
            return self.take()
        must(self.ready.head == self.ready.tail, "the loop does not sleep while a callback is ready")
        must(self.due.head == self.due.tail, "the loop does not sleep while a timer is due")
        must(self.dirty.head == self.dirty.tail, "the loop does not sleep on what is to be flushed")
        must_not(self.wants_return, "the loop does not sleep when it is to stop")
        return self.block(timeout_ns)

    cdef int take(self) except -1:
        """What is there, without blocking."""
        if self.monitor.is_closed:
            return 0  # by an io_poll, the program's select, or the handler of a signal
        if peek_int(&self.notifier.notified):  # spares two fences in a turn that does not block
            self.notifier.end_wait()
        if self.monitor.need_wait():
            if self.recorder is not None:
                return self.block_recorded(0)
            self.monitor.wait(self.ready_list, 0)
        return 0

    cdef int64_t spin_recorded(self, int64_t started_ns, int64_t timeout_ns) except? -2:
        cdef Recorder recorder = self.recorder
        cdef int state
        if recorder is None:
            return self.spin(started_ns, timeout_ns)
        state = recorder.enter(UL_POLL)
        try:
            return self.spin(started_ns, timeout_ns)
        finally:
            recorder.leave(state)

    cdef int64_t spin(self, int64_t started_ns, int64_t timeout_ns) except? -2:
        """Busy-poll for as long as it is likely to pay; returns the rest of the timeout, 0 when an event was found."""
        cdef PollList polling = self.polling  # a signal's handler may replace or remove it
        cdef int64_t spin_ns = polling.spin_ns(started_ns)
        cdef bint is_hit = False
        if self.pollers is not None:
            if timeout_ns > 0:
                spin_ns = min(spin_ns, timeout_ns)
            return self.spin_asking(started_ns, spin_ns - self.pollers.carried_ns, timeout_ns)
        if spin_ns <= 0:
            return timeout_ns
        timeout_ns = self.spin_for(started_ns, spin_ns, timeout_ns, False, &is_hit)
        if not is_hit:
            if timeout_ns != 0:
                polling.n_misses += 1
            return timeout_ns
        polling.n_hits += 1
        if peek_int(&self.notifier.notified):
            # the eventfd was not written: only `notified` shows it
            self.notifier.polled = polling.touch(self.notifier.polled)
        return 0

    cdef int64_t spin_for(self, int64_t started_ns, int64_t spin_ns, int64_t timeout_ns, bint with_calls,
                          bint *is_hit) except? -2:
        """Busy-poll the monitor for that long at most; returns the rest of the timeout, 0 when there is work.

        Parameters:
            with_calls: also by system calls, see FDMonitor.spin_with_calls.
            is_hit: set where an event ended it.
        """
        cdef int64_t now_ns = started_ns
        cdef int64_t slice_end_ns, end_ns
        if timeout_ns > 0:
            spin_ns = min(spin_ns, timeout_ns)
        end_ns = started_ns + spin_ns
        while now_ns < end_ns:
            slice_end_ns = min(end_ns, now_ns + SPIN_SLICE_NS)
            if (self.monitor.spin_with_calls(self.ready_list, &self.notifier.notified, slice_end_ns) if with_calls
                    else self.monitor.spin(self.ready_list, &self.notifier.notified, slice_end_ns)):
                is_hit[0] = True
                return 0
            # A signal does not end the polling, but its handler may schedule; so may a send that was settled.
            PyErr_CheckSignals()
            timeout_ns = self.timeout_ns(self.ready.head == self.ready.tail)
            if timeout_ns == 0 or self.monitor.is_closed:
                return 0
            now_ns = ul_monotonic_ns()
            if now_ns < slice_end_ns:
                break  # this monitor cannot poll in user space
            if timeout_ns > 0:
                end_ns = min(end_ns, now_ns + timeout_ns)
        return timeout_ns

    cdef int64_t spin_asking(self, int64_t started_ns, int64_t spin_ns, int64_t timeout_ns) except? -2:
        """spin() with handlers to poll: they need the GIL, so polling them and the monitor alternate."""
        cdef PollList polling = self.polling  # so may a handler that is called
        cdef int64_t end_ns, now_ns = started_ns
        cdef int64_t next_wait_ns = 0
        cdef bint is_found
        self.pollers.expire(now_ns, polling.idle_ns, self.engine is not None)
        if spin_ns <= 0:
            return timeout_ns
        end_ns = started_ns + spin_ns
        while now_ns < end_ns:
            # all are polled, also when one was found
            is_found = self.pollers.ask(self.ready_list)
            if self.monitor.is_closed:
                return 0
            if is_found or self.poll_once(now_ns, &next_wait_ns):
                polling.n_hits += 1
                if peek_int(&self.notifier.notified):
                    self.notifier.polled = polling.touch(self.notifier.polled)
                return 0
            PyErr_CheckSignals()
            timeout_ns = self.timeout_ns(self.ready.head == self.ready.tail)
            if timeout_ns == 0 or self.monitor.is_closed:
                return 0
            now_ns = ul_monotonic_ns()
            if timeout_ns > 0:
                end_ns = min(end_ns, now_ns + timeout_ns)
        polling.n_misses += 1
        return timeout_ns

    cdef bint poll_once(self, int64_t now_ns, int64_t *next_wait_ns) except -1:
        """One short poll of the monitor, between two rounds of the handlers' io_poll."""
        if peek_int(&self.notifier.notified):
            return True
        if self.engine is not None:
            return self.monitor.spin(self.ready_list, &self.notifier.notified, now_ns)
        if now_ns < next_wait_ns[0]:
            return False
        next_wait_ns[0] = now_ns + SPIN_WAIT_NS
        self.monitor.wait(self.ready_list, 0)
        return self.ready_list.head != self.ready_list.tail

    cdef int poll_if_cheap(self) except -1:
        """Busy-poll from now on while that is measured to cost no more than to sleep, if the monitor can."""
        if self.monitor.may_poll_by_default():
            self.measured = MeasuredPolling()
        return 0

    cdef object report_to(self, object reporter):
        """A weak reference to the receiver of exceptions: its call_exception_handler(details) is called."""
        self.bottom_halves.reporter = reporter

    cdef int64_t now_ns(self) except? -1:
        """The clock of the timers."""
        return <int64_t>(self.program.now_s() * 1e9) if self.has_own_clock else ul_monotonic_ns()

    cdef int set_handler(self, FdHandler old, FdHandler new) except -1:
        """Change the interest in one fd; see FDMonitor.update.

        A change that the kernel refuses (the fd is closed, or is another file by now) ends the old interest, as with
        selectors: kept, it would fail in the same way each time, and keep an interest that the caller has given up.
        """
        must_if(not is_none(<void *>new), <void *>new != <void *>old, "a change of interest takes a new handler")
        must_if(not is_none(<void *>new), not new.is_removed, "a handler that is removed is never watched for again")
        try:
            return self.monitor.update(old, new)
        except OSError:
            if old is not None and new is not None:
                self.monitor.update(old, None)
            raise

    cdef int exchange_handler(self, FdHandler old, object old_file, FdHandler new, object new_file) except -1:
        """The same for an fd that may be watched again: what adaptive polling learned about it is kept.

        Parameters:
            old_file, new_file: the owners of the fd: objects with fileno(), or numbers.
        """
        cdef PollList polling = self.monitor.polling
        self.set_handler(old, new)
        if polling is not None:
            try:
                if old is not None:
                    polling.part(old.fd, old.polled, old_file)
                if new is not None:
                    new.polled = polling.rejoin(new.fd, ul_monotonic_ns(), new_file)
            except MemoryError:
                pass  # what was learned is forgotten; the change of interest itself must not fail any more
        return 0

    cdef int run_ready(self, size_t count) except -1:
        """Run the oldest `count` callbacks; a nested turn may have taken some of them."""
        cdef size_t end = self.ready.head + count
        cdef Handle handle
        must(count <= self.ready.tail - self.ready.head, "no more callbacks run than are ready")
        # By position, not by count: callbacks that a nested turn ran are gone, and those it scheduled are younger.
        while <Py_ssize_t>(end - self.ready.head) > 0 and self.ready.head != self.ready.tail:
            handle = self.ready.pop()
            if self.stopwatch is None:
                handle.run()
                self.ready.recycle(handle)
            else:
                if self.recorder is not None:
                    self.recorder.count_delay(self.ready.head - 1)
                self.run_timed(OF_CALLBACK, handle)
        return 0

    cdef int schedule(self, object callback, object loop) except -1:
        """Queue a callback without arguments; runs no user code, unlike a call_soon that was replaced."""
        cdef Handle handle = self.ready.new_handle()
        handle.callback = callback
        handle.n_args = 0
        handle.loop = loop
        handle.context = PyContext_CopyCurrent()
        return self.ready.push(handle)

    cdef int run_handle(self, int kind, Handle handle) except -1:
        """Run one callback now; kind: OF_FD, OF_TIMER."""
        return handle.run() if self.stopwatch is None else self.run_timed(kind, handle)

    cdef int run_timed(self, int kind, Handle handle) except -1:
        """The same, watched in debug mode, by a hook, or by a recorder."""
        cdef Stopwatch stopwatch = self.stopwatch
        cdef int64_t began_ns
        if handle.is_cancelled:
            return 0
        if kind == OF_TIMER and self.recorder is not None:
            self.recorder.count_lateness(handle.when_ns)
        began_ns = stopwatch.begin(kind, handle)
        if self.run_handle_debug is None:
            handle.run()
        else:
            self.run_handle_debug(handle)
        return stopwatch.end(handle, began_ns)

    cdef int report_slow(self, object report, int64_t limit_ns) except -1:
        """From now on `report(what, seconds)` is called after callbacks that take so long; None: no report."""
        cdef Stopwatch stopwatch = self.stopwatch
        if stopwatch is not None:
            stopwatch.follow(report, limit_ns)
            if report is None and self.recorder is None:
                self.stopwatch = self.monitor.stopwatch = None
        elif report is not None:
            self.stopwatch = self.monitor.stopwatch = Stopwatch(report, limit_ns)
        return 0

    def _record(self, size_t n_events):
        """Begin to record; returns the Recorder, which may have begun before, for another caller.

        It ends with the context, or when each caller has called _end_recording().
        Thread: the context's, or any while it makes no turns.
        """
        cdef Stopwatch before = self.stopwatch
        cdef Recorder recorder = self.recorder
        self.check_open()
        if recorder is not None:
            recorder.n_users += 1
            return recorder
        self.refuse_others()
        recorder = Recorder(before.report if before is not None else None,
                            before.limit_ns if before is not None else NEVER_NS, self.ready, n_events)
        recorder.n_users = 1
        recorder.begin_counting_collections()
        if before is not None:
            before.follow(None, NEVER_NS)  # the callback that runs now is not reported twice
        if self.n_polls:
            recorder.begin_run(False)
            recorder.switch_to(UL_OUTSIDE)  # the callback that runs is not recorded
        self.recorder = recorder
        self.stopwatch = self.monitor.stopwatch = recorder
        return recorder

    def _end_recording(self, Recorder recorder not None):
        """One of those that called _record() needs the recorder no more."""
        if recorder.n_users:
            recorder.n_users -= 1
            if recorder.n_users == 0 and recorder is self.recorder:
                self.end_recording()

    cdef int end_recording(self) except -1:
        cdef Recorder recorder = self.recorder
        if recorder is None:
            return 0
        self.recorder = None
        recorder.close()
        self.stopwatch = self.monitor.stopwatch = (
            Stopwatch(recorder.report, recorder.limit_ns) if recorder.report is not None else None)
        return 0

    cdef int begin_turns(self) except -1:
        """Turns follow, made by this thread: other threads keep out until end_turns()."""
        if self.recorder is not None:
            self.recorder.begin_run(self.n_polls != 0)
        if self.n_polls < MOST_CALLERS:
            self.callers[self.n_polls] = PyEval_GetFrame()
        self.n_polls += 1
        return 0

    cdef int end_turns(self) except -1:
        must(self.n_polls > 0, "turns that end were counted when they began")
        self.n_polls -= 1
        if self.recorder is not None:
            self.recorder.end_run(self.n_polls != 0)
        return 0

    def _caller_id(self):
        """id() of the Python frame that makes the turns; None where that is not known.  For watch_stalls()."""
        cdef int n_polls = self.n_polls
        return <size_t>self.callers[n_polls - 1] if 0 < n_polls <= MOST_CALLERS else None

    cdef int dispatch_fds(self) except -1:
        cdef FdHandler handler
        cdef object subject
        cdef Stopwatch stopwatch
        cdef int64_t began_ns
        cdef size_t count = self.ready_list.count()
        while count and self.ready_list.head != self.ready_list.tail:
            count -= 1
            handler = self.ready_list.pop()
            must_not(handler.is_queued, "a handler leaves the ready list before it is called")
            if handler.is_removed:
                continue
            if handler is not self.notifier:
                self.n_dispatched += 1
            if self.polling is not None:
                handler.polled = self.polling.touch(handler.polled)
            if self.stopwatch is None:
                handler.on_ready(handler.revents)
                continue
            subject = handler.subject()  # before: a closed wire forgets its owner
            stopwatch = self.stopwatch
            if subject is None:
                handler.on_ready(handler.revents)
                stopwatch.passed()
                continue
            began_ns = stopwatch.begin(OF_FD, subject)
            handler.on_ready(handler.revents)
            stopwatch.end(subject, began_ns)
        return 0

    cdef int take_due_timers(self) except -1:
        """Take out the timers that are due at one reading of the clock, right after the wait.

        A later reading would let a timer set by this turn's callbacks overtake a callback that they scheduled before.
        """
        cdef int64_t now_ns = ul_monotonic_ns()
        cdef int64_t when_ns
        while True:
            when_ns = self.timers.next_when_ns()
            if when_ns < 0 or when_ns > now_ns:
                break
            self.due.have_room()  # before it leaves the heap
            self.due.push(self.timers.pop())
        return 0

    cdef int run_due_timers(self) except -1:
        """Earliest first."""
        cdef Handle handle
        # a list of the context's own: an exception that ends the turn, or a nested turn, loses none of them
        while self.due.count():
            handle = self.due.pop()
            must(is_none(<void *>handle.timers), "a timer that runs is off the heap")
            self.n_dispatched += 1
            self.run_handle(OF_TIMER, handle)
        return 0

    cdef int mark_dirty(self, Flushable flushable, Py_ssize_t n_bytes) except -1:
        """`flushable` collected n_bytes more; its flush() comes before the next wait."""
        must(n_bytes >= 0, "no less than nothing is written")
        self.dirty_bytes += n_bytes
        if flushable.is_dirty:
            return 0  # it waits in its place
        if self.monitor.is_closed:
            # There are no more turns.  In a fork child the parent sends the parent's part of the queue.
            return 0 if self.is_forgotten else flushable.flush_last()
        self.dirty.put(flushable)
        flushable.is_dirty = True
        if self.dirty_bytes >= (FLUSH_BYTES_LARGE if n_bytes >= LARGE_WRITE else FLUSH_BYTES) and not self.is_flushing:
            return self.send_dirty()
        return 0

    cdef int send_dirty(self) except -1:
        """Send the output marked now, as far as the kernel has room.  The loop's thread, no user code."""
        self.flush_dirty()
        return self.monitor.submit()

    cdef Flushable pop_dirty(self):
        """Take the one that was marked first; there is one."""
        cdef Flushable flushable = <Flushable>self.dirty.take()
        must(flushable.is_dirty, "what is dirty is on the list, once")
        flushable.is_dirty = False
        return flushable

    cdef int flush_dirty(self) except -1:
        """Flush those marked now; those that they mark wait for the next flush, also after an exception.

        A flush runs no user code, but releasing the last reference does, and that may write, or run a turn: each
        leaves the list before its flush, so an inner flush takes what the outer one has left, each once.
        """
        cdef bint is_inner = self.is_flushing
        cdef Flushable flushable
        cdef size_t left = self.dirty.count()
        self.dirty_bytes = 0
        self.is_flushing = True
        try:
            while left and self.dirty.head != self.dirty.tail:
                left -= 1
                flushable = self.pop_dirty()
                flushable.flush()
        finally:
            self.is_flushing = is_inner
        return 0

    cdef int flush_turn(self) except -1:
        """The flush with which a turn begins."""
        if self.recorder is None or self.engine is not None:  # the wait sends what requests describe
            return self.flush_dirty()
        cdef Recorder recorder = self.recorder
        recorder.switch_to(UL_CALLS)
        try:
            return self.flush_dirty()
        finally:
            recorder.switch_to(UL_LOOP)

    cdef int send_all(self) except -1:
        """Give everything written so far to the kernel, as far as it has room.  Any thread, no user code.

        The marks stay: the next flush handles the rest, and the reports.
        """
        cdef size_t at = self.dirty.head
        while at != self.dirty.tail:
            (<Flushable>self.dirty.items[at & self.dirty.mask]).flush_last()
            at += 1
        return 0 if self.is_elsewhere() else self.monitor.submit()

    cdef int settle(self) except -1:
        """The loop stops: send everything written so far, and leave no send half-way.  No user code."""
        if self.dirty.head != self.dirty.tail:
            self.flush_dirty()
        return self.monitor.settle()

    cdef int count_into(self, dict numbers) except -1:
        """Add what the context and its monitor have counted, under the names of the fields of Statistics."""
        numbers.update(turns=self.n_turns, wakeups=self.notifier.n_wakeups, connections_made=self.n_connections,
                       bytes_written=self.n_written, write_pauses=self.n_write_pauses)
        if self.polling is not None:
            numbers.update(poll_hits=self.polling.n_hits, poll_misses=self.polling.n_misses)
        elif self.measured is not None:
            numbers.update(poll_hits=self.measured.n_hits, poll_misses=self.measured.n_misses)
        return self.monitor.count_into(numbers)

    def _in_flight_kinds(self):
        """How many requests of each kind the kernel has, by the names of their classes."""
        return self.monitor.in_flight_kinds()

    def _ring_facts(self):
        """What the live view shows of the ring; empty on epoll and poll."""
        return self.monitor.ring_facts()

    cdef int end(self) except -1:
        """Close the monitor and drop all callbacks and timers.  Idempotent."""
        self.refuse_others()
        if self._idle_work is not None:
            self._idle_work.end()
            self._idle_work = None
        self.end_recording()
        if self.is_left():
            self.dirty.clear()  # the parent's, which sends it
        while self.dirty.head != self.dirty.tail:
            self.pop_dirty().flush_last()  # written while the loop did not run
        self.bottom_halves.close()
        if self.pollers is not None:
            self.pollers.close()
        self.ready.shut()
        self.timers.clear()
        self.due.clear()
        while self.ready_list.count():
            self.ready_list.pop()
        self.monitor.close()
        self.notifier.close()
        self.monitor.deliver_last()
        self.ready.clear()  # handles of those callbacks, kept for the next ones
        return 0

    cdef int forget(self) except -1:
        """In a fork child: close our copies of the kernel objects; the parent's loop is not disturbed."""
        self.is_forgotten = True
        self.bottom_halves.close()
        self.monitor.forget()
        self.notifier.close()
        return 0

    cdef bint is_left(self) noexcept:
        """In a fork child, which has not used it yet."""
        return self.notifier.fd < 0 and not self.monitor.is_closed

    cdef bint leave(self) except -1:
        """In a fork child: separate from the parent, and continue here with our own kernel objects.

        The first run makes them, or the first change of interest or SQE those that it needs: most children use none,
        and a daemon first closes every fd that it has.

        Returns: False where that is not possible: turns are on the stack, a foreign loop drives it, or requests of the
            parent are under way.  Then nothing changed.
        """
        if self.n_polls or self.is_foreign or self.monitor.is_closed or not self.monitor.can_leave():
            return False
        must(self.n_polls == 0, "a context that parts with the parent makes no turns")
        self.thread = 0
        if self.pollers is not None:
            self.pollers.thread = 0
        self.monitor.leave()
        if self.notifier.fd >= 0:
            self.monitor.update(self.notifier, None)
            self.notifier.end_wait()
            self.notifier.close()
        return True

    cdef int renew(self) except -1:
        """Raises: OSError, MonitorUnavailable; then the next use tries again."""
        self.notifier.open()
        try:
            self.notifier.is_removed = False
            if self.monitor.left_files is not None:
                self.monitor.renew()
            self.monitor.update(None, self.notifier)
        except BaseException:
            self.notifier.close()
            raise
        return 0


# -- what may end or replace this process ----------------------------------------------------------------------

cdef extern from "../aio/audit.h":
    void ul_add_audit_hook(void (*function)() noexcept)

cdef bint is_watching = False
cdef object departures = object()  # of the critical section


cdef int watch_departures() except -1:
    """Install the hooks, with the first context of the interpreter.

    exec(2) has no other hook than an audit hook.  Counted: some 700 instructions more for each audited one (import,
    open, socket() ...; a socket() with its close() takes 6,700 beside its system calls).  No message is one.
    """
    global is_watching
    with cython.critical_section(departures):
        if is_watching:
            return 0
        is_watching = True  # before another thread can come
    try:
        ul_add_audit_hook(before_leaving)
    except BaseException:
        is_watching = False
        raise
    os.register_at_fork(before=_send_all)
    atexit.register(_send_all)
    return 0


def _send_all():
    """Give the collected output of all contexts of the process to the kernel."""
    cdef ContextCore context
    for reference in list(live_contexts):
        context = reference()
        if context is not None:
            with cython.critical_section(context.guard):
                if not context.monitor.is_closed and not context.is_forgotten and not context.is_left():
                    context.send_all()


cdef void before_leaving() noexcept:
    if is_finalizing():
        return
    try:
        _send_all()
    except BaseException:  # out of memory, here or in the kernel: the audited call proceeds
        logging.getLogger("uringloop").exception("sending what was written before a process starts or ends")


def _forget_contexts():
    """In a fork child: see ContextCore.forget.  Loops have more to forget, and do it themselves."""
    cdef ContextCore context
    for reference in list(live_contexts):
        context = reference()
        if context is not None and context.bottom_halves.reporter is None:
            context.forget()


os.register_at_fork(after_in_child=_forget_contexts)
