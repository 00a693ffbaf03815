"""A context inside a foreign main loop: ContextCore.turn, split where the foreign loop sleeps.

How it works (GLib's names for the steps; QEMU's aio_ctx_prepare, _check, _dispatch):
 1. prepare: flush and submit collected output; set the notifier to expect a sleep; return how long that may be.
 2. The foreign loop sleeps, on the monitor's fileno() or on the fds of all handlers.
 3. check: the sleep is over; is there work to do?
 4. dispatch: a turn that does not block, and a few more as long as callbacks schedule callbacks, or write on io_uring:
    the enter that sends also collects what has arrived (10 connections: 3.9 us a message instead of 5.4).

Every order is legal: GLib calls prepare without check when a source of higher priority is ready, dispatch
without check when prepare said "now", and all of it again inside of a dispatch (a modal dialog).

Fairness: a dispatch ends after DISPATCH_NS.  Sources of lower priority get nothing from GLib while one of higher
priority is ready, so a context that is busy all the time stays out of one iteration every YIELD_NS.

Invariant: the notifier's notify_me is set from a prepare that allowed sleep until the next check or dispatch.

Thread: the one that runs the foreign loop.  No adaptive polling: the other loop sleeps.
Not here: GLib (uringloop/glib).
"""

cimport cython
from libc.stdint cimport int64_t
from cpython.pythread cimport PyThread_get_thread_ident

from ..support.assertions cimport must
from ..support.guard cimport peek_size
from .context_core cimport ContextCore, ul_monotonic_ns

cdef enum:
    DISPATCH_NS = 500_000
    DISPATCH_TURNS = 16
    YIELD_NS = 5_000_000


@cython.no_gc_clear  # what drops it releases the context
cdef class ForeignTurns:
    """The three steps for one context.

    Raises: RuntimeError when the context is already driven by a loop, or is closed.
    """

    def __init__(self, ContextCore aio_context not None):
        if aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        if aio_context.is_foreign:
            raise RuntimeError("this context is attached to a main loop already")
        aio_context.monitor.make_pollable()
        if aio_context.thread == <unsigned long>PyThread_get_thread_ident():
            # one of its own callbacks may attach it, and the running turn keeps using the ring that it has now
            aio_context.monitor.begin_run()
        aio_context.is_foreign = True
        self.aio_context = aio_context
        self.is_attached = True

    def __dealloc__(self):
        if self.is_attached:
            self.aio_context.is_foreign = False
            if self.aio_context.notifier is not None:
                self.aio_context.notifier.end_wait()

    cdef bint has_work(self) except -1:
        return (self.aio_context.ready.head != self.aio_context.ready.tail
                or self.aio_context.timeout_ns(True) == 0)

    cdef bint must_ask(self) noexcept:
        """Whether a turn is due after each sleep: for idle bottom halves, or for handlers without an fd to wake us."""
        cdef ContextCore aio_context = self.aio_context
        return (peek_size(&aio_context.ready.n_idle) != 0
                or (aio_context.pollers is not None and aio_context.pollers.has_bare()))

    cdef bint prepare(self, int64_t *timeout_ns) except -1:
        """Before the foreign loop sleeps.

        Parameters:
            timeout_ns: out: how long it may sleep, -1 for ever.

        Returns: True when dispatch has work to do now; then the foreign loop must not sleep.
        Runs no user code.  Python's signal handlers have run before: what they schedule is seen here.
        """
        cdef ContextCore aio_context = self.aio_context
        timeout_ns[0] = 0
        aio_context.begin_run()
        self.is_yielding = self.served_ns >= YIELD_NS
        if self.is_yielding:
            return False
        if aio_context.in_delivery is not None:
            aio_context.resume_below()
        if aio_context.dirty.count():
            aio_context.flush_dirty()
        if self.has_work() or aio_context.monitor.gsource_prepare(aio_context.ready_list):
            return True
        self.may_sleep = True
        # `notified` comes before the callbacks are checked again: the other side publishes in the reverse order
        if not aio_context.notifier.begin_wait() or self.has_work():
            return True
        must(aio_context.notifier.notify_me, "a loop that may sleep is notified")
        timeout_ns[0] = aio_context.timeout_ns(True)
        if aio_context.pollers is not None:
            timeout_ns[0] = aio_context.pollers.bounded_ns(timeout_ns[0])
        return timeout_ns[0] == 0

    cdef bint awake(self, bint is_fd_ready) except -1:
        """The foreign loop does not sleep; returns whether the monitor has events."""
        if self.may_sleep:
            self.may_sleep = False
            self.aio_context.notifier.end_wait()
            must(self.aio_context.notifier.notify_me == 0, "a loop that is awake is not notified")
        elif not is_fd_ready:
            return False
        return self.aio_context.monitor.gsource_check(is_fd_ready)

    cdef bint check(self, bint is_fd_ready) except -1:
        """After the sleep.

        Parameters:
            is_fd_ready: an fd that was slept on is ready.

        Returns: whether dispatch has work to do.  Runs no user code.
        """
        cdef bint is_ready = self.awake(is_fd_ready)
        if self.is_yielding:
            self.is_yielding = False
            self.served_ns = 0
            return False
        is_ready = is_ready or self.has_work() or self.must_ask()
        if not is_ready:
            self.served_ns = 0  # the others have this iteration anyhow
        return is_ready

    cdef int dispatch(self, bint is_inside) except -1:
        """Run what is ready.  Runs user code, and possibly all three steps again inside of it.

        Parameters:
            is_inside: a callback of this context may be on the stack, called by a turn that is not ours.

        Raises: SystemExit and KeyboardInterrupt of callbacks; RuntimeError when the context was closed.
        """
        cdef ContextCore aio_context = self.aio_context
        cdef int64_t started_ns = ul_monotonic_ns()
        cdef int64_t now_ns = started_ns
        cdef int n_turns = 0
        if aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        after = None
        if (self.depth or is_inside) and aio_context.around_turn is not None:
            after = aio_context.around_turn()
        aio_context.begin_run()
        self.depth += 1
        aio_context.begin_turns()
        try:
            self.awake(False)
            while True:
                aio_context.turn(False)
                n_turns += 1
                if (n_turns == DISPATCH_TURNS or self.is_last_turn or aio_context.monitor.is_closed
                        or (aio_context.ready.head == aio_context.ready.tail
                            and not (aio_context.dirty.count() and aio_context.engine is not None))):
                    break
                now_ns = ul_monotonic_ns()
                if now_ns - started_ns >= DISPATCH_NS:
                    break
        finally:
            must(self.depth > 0, "a dispatch that ends was counted when it began")
            aio_context.end_turns()
            self.depth -= 1
            if self.depth == 0:
                self.is_last_turn = aio_context.wants_return = False  # no outer dispatch is left to clear it
                self.send_off()
            self.served_ns += ul_monotonic_ns() - started_ns
            if after is not None:
                after()
        return 0

    cdef int send_off(self) except -1:
        """Send written data and release closed sockets: this may be the foreign loop's last iteration."""
        cdef ContextCore aio_context = self.aio_context
        if not aio_context.monitor.is_closed:
            aio_context.send_dirty()
        return 0

    def detach(self):
        """Release the context: it may run by itself, or be attached again.  Idempotent."""
        if not self.is_attached:
            return
        if self.may_sleep and not self.aio_context.monitor.is_closed:
            self.awake(False)
        self.is_attached = self.may_sleep = self.aio_context.is_foreign = False
