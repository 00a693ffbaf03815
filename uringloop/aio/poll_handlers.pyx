"""Handlers in Python: the callbacks of an fd, and memory that is polled (QEMU: AioHandler with io_poll).

How it works:
 1. `io_poll` only returns whether there is work to do; `io_poll_ready` does it, in the dispatch of the turn, so that
    its time does not count as waiting.  Only the handler's own flag (is_found) causes that call.
 2. While the context polls (adaptive polling), all active handlers are called again and again, each in every round.
 3. A handler with an fd becomes active with its first event and, where the monitor can poll itself, leaves after
    idle_ns without one; its fd brings it back.  Elsewhere its fd would starve while others are found by polling.
 4. One without an fd has nothing that could wake the loop.  It is polled in each turn, busy-polling or not, and
    bounds the sleep: to an eighth of the time for which nothing was found, 50 us at least and 10 ms at most, so that
    it is found late by an eighth of its own period, and an idle loop wakes 100 times a second.
    Idle for long, it is polled only once in 10 ms, since thousands of them would make every turn slow.
 5. Such bounds cut one wait into several; for learning how long to poll they are added up (carry).

Invariant: a handler whose io_poll or io_poll_ready runs is not polled by a nested turn.

Thread: the context's.  Not here: when to poll and for how long (context, fdmon/adaptive_polling).
"""

from libc.stdint cimport int64_t
from cpython.pythread cimport PyThread_get_thread_ident

from ..fdmon.base cimport FdHandler, ReadyList, check_held, ul_monotonic_ns
from ..support.assertions cimport is_none, must, must_not
from ..support.system cimport POLLERR, POLLHUP, POLLIN, POLLOUT

cdef enum:
    BOUND_LEAST_NS = 50_000
    BOUND_MOST_NS = 10_000_000
    BOUND_SHARE = 8


cdef class PollHandler(FdHandler):
    """Memory that is polled; AioContext.add_poll_handler() makes them."""

    @property
    def removed(self):
        """Whether it is never called again."""
        return self.is_removed

    @property
    def polled_for(self):
        """Whether it is called whenever the context polls; False for one that is idle."""
        return self.is_active

    def __repr__(self):
        state = "removed" if self.is_removed else "polled for" if self.is_active else "idle"
        what = "" if self.fd < 0 else f" fd={self.fd}"
        return f"<{type(self).__name__}{what} {state}>"

    def remove(self):
        """Never call it again, even if it was found already.  Idempotent.

        Only for one of add_poll_handler().  Raises: RuntimeError from another thread.  Thread: the context's.
        """
        if self.fd >= 0:
            raise RuntimeError("handlers of an fd are removed with set_fd_handler(fd)")
        if (not self.is_removed and self.owner is not None
                and self.owner.thread not in (0, <unsigned long>PyThread_get_thread_ident())):
            raise RuntimeError("Non-thread-safe operation: this thread does not run the AioContext; "
                               "schedule a bottom half that does it")
        self.is_removed = True
        self.is_found = False
        if self.owner is not None:
            self.owner.leave(self)
        self.io_poll = self.io_poll_ready = None

    cdef int on_ready(self, short revents) except -1:
        return self.run_found()

    cdef int run_found(self) except -1:
        """Do what io_poll found; nothing where it found nothing."""
        cdef bint was_busy = self.is_busy
        cdef Handle io_poll_ready = self.io_poll_ready  # remove() in it releases it
        if not self.is_found:
            return 0
        must_not(is_none(<void *>io_poll_ready), "a handler that found something has a callback for it")
        self.is_found = False
        self.is_busy = True
        try:
            return io_poll_ready.run()
        finally:
            self.is_busy = was_busy


cdef class CallbackHandler(PollHandler):
    """The interests of AioContext.set_fd_handler() in one fd."""

    cdef int on_ready(self, short revents) except -1:
        cdef Handle io_read = self.io_read
        cdef Handle io_write = self.io_write
        if self.io_poll is not None:
            self.last_ns = ul_monotonic_ns()
            if not self.is_active:
                self.owner.join(self)
        revents &= self.events | POLLERR | POLLHUP
        if revents == 0:
            return self.run_found()
        self.is_found = False  # the fd itself also reports it: once is enough
        # an error is for both; a hang-up for the reader, or else for the writer, which would never be notified
        if io_read is not None and revents & (POLLIN | POLLHUP | POLLERR):
            io_read.run()
            check_held(self)
        if (io_write is not None and not self.is_removed
                and revents & (POLLOUT | POLLERR | (POLLHUP if io_read is None else 0))):
            io_write.run()
        return 0


cdef class PollHandlers:
    """The handlers of one context that have an io_poll."""

    def __cinit__(self, object guard):
        self.guard = guard
        self.active = []
        self.bare = []
        self.resting = []

    def __len__(self):
        return len(self.active) + len(self.bare) + len(self.resting)

    cdef int join(self, PollHandler handler) except -1:
        """Poll it from now on."""
        cdef list own = self.bare if handler.fd < 0 else self.active
        if handler.is_removed or handler.is_active:
            return 0
        must(<void *>handler.owner == <void *>self, "a handler is polled by its own context")
        handler.is_active = True
        handler.last_ns = ul_monotonic_ns()
        if handler.fd < 0:
            self.last_ns = handler.last_ns
        if not self.depth:
            own.append(handler)
        elif handler.fd < 0:
            self.bare = [*own, handler]
        else:
            self.active = [*own, handler]
        return 0

    cdef int leave(self, PollHandler handler) except -1:
        """Stop polling it, if it was polled."""
        handler.is_active = False
        # new lists: a frame below may be going through the old ones
        if handler.fd >= 0:
            if handler in self.active:
                self.active = [one for one in self.active if one is not handler]
        elif handler in self.bare:
            self.bare = [one for one in self.bare if one is not handler]
        elif handler in self.resting:
            self.resting = [one for one in self.resting if one is not handler]
        return 0

    cdef bint ask(self, ReadyList ready_list) except -1:
        """One round: those with work join the ready list.  Returns whether there were any.  Runs user code."""
        cdef bint found = self.ask_all_of(self.active, ready_list)
        return self.ask_bare(ready_list) or found

    cdef bint ask_bare(self, ReadyList ready_list) except -1:
        """The same with those that have no fd."""
        cdef bint found = self.ask_all_of(self.bare, ready_list)
        cdef int64_t now_ns
        cdef PollHandler handler
        if self.resting:
            now_ns = ul_monotonic_ns()
            if now_ns >= self.next_rest_ns:
                self.next_rest_ns = now_ns + BOUND_MOST_NS
                found = self.ask_all_of(self.resting, ready_list) or found
                for handler in [one for one in self.resting if (<PollHandler>one).is_found]:
                    self.leave(handler)
                    self.join(handler)
        if found:
            self.last_ns = ul_monotonic_ns()
        return found

    cdef bint ask_all_of(self, list handlers, ReadyList ready_list) except -1:
        cdef bint found = False
        cdef PollHandler handler
        self.depth += 1
        try:
            for handler in handlers:
                if not handler.is_busy and not handler.is_removed:
                    found = self.ask_one(handler, ready_list) or found
        finally:
            must(self.depth > 0, "a round of asking that ends was counted")
            self.depth -= 1
        return found

    cdef bint ask_one(self, PollHandler handler, ReadyList ready_list) except -1:
        cdef object io_poll = handler.io_poll
        cdef bint answer
        cdef Handle io_poll_ready
        must_not(handler.is_busy, "a running handler is not polled")
        must_not(handler.is_removed, "a handler that is removed is not asked")
        handler.is_busy = True
        try:
            answer = bool(io_poll())
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # polled again, it would fail again, thousands of times a second
            io_poll_ready = handler.io_poll_ready
            if handler.fd < 0:
                handler.remove()
            else:
                self.leave(handler)
                handler.io_poll = None  # its fd is still watched
            if io_poll_ready is not None:
                io_poll_ready.report(error, io_poll)
            return False
        finally:
            handler.is_busy = False
        if not answer or handler.is_removed:
            return False
        handler.is_found = True
        handler.last_ns = ul_monotonic_ns()
        ready_list.append(handler, 0)
        return True

    cdef bint has_bare(self) noexcept:
        """Whether there are handlers that nothing would wake us for."""
        return len(self.bare) != 0 or len(self.resting) != 0

    cdef int64_t bounded_ns(self, int64_t timeout_ns) except? -2:
        """How long to sleep at most, for those that nothing would wake us for; -1 is for ever."""
        cdef int64_t bound_ns
        if not self.has_bare():
            return timeout_ns
        bound_ns = BOUND_MOST_NS
        if self.bare:
            bound_ns = min(max((ul_monotonic_ns() - self.last_ns) // BOUND_SHARE, BOUND_LEAST_NS), BOUND_MOST_NS)
        return bound_ns if timeout_ns < 0 else min(timeout_ns, bound_ns)

    cdef int64_t carry(self, int64_t waited_ns, bint is_quiet) noexcept:
        """A wait is over: returns how long it took, with those before it that found nothing, either."""
        waited_ns += self.carried_ns
        self.carried_ns = waited_ns if is_quiet else 0
        return waited_ns

    cdef int expire(self, int64_t now_ns, int64_t idle_ns, bint has_notification) except -1:
        """Stop calling those in each round that had no work for so long."""
        cdef PollHandler handler
        cdef list kept
        if now_ns < self.next_expiry_ns:
            return 0
        self.next_expiry_ns = now_ns + idle_ns // 8 + 1
        if has_notification:
            kept = []
            for handler in self.active:
                # removed: by the monitor, which found that its fd had been closed
                handler.is_active = now_ns - handler.last_ns < idle_ns and not handler.is_removed
                if handler.is_active:
                    kept.append(handler)
            self.active = kept
        kept = []
        resting = list(self.resting)
        for handler in self.bare:
            handler.is_active = now_ns - handler.last_ns < idle_ns
            (kept if handler.is_active else resting).append(handler)
        self.bare, self.resting = kept, resting
        return 0

    cdef int close(self) except -1:
        cdef PollHandler handler
        for handler in self.active + self.bare + self.resting:
            handler.is_removed = True
            handler.is_active = False
        self.active, self.bare, self.resting = [], [], []
        return 0
