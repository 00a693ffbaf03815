"""The public AioContext: an event loop's engine for users without asyncio (docs/aio-context.md).

The engine itself is ContextCore; asyncio's loop and its transports use that directly.

Thread: the context's, except for bottom halves and notify.  QEMU lets any thread set fd handlers, by a lock and
deferred freeing; here another thread schedules a bottom half that does it, and gets a RuntimeError otherwise.
"""

from libc.stdint cimport int64_t
from cpython.pythread cimport PyThread_get_thread_ident

from ..aio.bottom_halves cimport check_callback
from ..aio.context_core cimport ContextCore
from ..aio.handles cimport Handle, TimerHandle
from ..aio.poll_handlers cimport CallbackHandler, PollHandler, PollHandlers
from ..fdmon.adaptive_polling cimport PollList
from ..fdmon.base cimport FdHandler
from ..support.assertions cimport must
from ..support.system cimport POLLIN, POLLOUT

import sys
import warnings
from operator import index

from ..aio.bottom_halves import new_bottom_half
from ..exceptions import SqeNotSupported

# What makes the requests of add_sqe().
cdef object make_request = None
try:
    from ..requests.submit import add_sqe as make_request
except ImportError:  # a build without liburing: no monitor has requests
    pass

cdef object is_finalizing = sys.is_finalizing  # a C variable: module globals may be gone by then

# No clock reaches a time so far away, but it can be added to any time without overflow.
cdef int64_t LONGEST_LOOK_NS = <int64_t>1 << 62


cdef int64_t as_int64(object number) except? -1:
    """An argument that must be a whole number: TypeError for floats, which Cython would truncate."""
    return index(number)


cdef class AioContext(ContextCore):
    """One event loop's engine; also without asyncio (docs/aio-context.md).

    Parameters:
        fdmon: "io_uring", "epoll" or "poll" to force a monitor; "auto-any" for the best available to it; None
            for $URINGLOOP_FDMON, else the best available one; or an FDMonitor, which the context then owns and closes.

    Raises: MonitorUnavailable, ValueError; see fdmon/select.py.
    """

    def __del__(self):
        # Before anything is freed: the kernel may hold memory of requests in flight.
        if is_finalizing():
            return
        if self.monitor is None or self.monitor.is_closed or self.notifier is None:
            return
        try:
            if self.bottom_halves.reporter is None:  # a loop warns of itself
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
        finally:
            self.close()

    def __enter__(self):
        return self

    def __exit__(self, *_details):
        self.close()

    def __repr__(self):
        state = "closed" if self.monitor.is_closed else f"{len(self.monitor.handlers) - 1} fds, {self.n_turns} turns"
        return f"<{type(self).__name__} {self.monitor.name}, {state}>"

    def poll(self, bint blocking=True):
        """Run one turn; also from a callback of an outer one, which then finds less to do.

        Parameters:
            blocking: wait for an event; False only handles what is ready.

        Returns: whether a callback, completion, ready fd or timer ran (the notifier's own does not count).
        Raises: RuntimeError when the context is closed; SystemExit and KeyboardInterrupt of callbacks.
        Thread: the one that runs the loop.  Source: QEMU's aio_poll().
        """
        cdef unsigned long long n_before = self.n_dispatched
        cdef unsigned long long n_void_before = self.ready.n_void
        self.check_open()
        self.begin_run()
        after = self.around_turn() if self.around_turn is not None else None
        self.begin_turns()
        try:
            self.turn(blocking)
        finally:
            self.end_turns()
            if after is not None:
                after()
        # cancelled and idle bottom halves were in the queue, and are no progress
        return self.n_dispatched - n_before != self.ready.n_void - n_void_before

    cdef int check_use(self) except -1:
        """Check the thread, for methods that are not thread-safe."""
        self.check_open()
        if self.thread != 0 and self.thread != <unsigned long>PyThread_get_thread_ident():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the AioContext; "
                               "schedule a bottom half that does it")
        return 0

    def set_fd_handler(self, fd, io_read=None, io_write=None, io_poll=None, io_poll_ready=None):
        """Watch an fd; replaces its previous handler, and all None removes that.

        Parameters:
            fd: stays the caller's; remove the handler before closing it.
            io_read, io_write: called without arguments in each turn in which the fd is readable or writable.
            io_poll: returns, without side effects, whether there is work to do; called while the context
                busy-polls instead of sleeping (set_poll_params), and ignored without io_poll_ready.  While the context
                sleeps, only the fd wakes it.
            io_poll_ready: called without arguments when io_poll returned true.

        A removed handler is never called again; nor is one that was to be replaced when this raises OSError.
        Exceptions of callbacks are reported like those of bottom halves.
        Raises: OSError as epoll_ctl(2); ValueError for io_poll alone; RuntimeError from another thread.
        Thread: the context's.  Source: QEMU's aio_set_fd_handler(), which any thread may call.
        """
        cdef CallbackHandler new = None
        cdef FdHandler old
        cdef int number = index(fd)
        self.check_use()
        old = self.monitor.handlers.get(number)
        if old is not None and not isinstance(old, CallbackHandler):
            raise ValueError(f"fd {fd} is watched by a loop or a transport")
        if io_read is not None or io_write is not None:
            new = CallbackHandler(
                number, (POLLIN if io_read is not None else 0) | (POLLOUT if io_write is not None else 0))
            new.may_be_closed = True
            if io_read is not None:
                new.io_read = self.bottom_halves.new_handle(io_read, ())
            if io_write is not None:
                new.io_write = self.bottom_halves.new_handle(io_write, ())
            self.set_poll_callbacks(new, io_poll, io_poll_ready)
        elif io_poll is not None:
            raise ValueError("an fd needs io_read or io_write; add_poll_handler() is for memory alone")
        try:
            if old is not None or new is not None:
                self.set_handler(old, new)
        finally:
            if old is not None and old.is_removed and (<CallbackHandler>old).owner is not None:
                (<CallbackHandler>old).owner.leave(<CallbackHandler>old)
        self.notifier.notify()

    def set_event_notifier(self, notifier, io_read=None, io_poll=None, io_poll_ready=None):
        """The same for an EventNotifier; io_read calls its test_and_clear().

        Raises: also ValueError for one that is closed: remove its handler before closing it.
        """
        cdef object fd = notifier.fileno()
        if fd < 0:
            raise ValueError(f"{notifier!r} is closed; remove its handler before you close it")
        self.set_fd_handler(fd, io_read, None, io_poll, io_poll_ready)

    def add_poll_handler(self, io_poll, io_poll_ready):
        """Poll memory that has no fd, such as a queue that another process fills.

        Parameters: as for set_fd_handler.  An io_poll that raises is reported and removed.

        Returns: a PollHandler; its remove() ends it.  It is polled in each turn, and while it is there no sleep is
            longer than an eighth of the time for which it found nothing: at least 50 us, at most 10 ms.
            set_poll_params() makes that busy-polling instead of a sleep, notify() ends a sleep at once.
        Thread: the context's.
        """
        cdef PollHandler handler = PollHandler(-1, 0)
        self.check_use()
        if io_poll is None or io_poll_ready is None:
            raise TypeError("add_poll_handler() needs io_poll and io_poll_ready")
        self.set_poll_callbacks(handler, io_poll, io_poll_ready)
        handler.owner.join(handler)
        self.notifier.notify()
        return handler

    cdef int set_poll_callbacks(self, PollHandler handler, object io_poll, object io_poll_ready) except -1:
        if io_poll is None or io_poll_ready is None:
            return 0
        check_callback(io_poll)
        handler.io_poll_ready = self.bottom_halves.new_handle(io_poll_ready, ())
        handler.io_poll = io_poll
        if self.pollers is None:
            self.pollers = PollHandlers(self.guard)
            self.pollers.thread = self.thread
        handler.owner = self.pollers
        return 0

    def new_bottom_half(self, callback, *args):
        """A BottomHalf: callback(*args), to be scheduled any number of times, from any thread.  Thread: any."""
        return new_bottom_half(self.bottom_halves, callback, args, False)

    def schedule_one_shot(self, callback, *args):
        """A BottomHalf that is scheduled, and deleted when it has run.  Thread: any."""
        bottom_half = new_bottom_half(self.bottom_halves, callback, args, True)
        bottom_half.schedule()
        return bottom_half

    def time_ns(self):
        """Nanoseconds on the clock of the timers, CLOCK_MONOTONIC."""
        return self.now_ns()

    def call_at_ns(self, when_ns, callback, *args):
        """A timer: call callback(*args) once it is `when_ns`, never before; equal times in the order of the calls.

        Returns: an asyncio.TimerHandle with cancel().  Thread: the context's.
        """
        cdef Handle plain
        cdef TimerHandle handle
        self.check_use()
        plain = self.bottom_halves.new_handle(callback, args)
        handle = TimerHandle.__new__(TimerHandle)
        handle.callback, handle.args, handle.n_args = callback, args, -1
        handle.loop, handle.context = plain.loop, plain.context
        handle.when_ns = max(as_int64(when_ns), 0)
        handle.when_s = handle.when_ns / 1e9
        self.timers.push(handle)
        must(<void *>handle.timers == <void *>self.timers, "a timer is on the heap of its context")
        return handle

    def notify(self):
        """End the wait of the current turn, or else keep the next one from sleeping.  Thread: any."""
        self.notifier.notify()

    def set_poll_params(self, max_ns, grow=2, shrink=0, *, idle_ns=None):
        """Adaptive polling: busy-poll for a while before blocking, as long as that pays.

        Parameters:
            max_ns: nanoseconds to busy-poll at most; 0 switches it off; None: only while that is measured to cost no
                more CPU time than to sleep (io_uring and epoll), the default of loops.
            grow, shrink: the factor by which an event's time grows while it comes soon after we stopped polling, and
                the divisor by which it shrinks when it comes late; 0 means 2, and "to 0".
            idle_ns: nanoseconds without an event after which we no longer poll for it; None for 7 s.

        What was learned so far is forgotten.
        Raises: ValueError for negative numbers; RuntimeError from another thread or on a closed context.
        Thread: the context's.  Source: QEMU's aio_context_set_poll_params().
        """
        cdef bint is_measured = max_ns is None
        cdef list params = [as_int64(one) for one in (0 if is_measured else max_ns, grow, shrink,
                                                      0 if idle_ns is None else idle_ns)]
        if min(params) < 0:
            raise ValueError("poll parameters must not be negative")
        params[0] = min(params[0], LONGEST_LOOK_NS)
        self.check_use()
        if self.polling is not None:
            self.polling.forget()
        self.polling = None
        if params[0]:
            self.polling = PollList(*(params[:3] if idle_ns is None else params))
            self.polling.guard = self.guard
        self.measured = None
        if is_measured:
            self.poll_if_cheap()
        self.monitor.polling = self.polling
        self.notifier.notify()

    def add_sqe(self, prep, *args, callback, keepalive=None, multishot=False):
        """Make an io_uring request on this context's ring, and report its completions to a callback.

        Parameters:
            prep: called at once as prep(sqe, *args) with a cffi `struct io_uring_sqe *` that is valid during the call
                only; as for uringloop.Loop.add_sqe.
            callback: called as callback(cqe) for each completion, in this context's thread and in the current
                contextvars context; a Cqe as it is, nothing is raised.  Its exceptions are logged ("uringloop").
            keepalive: any object that has to live until the kernel is done; prep and args do anyhow.
            multishot: the request may post several completions; the last one has cqe.more false.

        Returns: a request with cancel(), cqe, done() and user_data.  The kernel sees it with the next turn at the
            latest.  close() cancels it, and notifies the callback.
        Raises: SqeNotSupported on epoll and poll; ValueError for an SQE that would break others; RuntimeError from
            another thread or on a closed context; any exception of prep.  Then no request was made.
        Thread: the context's.  Source: QEMU's aio_add_sqe().
        """
        self.check_open()
        if make_request is None or self.engine is None:
            raise SqeNotSupported(self.monitor.name, self.fdmon_reason or "this AioContext was made with it")
        if self.engine.is_restricted:
            raise SqeNotSupported(self.monitor.name, "URINGLOOP_RESTRICTED")
        return make_request(self, (prep, *args), callback, keepalive, multishot)

    @property
    def fdmon(self):
        """The monitor's name: "io_uring", "epoll" or "poll"."""
        return self.monitor.name

    def statistics(self):
        """What the context did so far: a Statistics, which does not change (docs/observing.md)."""
        return self._statistics()

    def _statistics(self, **numbers):
        """The same, with numbers that the loop on this context adds."""
        from .statistics import Statistics  # here, because few programs need it, and dataclasses with it
        self.count_into(numbers)
        return Statistics(**numbers)

    def close(self):
        """Close the monitor and drop all callbacks and timers.  Idempotent."""
        self.end()
