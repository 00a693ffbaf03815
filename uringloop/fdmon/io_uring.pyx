"""The io_uring monitor: readiness by the requests of a ring (`uring/engine`), one system call per turn.

How it works:
 1. Handlers are watched by one-shot POLL_ADD, re-armed at the next wait: after the callbacks in a flat turn, at once in
    a nested one.  There is no level-triggered multishot poll in io_uring (measured; QEMU dropped it, too).
 2. An armed POLL_ADD holds a reference to its file: closing the fd would close nothing.  So the fds that the program
    may close while they are watched (add_reader) are in an epoll set, which holds no file and drops closed ones, and
    one POLL_ADD watches that set; its events are read from the set by epoll_wait(2).
 3. That costs system calls for each wait.  Where waits are many and short (FdHandler.is_brief, the RECV of a socket
    that the program also has, the ACCEPT of a listener) the first is in an epoll set; once it had an event, the next
    are on the ring, and a sweep moves those that last to the set.  A TIMEOUT in the ring triggers the sweeps, while
    any request on the ring may have to move.

Not here: submitting, harvesting, what is in flight (`uring/engine`).
"""

cimport cython
from libc.errno cimport EAGAIN, EBADF
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from cpython.ref cimport Py_DECREF

from ..liburing.liburing cimport *
from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.capi cimport PyList_SetSlice
from ..support.errors cimport os_error
from ..support.system cimport POLLERR, POLLHUP, POLLIN, POLLOUT, POLLPRI
from ..uring.completions cimport Completion, CompletionFifo
from ..uring.engine cimport Engine
from ..uring.request cimport IN_FLIGHT, KIND_INTERNAL, Request
from ..uring.ring cimport Ring
from .adaptive_polling cimport PolledEvent
from .base cimport OF_COMPLETION, FDMonitor, FdHandler, ReadyList, Stopwatch, check_pollable, identity
from .epoll cimport EpollMonitor

from ..exceptions import MonitorUnavailable

cdef enum:
    SWEEP_NS = 50_000_000  # a wait is moved after one to two of these
    WANTED = POLLIN | POLLPRI | POLLOUT | POLLERR | POLLHUP  # what handlers are called for


@cython.no_gc_clear
cdef class PollRequest(Request):
    """POLL_ADD of one FdHandler."""

    def __cinit__(self, FdHandler handler=None, IoUringMonitor monitor=None):
        self.kind = KIND_INTERNAL
        self.handler = handler
        self.monitor = monitor

    cdef int reported(self, int32_t res, bint has_more) except -1:
        cdef IoUringMonitor monitor = self.monitor
        must(has_more == (not is_none(<void *>self.owner)), "a request is in flight until its last completion")
        return monitor.poll_reported(self, res) if has_more else monitor.poll_completed(self, res)


@cython.no_gc_clear
cdef class SweepRequest(Request):
    """TIMEOUT until the next sweep; its SQE points to `period`, which is never changed."""

    def __cinit__(self):
        self.kind = KIND_INTERNAL
        self.period.tv_nsec = SWEEP_NS

    cdef int reported(self, int32_t res, bint has_more) except -1:
        self.monitor.must_sweep = True
        self.monitor = None
        return 0


@cython.no_gc_clear
cdef class MovableRequest(Request):
    """A request that holds a file which the program may close, so that it must not wait for long.

    The code that delivers a completion of it sets `used_at` to the monitor's n_sweeps.
    """

    cdef int leave_ring(self) except -1:
        """It had no completion for long: have the epoll set watch (`rest`), and cancel it.  No user code."""
        raise NotImplementedError


cdef class SetHandler(FdHandler):
    """The poll request's view of an epoll set inside of the ring."""


cdef class IoUringMonitor(FDMonitor):
    """FDMonitor on io_uring.  Raises MonitorUnavailable; then nothing is left behind."""

    name = "io_uring"

    def __cinit__(self):
        self.engine = Engine()
        self.ready_list = ReadyList()
        self.to_arm = []
        self.movable = set()
        self.next_sweep = SweepRequest()
        self.n_sweeps = 1

    def __dealloc__(self):
        free(self.busy_at)

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        cdef FdHandler before
        cdef bint is_by_epoll = False
        if new is not None:
            if self.left_files is not None:
                self.renew()
            before = self.handlers.get(new.fd)
            if old is None:
                old = before  # its fd was closed without notice, and the number used again
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
                    new.arming = PollRequest(new, self)
                    self.to_arm.append(new)
            if old is not None and old.arming is not None:
                self.engine.cancel(<PollRequest>old.arming)  # the last step that can fail
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
        must_if(not is_none(<void *>old), is_none(<void *>old.arming),
                "nothing on the ring watches for a handler that is removed")
        must_if(not is_none(<void *>new), <void *>new != <void *>old, "a change of interest takes a new handler")
        must_if(not is_none(<void *>new), is_by_epoll == (is_none(<void *>new.arming)),
                "the ring or an epoll set watches, not both")
        return 0

    cdef bint watch_by_epoll(self, FdHandler old, FdHandler new) except -1:
        """Watch for `new` in the epoll set, in place of `old` if that is in it; False if no set can be made."""
        if self.closable is None:
            check_pollable(new.fd)  # first: the set would get the number of a closed fd
            try:
                self.closable = self.watch_set(EpollMonitor())
            except MonitorUnavailable:
                return False  # no descriptor left, or a sandbox without epoll: closing is not noticed then
        self.closable.watches.update(old if old is not None and old.arming is None else None, new)
        return True

    cdef SetHandler watch_set(self, EpollMonitor watches):
        """Submit a poll request for an epoll set with the next wait."""
        cdef SetHandler handler = SetHandler(watches.fileno(), POLLIN)
        handler.watches = watches
        handler.arming = PollRequest(handler, self)
        self.to_arm.append(handler)
        return handler

    cdef int rest(self, FdHandler old, FdHandler new) except -1:
        """As `update`, for a handler in place of a request that has left the ring.

        In a separate set: the program may watch the same fd.
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
        """Move the set's events to the ready list.  A handler that becomes active starts on the ring again."""
        cdef FdHandler one
        cdef size_t at = self.ready_list.tail
        handler.watches.collect(self.ready_list)
        while at != self.ready_list.tail:
            one = <FdHandler>self.ready_list.items[at & self.ready_list.mask]
            at += 1
            if not one.is_brief:
                continue
            must(one.is_queued, "a handler on the ready list is queued")
            self.mark_busy(one.fd)
            if one.arming is None:
                request = PollRequest(one, self)
                self.to_arm.append(one)
                one.arming = request
                handler.watches.withdraw(one)
        return 0

    # -- waits that last -------------------------------------------------------------------------------

    cdef bint may_last(self, MovableRequest request) except -1:
        """It was armed and leaves the ring if it stays unused.  False: no memory to record it, so that it stays."""
        try:
            self.movable.add(request)
        except MemoryError:
            return False
        request.used_at = self.n_sweeps
        self.begin_sweeps()
        return True

    cdef int begin_sweeps(self) except -1:
        """The next sweep is a period away, or with the next wait, where the kernel takes no request for it now.

        That raises no exception: the caller has armed a request, and would take it for not armed.
        """
        cdef io_uring_sqe *sqe
        if self.next_sweep.owner is not None:
            return 0
        try:
            sqe = self.engine.get_sqe()
        except (MemoryError, OSError):
            self.must_sweep = True
            return 0
        must(is_none(<void *>self.next_sweep.monitor), "a sweep has its monitor while it is in flight only")
        io_uring_prep_timeout(sqe, &self.next_sweep.period, 0, 0)
        self.next_sweep.monitor = self
        return self.engine.add(self.next_sweep, sqe)

    cdef int sweep(self) except -1:
        """Requests that have waited since before the last sweep leave the ring.  Runs no user code.

        There is another sweep only if any left may have to move: an idle process stays idle.
        """
        self.must_sweep = False
        try:
            return self.move_what_lasts()
        except (MemoryError, OSError):  # OSError: the kernel takes no requests at the moment
            return self.begin_sweeps()  # later; the file is held until then

    cdef int move_what_lasts(self) except -1:
        cdef FdHandler handler
        cdef MovableRequest request
        cdef bint is_any_left = False
        for handler in list(self.handlers.values()):
            must_not(handler.is_removed, "a handler that is removed is not in `handlers`")
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
        must_not(self.n_sweeps == 0, "the time that sweeps count is never 0")
        return self.begin_sweeps() if is_any_left else 0

    cdef bint is_busy(self, int fd) noexcept:
        """Whether a handler that is_brief had an event not long ago."""
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
        must(fd < self.busy_capacity, "an fd that is busy has its place")
        self.busy_at[fd] = self.n_sweeps

    cdef int move_to_set(self, FdHandler handler) except -1:
        """Let the epoll set watch for it from now on, or nothing, if its file is closed."""
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
                return 0  # there is no set, or no room in it: the ring keeps watching, and holds the file
        try:
            self.engine.cancel(request)
        except BaseException:
            if not is_closed:
                self.closable.watches.withdraw(handler)
            raise
        handler.arming = None
        return 0

    # -- turns ------------------------------------------------------------------------------------------

    cdef int arm_later(self, FdHandler handler) except -1:
        """Submit a poll request for it with the next wait, even if this fails: nothing else would watch its fd."""
        try:
            self.to_arm.append(handler)
        except MemoryError:
            self.is_to_arm_short = True  # `arm_polls` finds it
        return 0

    cdef bint arm_polls(self) except -1:
        """POLL_ADD for all handlers that wait for it; an fd closed since then was removed and is skipped.

        Returns: False where the kernel takes no more at the moment; the rest keeps its place.
        """
        cdef FdHandler handler
        cdef PollRequest request
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t n_armed = 0
        cdef bint is_any_brief = False, is_complete = True
        if self.is_to_arm_short:
            # handlers that are armed, or done, are skipped below
            self.to_arm += [*self.handlers.values(), *self.sets()]
            self.is_to_arm_short = False
        try:
            while n_armed < len(self.to_arm):
                handler = <FdHandler>self.to_arm[n_armed]
                request = <PollRequest>handler.arming
                must_if(not is_none(<void *>request), <void *>request.handler == <void *>handler,
                        "what arms a handler watches for it")
                if not handler.is_removed and request is not None:
                    if request.is_multishot and request.owner is not None:
                        # it has reported a wanted event: back to a one-shot, which reports a state that persists
                        self.engine.cancel(request)
                        request = handler.arming = PollRequest(handler, self)
                    if request.owner is None:
                        sqe = self.engine.get_sqe()
                        if request.is_multishot:
                            io_uring_prep_poll_multishot(sqe, handler.fd, <unsigned short>handler.events)
                        else:
                            io_uring_prep_poll_add(sqe, handler.fd, <unsigned short>handler.events)
                        self.engine.add(request, sqe)
                        if handler.is_brief:
                            handler.armed_at = self.n_sweeps
                            is_any_brief = True
                n_armed += 1
        except OSError as error:
            if error.errno != EAGAIN:
                raise
            is_complete = False
        finally:
            PyList_SetSlice(self.to_arm, 0, n_armed, NULL)
        if is_any_brief:
            self.begin_sweeps()
        return is_complete

    cdef bint need_wait(self) noexcept:
        return self.engine.has_work() or len(self.to_arm) != 0 or self.is_to_arm_short or self.must_sweep

    cdef bint may_poll_by_default(self) noexcept:
        return True

    cdef bint spin(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1:
        self.ready_list = ready_list
        if (self.to_arm or self.is_to_arm_short) and not self.arm_polls():
            return True
        return self.engine.spin(notified, until_ns)

    cdef long long received_bytes(self) noexcept:
        return self.n_bytes + self.n_other_bytes + self.engine.n_bytes

    cdef bint has_undispatched(self) noexcept:
        return self.engine.has_undispatched()

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        if not self.engine.ring.is_open:
            raise RuntimeError("the loop is closed")
        self.ready_list = ready_list
        if self.must_sweep:
            self.sweep()
            if self.must_sweep and (timeout_ns < 0 or timeout_ns > SWEEP_NS):
                timeout_ns = SWEEP_NS  # no request in the ring triggers the next one: see begin_sweeps
        if (self.to_arm or self.is_to_arm_short) and not self.is_prepared and not self.arm_polls():
            timeout_ns = 0  # harvesting now makes room
        self.is_prepared = False
        return self.engine.wait(timeout_ns)

    cdef int poll_reported(self, PollRequest request, int32_t res) except -1:
        """A multishot POLL_ADD continues.  It is edge-like, so its report is for one dispatch only."""
        cdef FdHandler handler = request.handler
        if res & WANTED and not handler.is_removed and handler.arming is request:
            self.arm_later(handler)  # first: an event that is not collected for lack of memory is reported again
            self.ready_list.append(handler, <short>(res & WANTED))
            if handler.is_brief:
                self.mark_busy(handler.fd)
        return 0

    cdef int poll_completed(self, PollRequest request, int32_t res) except -1:
        cdef FdHandler handler = request.handler
        must(is_none(<void *>request.owner), "a request that is over is on no list")
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
            # -ECANCELED that was not ours (a broad cancel by other code, a thread that ended): watch again
            self.arm_later(handler)
        return 0

    cdef object get_engine(self):
        return self.engine

    cdef int dispatch(self) except -1:
        cdef CompletionFifo fifo = self.engine.fifo
        cdef Completion slot
        cdef Request request
        cdef size_t n = fifo.count()
        cdef int count = 0
        self.engine.n_dispatches += 1
        # Later arrivals wait for the next turn, or one busy socket would keep timers waiting.
        while n != 0 and fifo.head != fifo.tail:
            n -= 1
            slot = fifo.pop()
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
        cdef object subject = request.subject()  # before: a closed wire forgets its owner
        cdef Stopwatch stopwatch = self.stopwatch
        cdef int64_t began_ns
        if subject is None:
            request.complete(slot.res, slot.flags, slot.data)
            return stopwatch.passed()
        began_ns = stopwatch.begin(OF_COMPLETION, subject)
        request.complete(slot.res, slot.flags, slot.data)
        return stopwatch.end(subject, began_ns)

    cdef int submit(self) except -1:
        return self.engine.submit()

    cdef int begin_run(self) except -1:
        if self.is_closed:
            raise RuntimeError("this loop belongs to the parent process; make a new one after fork")
        return self.engine.begin_run()

    cdef int settle(self) except -1:
        return self.engine.settle()

    cdef int make_pollable(self) except -1:
        return self.engine.make_pollable()

    cdef bint gsource_prepare(self, ReadyList ready_list) except -1:
        if self.need_wait():
            self.wait(ready_list, 0)
            self.is_prepared = ready_list.head != ready_list.tail
        return self.need_wait()

    cdef bint gsource_check(self, bint is_fd_ready) except -1:
        return self.need_wait()

    cdef int fileno(self) noexcept:
        return self.engine.ring.ring.ring_fd if self.engine.ring.is_open else -1

    cdef int count_into(self, dict numbers) except -1:
        FDMonitor.count_into(self, numbers)
        self.engine.count_into(numbers)
        for one in self.sets():
            numbers["syscalls"] += (<SetHandler>one).watches.n_syscalls
        return 0

    cdef dict in_flight_kinds(self):
        cdef dict counts = {}
        for one in self.engine.in_flight.snapshot():
            counts[type(one)] = counts.get(type(one), 0) + 1
        return counts

    cdef dict ring_facts(self):
        cdef Ring ring = self.engine.ring
        if not ring.is_open:
            return {}
        return {"fd": ring.ring.ring_fd, "sq_entries": ring.ring.sq.ring_entries,
                "cq_entries": ring.ring.cq.ring_entries, "setup_flags": ring.setup_flags, "features": ring.features}

    # -- the end ---------------------------------------------------------------------------------------

    cdef int close(self) except -1:
        if self.is_closed:
            return 0
        self.disarm()
        FDMonitor.close(self)
        try:
            self.engine.close()
        finally:
            while self.ready_list.count():
                self.ready_list.pop()
        return 0

    cdef int disarm(self) except -1:
        """No handler is watched any more; later reports of its poll request are ignored."""
        cdef FdHandler handler
        for handler in self.handlers.values():
            handler.arming = None
        self.to_arm = []
        return self.drop_sets()

    cdef int deliver_last(self) except -1:
        return self.engine.deliver_last()

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

    cdef bint can_leave(self) except -1:
        """Raw requests, their buffers and registrations belong to the parent's ring; progress of a send is unknown."""
        return self.engine.can_leave()

    cdef int leave(self) except -1:
        cdef SetHandler one
        FDMonitor.leave(self)
        for one in self.sets():
            one.watches.leave()
            one.is_removed = True  # `renew` makes another one, for another epoll object
        return self.engine.leave()

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
        self.disarm()
        self.handlers.clear()
        self.engine.ring.close()
        return 0
