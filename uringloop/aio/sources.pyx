"""Where a context gets its work from, and how users without asyncio say so.

`AioContext` inherits from this; the turn that runs all of it is there.  asyncio's loop and its transports reach the
fields by themselves.

Thread: the context's, except for bottom halves and notify.  QEMU lets any thread set fd handlers, by a lock and
deferred freeing; here another thread schedules a bottom half that does it, and gets a RuntimeError otherwise.
"""

from libc.stdint cimport int64_t
from cpython.pythread cimport PyThread_get_thread_ident

from ..fdmon.base cimport FdHandler, ul_monotonic_ns
from ..fdmon.polling cimport PollList
from ..support.assertions cimport is_none, must, must_if
from ..support.system cimport POLLIN, POLLOUT
from .bottom_halves cimport check_callback
from .handles cimport Handle, TimerHandle
from .poll_handlers cimport CallbackHandler, PollHandler, PollHandlers

from operator import index

from .bottom_halves import new_bottom_half


cdef int64_t as_int64(object number) except? -1:
    """An argument that must be a whole number: TypeError for floats, which Cython would cut off."""
    return index(number)


cdef class Sources:
    """Fds, memory that is looked at, bottom halves and timers of a context."""

    cdef int check_open(self) except -1:
        if self.monitor.is_closed:
            raise RuntimeError("the AioContext is closed" + (
                ": this process is a fork of the one that made it" if self.is_forgotten else ""))
        return 0

    cdef int check_use(self) except -1:
        """For what is not thread-safe."""
        self.check_open()
        if self.thread != 0 and self.thread != <unsigned long>PyThread_get_thread_ident():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the AioContext; "
                               "schedule a bottom half that does it")
        return 0

    cdef int64_t now_ns(self) except? -1:
        """The clock of the timers."""
        return <int64_t>(self.program.now_s() * 1e9) if self.has_own_clock else ul_monotonic_ns()

    cdef int set_handler(self, FdHandler old, FdHandler new) except -1:
        """Change the interest in one fd; see FDMonitor.update.

        A change that the kernel refuses (the fd is closed, or is another file by now) ends the old interest, as with
        selectors: kept, it would fail in the same way each time, and keep what the caller no longer wants.
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
        """The same for an fd that may be watched again: what was learned of looking for it (adaptive polling) is kept.

        Parameters:
            old_file, new_file: whose fd it is: objects with fileno(), or numbers.
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
                pass  # what was learned is forgotten; that the interest has changed must not fail any more
        return 0

    def set_fd_handler(self, fd, io_read=None, io_write=None, io_poll=None, io_poll_ready=None):
        """Watch an fd; replaces what was set for it, and all None removes it.

        Parameters:
            fd: stays the caller's; remove the handler before closing it.
            io_read, io_write: called without arguments in each turn in which the fd is readable or writable.
            io_poll: returns, without doing anything, whether there is something to do; asked while the context
                busy-polls instead of sleeping (set_poll_params), and ignored without io_poll_ready.  While the context
                sleeps only the fd wakes it.
            io_poll_ready: called without arguments when io_poll said so.

        A removed handler is never called again; nor is one that was to be replaced when this raises OSError.
        Exceptions of callbacks are reported, as those of bottom halves.
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

        Raises: ValueError, too, for one that is closed: its handler is removed before.
        """
        cdef object fd = notifier.fileno()
        if fd < 0:
            raise ValueError(f"{notifier!r} is closed; remove its handler before you close it")
        self.set_fd_handler(fd, io_read, None, io_poll, io_poll_ready)

    def add_poll_handler(self, io_poll, io_poll_ready):
        """Poll memory that has no fd, such as a queue that another process fills.

        Parameters: as for set_fd_handler.  An io_poll that raises is reported and removed.

        Returns: a PollHandler; its remove() ends it.  It is asked in each turn, and while it is there no sleep is
            longer than an eighth of the time for which it found nothing: at least 50 us, at most 10 ms.
            set_poll_params() makes that a look instead of a sleep, notify() ends a sleep at once.
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
            self.pollers = PollHandlers()
            self.pollers.thread = self.thread
        handler.owner = self.pollers
        return 0

    def new_bottom_half(self, callback, *args):
        """A BottomHalf: callback(*args), to be scheduled as often as is wanted, from any thread.  Thread: any."""
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
        handle.loop, handle.aio_context = plain.loop, plain.aio_context
        handle.when_ns = max(as_int64(when_ns), 0)
        handle.when_s = handle.when_ns / 1e9
        self.timers.push(handle)
        must(<void *>handle.timers == <void *>self.timers, "a timer is on the heap of its context")
        return handle

    def notify(self):
        """End the wait of the turn that goes on, or spare the next one its sleep.  Thread: any."""
        if not self.monitor.is_closed:
            self.notifier.notify()

    cdef object report_to(self, object reporter):
        """A weak reference to what exceptions are reported to: its call_exception_handler(details) is called."""
        self.bottom_halves.reporter = reporter
