"""Drivers for tests of the core.

The core's interfaces are cdef, so Python cannot reach them.  A driver owns or wraps one object of the core and only
forwards; the handlers and flushables of this module record their calls.  `FakeMonitor` is a monitor of its own.

Not here: drivers that need liburing (`ring`).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from cpython.bytes cimport PyBytes_FromStringAndSize

from uringloop.aio.context_core cimport ContextCore, Flushable, ul_monotonic_ns
from uringloop.aio.foreign_turns cimport ForeignTurns
from uringloop.aio.handles cimport Handle, TimerHandle
from uringloop.aio.notifier cimport Notifier
from uringloop.aio.ready cimport ReadyQueue
from uringloop.aiocontext.context cimport AioContext
from uringloop.aio.measured_polling cimport POLL, MeasuredPolling
from uringloop.aio.timers cimport Timers
from uringloop.fdmon.adaptive_polling cimport PolledEvent, PollList
from uringloop.fdmon.base cimport FDMonitor, FdHandler, ReadyList
from uringloop.fdmon.poll cimport PollMonitor
from uringloop.transports.stream.wire cimport (SendQueue, chunks_in, clear_queue, consume_bytes, fill_vector, iovec,
                                               push_chunk)

import contextvars
import random

from uringloop.aiocontext.statistics import Statistics


cdef class RecordingHandler(FdHandler):
    """An FdHandler that records each on_ready in `calls` and then calls `callback(handler, revents)`.

    Parameters: fd and events as FdHandler.  `callback` is set afterwards.
    """

    cdef public object callback
    cdef readonly list calls

    def __init__(self, int fd, short events):
        self.calls = []

    @property
    def fd(self):
        return self.fd

    @property
    def events(self):
        return self.events

    @property
    def is_reported(self):
        """Whether it is on a ready list."""
        return self.is_queued

    @property
    def was_removed(self):
        return self.is_removed

    @property
    def may_be_closed(self):
        return self.may_be_closed

    @may_be_closed.setter
    def may_be_closed(self, bint value):
        self.may_be_closed = value

    @property
    def is_brief(self):
        return self.is_brief

    @is_brief.setter
    def is_brief(self, bint value):
        self.is_brief = value

    cdef int on_ready(self, short revents) except -1:
        self.calls.append(revents)
        if self.callback is not None:
            self.callback(self, revents)
        return 0


def polling_of(ContextCore context not None):
    """Its PollList; None while adaptive polling is off."""
    return context.polling


def measured_polling_of(ContextCore context not None):
    """Its MeasuredPolling; None while that is off."""
    return context.measured


def poll_always(ContextCore context not None, int64_t most_ns):
    """From now on each wait of the context polls first, for that long, whatever it costs."""
    cdef ScriptedPolling scripted = ScriptedPolling()
    scripted.phase, scripted.most_ns, scripted.n_wanted = POLL, most_ns, 1 << 30
    context.measured = scripted


def notifier_fd(ContextCore context not None):
    return context.notifier.fd


cdef class MonitorDriver:
    """An FDMonitor and a ready list; each method forwards to the monitor's method of the same name."""

    cdef readonly FDMonitor monitor
    cdef ReadyList ready_list

    def __init__(self, FDMonitor monitor not None):
        self.monitor = monitor
        self.ready_list = ReadyList()

    def update(self, FdHandler old, FdHandler new):
        self.monitor.update(old, new)

    def wait(self, int64_t timeout_ns=0):
        """Wait, and take the ready list: [(handler, revents)] in order."""
        self.monitor.wait(self.ready_list, timeout_ns)
        return self.take()

    def wait_only(self, int64_t timeout_ns=0):
        """Wait, and leave the ready list as it is; returns its length, removed handlers included."""
        self.monitor.wait(self.ready_list, timeout_ns)
        return self.ready_list.count()

    def take(self):
        """The ready list as the context would dispatch it: without handlers that were removed meanwhile."""
        cdef FdHandler handler
        found = []
        while self.ready_list.count():
            handler = self.ready_list.pop()
            if not handler.is_removed:
                found.append((handler, handler.revents))
        return found

    def append(self, FdHandler handler not None, short revents):
        """What a monitor does with the ready list."""
        self.ready_list.append(handler, revents)

    def need_wait(self):
        return self.monitor.need_wait()

    def has_undispatched(self):
        return self.monitor.has_undispatched()

    def dispatch(self):
        return self.monitor.dispatch()

    def submit(self):
        self.monitor.submit()

    def settle(self):
        self.monitor.settle()

    def begin_run(self):
        self.monitor.begin_run()

    def fileno(self):
        return self.monitor.fileno()

    def make_pollable(self):
        self.monitor.make_pollable()

    def gsource_prepare(self):
        return self.monitor.gsource_prepare(self.ready_list)

    def gsource_check(self, bint is_fd_ready):
        return self.monitor.gsource_check(is_fd_ready)

    def watched_fds(self):
        """The fds on which a foreign loop sleeps, {fd: events}."""
        cdef FdHandler handler
        if self.monitor.fileno() >= 0:
            return {self.monitor.fileno(): 1}
        return {fd: handler.events for fd, handler in self.monitor.handlers.items()}

    def statistics(self):
        cdef dict numbers = {}
        self.monitor.count_into(numbers)
        return Statistics(**numbers)

    def close(self):
        self.monitor.close()

    def forget(self):
        self.monitor.forget()


cdef Handle fill_handle(Handle handle, object loop, object callback, tuple args, object context):
    handle.callback = callback
    handle.args = args
    handle.n_args = -1
    handle.loop = loop
    handle.context = contextvars.copy_context() if context is None else context
    return handle


cdef class ReadyQueueDriver:
    """A ReadyQueue."""

    cdef readonly ReadyQueue queue

    def __init__(self):
        self.queue = ReadyQueue()

    def __len__(self):
        return self.queue.count()

    def push(self, callback, *args):
        cdef Handle handle = fill_handle(Handle.__new__(Handle), None, callback, args, None)
        self.queue.push(handle)
        return handle

    def pop(self):
        if not self.queue.count():
            raise IndexError("the queue is empty")
        return self.queue.pop()

    def clear(self):
        self.queue.clear()


cdef class TimersDriver:
    """Timers."""

    cdef readonly Timers timers

    def __init__(self):
        self.timers = Timers()

    # Entries of the heap, cancelled ones included.
    def __len__(self):
        return self.timers.count

    def push(self, int64_t when_ns, callback=None, *args, context=None):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        fill_handle(handle, None, callback, args, context)
        handle.when_ns = when_ns
        handle.when_s = when_ns / 1e9
        self.timers.push(handle)
        return handle

    def pop(self):
        if not self.timers.count:
            raise IndexError("no timers")
        return self.timers.pop()

    def next_when_ns(self):
        return self.timers.next_when_ns()

    @property
    def n_cancelled(self):
        return self.timers.n_cancelled

    def clear(self):
        self.timers.clear()


cdef class NotifierDriver:
    """A Notifier."""

    cdef readonly Notifier notifier

    def __init__(self):
        self.notifier = Notifier()

    @property
    def fd(self):
        return self.notifier.fd

    @property
    def notify_me(self):
        return self.notifier.notify_me

    @property
    def notified(self):
        return self.notifier.notified

    @property
    def n_wakeups(self):
        return self.notifier.n_wakeups

    def notify(self):
        self.notifier.notify()

    def begin_wait(self):
        return self.notifier.begin_wait()

    def end_wait(self):
        self.notifier.end_wait()

    def on_ready(self):
        self.notifier.on_ready(1)

    def close(self):
        self.notifier.close()


cdef class SendQueueDriver:
    """A SendQueue."""

    cdef SendQueue queue

    def __dealloc__(self):
        clear_queue(&self.queue)

    @property
    def n_bytes(self):
        return self.queue.n_bytes

    @property
    def n_chunks(self):
        """Chunks that the queue still holds, sent ones included."""
        return self.queue.first + chunks_in(&self.queue)

    def push(self, bytes chunk not None):
        push_chunk(&self.queue, chunk)

    def consume(self, Py_ssize_t n_bytes):
        consume_bytes(&self.queue, n_bytes)

    def clear(self):
        clear_queue(&self.queue)

    def fill(self, size_t capacity, Py_ssize_t most_bytes=1 << 30):
        """The contents of the filled vector, a list of bytes."""
        cdef size_t i, count
        cdef iovec *vector = <iovec *>malloc((capacity + 1) * sizeof(iovec))
        if vector == NULL:
            raise MemoryError()
        try:
            count = fill_vector(&self.queue, vector, capacity, most_bytes)
            return [PyBytes_FromStringAndSize(<char *>vector[i].iov_base, <Py_ssize_t>vector[i].iov_len)
                    for i in range(count)]
        finally:
            free(vector)


cdef class RecordingFlushable(Flushable):
    """A Flushable that counts its flushes and then calls `callback()`."""

    cdef public object callback
    cdef readonly int n_flushes

    def __init__(self, callback=None):
        self.callback = callback

    cdef int flush(self) except -1:
        self.n_flushes += 1
        if self.callback is not None:
            self.callback()
        return 0


cdef class ForeignLoop:
    """Calls a context's three steps as a main loop like GLib's does.

    Parameters:
        aio_context: an AioContext, attached until detach().
    """

    cdef readonly ForeignTurns turns
    cdef readonly int64_t timeout_ns  # the result of the last prepare

    def __init__(self, AioContext aio_context not None):
        self.turns = ForeignTurns(aio_context)

    def prepare(self):
        return self.turns.prepare(&self.timeout_ns)

    def check(self, bint is_fd_ready=False):
        return self.turns.check(is_fd_ready)

    def dispatch(self):
        self.turns.dispatch(False)

    def watched_fds(self):
        """The fds on which to sleep, {fd: events}."""
        return MonitorDriver(self.turns.aio_context.monitor).watched_fds()

    @property
    def notify_me(self):
        return bool(self.turns.aio_context.notifier.notify_me)

    def detach(self):
        self.turns.detach()


cdef class ContextDriver:
    """An AioContext without asyncio; has the attributes of a loop that a Handle needs.

    Parameters:
        monitor: an FDMonitor; closed by close().
    """

    cdef readonly AioContext aio_context
    cdef readonly list errors  # the contexts passed to call_exception_handler

    def __init__(self, FDMonitor monitor not None):
        self.errors = []
        self.aio_context = AioContext(monitor)

    def get_debug(self):
        return False

    def call_exception_handler(self, details):
        self.errors.append(details)

    @property
    def n_ready(self):
        return self.aio_context.ready.count()

    @property
    def n_undispatched_fds(self):
        return self.aio_context.ready_list.count()

    def begin_run(self):
        self.aio_context.begin_run()

    def poll(self, bint blocking=False):
        self.aio_context.poll(blocking)

    def set_handler(self, FdHandler old, FdHandler new):
        self.aio_context.set_handler(old, new)

    def call_soon(self, callback, *args):
        cdef Handle handle = fill_handle(Handle.__new__(Handle), self, callback, args, None)
        self.aio_context.ready.push(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args):
        handle = self.call_soon(callback, *args)
        self.aio_context.notifier.notify()
        return handle

    def call_at_ns(self, int64_t when_ns, callback, *args):
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        fill_handle(handle, self, callback, args, None)
        handle.when_ns = when_ns
        handle.when_s = when_ns / 1e9
        self.aio_context.timers.push(handle)
        return handle

    def time_ns(self):
        return ul_monotonic_ns()

    def notify(self):
        self.aio_context.notifier.notify()

    def mark_dirty(self, Flushable flushable not None, Py_ssize_t n_bytes=1):
        self.aio_context.mark_dirty(flushable, n_bytes)

    @property
    def n_dirty(self):
        return self.aio_context.dirty.count()

    def settle(self):
        self.aio_context.settle()

    def statistics(self):
        return self.aio_context.statistics()

    def close(self):
        self.aio_context.close()


cdef class FakeMonitor(PollMonitor):
    """A monitor that does what the interface allows but real ones rarely do.  Deterministic by its seed.

    Parameters:
        seed: of the random numbers; report it when a test fails.
        early: probability that a wait checks nothing and returns, as after a signal.
        deferred: probability, for each handler found, that it is reported by a later wait only.
        reordered: probability that what one wait found is reported in random order.
        spurious: probability, for each handler that is not ready, that it is reported as if it were.
    """

    cdef object random
    cdef readonly double early
    cdef readonly double deferred
    cdef readonly double reordered
    cdef readonly double spurious
    cdef readonly unsigned long long n_faults
    cdef ReadyList found

    name = "fake"

    def __init__(self, seed=0, *, double early=0, double deferred=0, double reordered=0, double spurious=0):
        self.random = random.Random(seed)
        self.early = early
        self.deferred = deferred
        self.reordered = reordered
        self.spurious = spurious
        self.found = ReadyList()

    cdef bint happens(self, double probability) except? -1:
        if probability <= 0 or self.random.random() >= probability:
            return False
        self.n_faults += 1
        return True

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef FdHandler handler
        if self.happens(self.early):
            return 0
        # A handler can be on one list only, and some are already on the context's.
        queued = [(handler, handler.revents) for handler in self.handlers.values() if handler.is_queued]
        for handler, _ in queued:
            handler.is_queued = False
        reports = []
        ready = set()
        try:
            PollMonitor.wait(self, self.found, timeout_ns)
            while self.found.count():
                handler = self.found.pop()
                ready.add(handler.fd)
                if not self.happens(self.deferred):
                    reports.append((handler, handler.revents))
        finally:
            for handler, revents in queued:
                handler.is_queued, handler.revents = True, revents
        if self.spurious > 0:
            for handler in self.handlers.values():
                if handler.fd not in ready and self.happens(self.spurious):
                    reports.append((handler, handler.events))
        if self.happens(self.reordered):
            self.random.shuffle(reports)
        for handler, revents in reports:
            ready_list.append(handler, revents)
        return 0


cdef class SharedPollList(PollList):
    """One PolledEvent for the whole context, as in QEMU before each handler got its own: shows the cost of that."""

    cdef PolledEvent shared

    cdef PolledEvent touch(self, PolledEvent event):
        if not self.touched:
            self.shared = PollList.touch(self, self.shared)
        return self.shared

    cdef int part(self, int fd, PolledEvent event, object file) except -1:
        return 0  # others wait for it


cdef int number_of(object file) except -1:
    return file if type(file) is int else file.fileno()


cdef class PollListDriver:
    """A PollList by names of events; an event exists from its first touch to `forget`."""

    cdef PollList polling
    cdef dict events

    def __init__(self, *args, shared=False):
        self.polling = SharedPollList(*args) if shared else PollList(*args)
        self.events = {}

    def turn(self, names, int64_t block_ns, int64_t now_ns):
        """A turn that waited for block_ns and dispatched the events with these names."""
        for name in names:
            self.events[name] = self.polling.touch(<PolledEvent>self.events.get(name))
        self.polling.adjust(0, block_ns, now_ns)

    def forget(self, name):
        """Its handler is removed.  Returns the event."""
        return self.events.pop(name)

    def part(self, name, file):
        """Nothing waits for the event any more; `file`: a number, or an object with fileno()."""
        self.polling.part(number_of(file), <PolledEvent>self.events[name], file)

    def rejoin(self, file, int64_t now_ns):
        """Wait for the event again; returns whether there was one for this file."""
        return self.polling.rejoin(number_of(file), now_ns, file) in self.events.values()

    def spin_ns(self, int64_t now_ns):
        return self.polling.spin_ns(now_ns)

    def times(self):
        """{name: ns} of the events on the list."""
        return {name: (<PolledEvent>event).ns for name, event in self.events.items() if (<PolledEvent>event).ns}

    def __len__(self):
        return len(self.polling)


def share_polled_event(AioContext context not None):
    """Use one learned time for all events; adaptive polling must be on."""
    cdef PollList polling = context.polling
    context.polling = context.monitor.polling = SharedPollList(polling.max_ns, polling.grow, polling.shrink)


cdef class ScriptedPolling(MeasuredPolling):
    """A MeasuredPolling on a machine whose clocks and costs the test sets."""

    cdef public int64_t now_ns             # the clock
    cdef public int64_t used_ns            # CPU time of the thread
    cdef public long long n_switches       # involuntary ones
    cdef public long long n_received       # bytes
    cdef public long long n_counted        # waits that were timed

    cdef int64_t clock_ns(self) noexcept:
        return self.now_ns

    cdef int64_t cpu_ns(self) noexcept:
        return self.used_ns

    cdef long long n_preempted(self) noexcept:
        return self.n_switches

    @property
    def phase_name(self):
        return ("watch", "sleep", "try", "poll")[self.phase]

    def wait(self, int64_t event_ns, int64_t sleep_ns, int64_t work_ns=8000, long long n_bytes=1024,
             long long n_bytes_slept=0):
        """One wait, and the turn behind it.

        Parameters:
            event_ns: when the event comes.
            sleep_ns: CPU time that sleeping and being woken takes; half as much again passes until the thread runs.
            work_ns: CPU time of the turn.
            n_bytes, n_bytes_slept: what the turn receives, and what it receives after a sleep, if that is not the same.
        Returns: whether polling found the event.
        """
        cdef int64_t started_ns = self.now_ns
        cdef bint is_passed_over = self.is_passed_over()
        cdef int64_t spin_ns = 0 if is_passed_over else self.spin_ns(started_ns)
        cdef bint is_hit = 0 < event_ns <= spin_ns
        if is_hit:
            self.now_ns += event_ns
            self.used_ns += event_ns
            self.n_received += n_bytes
        else:
            self.now_ns += max(event_ns, spin_ns) + sleep_ns * 3 // 2
            self.used_ns += spin_ns + sleep_ns
            self.n_received += n_bytes_slept or n_bytes
        if not is_passed_over:
            self.n_counted += 1
            self.waited(started_ns, min(event_ns, spin_ns), is_hit, self.n_received)
        self.now_ns += work_ns
        self.used_ns += work_ns
        return is_hit
