"""The FDMonitor interface: how a context learns of events on file descriptors.

A monitor fills lists; the context dispatches them afterwards.  No user code runs inside `wait`, which is what makes
nested loops possible.  All calls come from the loop's thread, except where a member says otherwise.

Words: a *handler* is the interest in one fd with its callback (QEMU: AioHandler); a *monitor* is the backend that
watches (QEMU: FDMonOps).  Monitors: `io_uring`, `epoll`, `poll`, each in the file of its name.

Not here: which monitor is chosen (`select`), the order of things in one turn (`aio/context_core`).
"""

from libc.errno cimport EBADF, EINVAL, EPERM, errno
from libc.stdint cimport int64_t
from posix.stat cimport S_ISBLK, S_ISDIR, S_ISREG, fstat, struct_stat

from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.errors cimport os_error
from ..support.references cimport References

cdef extern from "<sys/epoll.h>" nogil:
    struct epoll_event:
        pass
    int EPOLL_CTL_DEL
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)


cdef class FdHandler:
    """Interest in one fd; subclasses say what happens.  A change of interest takes a new handler.

    Parameters:
        fd: not owned; the caller may close it after it has removed the handler.
        events: POLLIN | POLLOUT.  POLLHUP and POLLERR are always reported.

    `may_be_closed` is set before the monitor has it: the fd is the program's, which may close it while it is watched.
    Then the file must also be closed (its peer sees the end, its port is free), at any cost to the monitor; for one
    that `is_brief` that may take a tenth of a second, if it makes short waits cheap.
    """

    def __cinit__(self, int fd=-1, short events=0):
        self.fd = fd
        self.events = events

    cdef int on_ready(self, short revents) except -1:
        """Called by the context's dispatch; may run user code.  revents as in poll(2)."""
        raise NotImplementedError

    cdef object subject(self):
        """The object that a report of a slow callback names; None: the callee reports itself."""
        return self

    cdef bint is_closed_by_program(self) except -1:
        """Whether the file is known to be closed, so the number may be another's; False where that is unknown."""
        return False


cdef class Subject:
    """An object that has callbacks."""

    cdef object recorded_as(self):
        """What a recorder counts them under: an object that is the same for many.  No user code."""
        return type(self)


cdef class Stopwatch:
    """Finds callbacks that take long: `report(what, seconds)` is called after each such one.

    Parameters: report: None to report none.
    """

    def __cinit__(self, report, int64_t limit_ns, *_args):
        self.follow(report, limit_ns)

    cdef int follow(self, object report, int64_t limit_ns) except -1:
        """From now on report so; also callbacks that run now."""
        self.report = report
        self.limit_ns = limit_ns if report is not None else NEVER_NS
        return 0

    cdef int64_t begin(self, int kind, object what) except? -1:
        """A callback begins; returns the time, for end().  No user code."""
        return ul_monotonic_ns()

    cdef int end(self, object what, int64_t began_ns) except -1:
        """It is over; not called where it raised.  Runs user code if it was slow."""
        return self.check(what, ul_monotonic_ns() - began_ns)

    cdef int check(self, object what, int64_t took_ns) except -1:
        report = self.report
        if took_ns >= self.limit_ns and report is not None:
            report(what, took_ns / 1e9)
        return 0

    cdef int passed(self) noexcept:
        """Something was done between two callbacks that is none, and took time."""
        return 0


cdef class ReadyList(References):
    """Handlers that a wait found ready, in that order, each at most once."""

    cdef int append(self, FdHandler handler, short revents) except -1:
        """Queue a handler; one that is queued already only collects the new revents (nested loops)."""
        if handler.is_removed:
            return 0
        must_if(handler.is_queued, self.head != self.tail, "a handler that is queued is on the ready list")
        if handler.is_queued:
            handler.revents |= revents
            return 0
        self.put(handler)
        must_not(handler.is_removed, "a handler that is removed is not reported")
        handler.is_queued = True
        handler.revents = revents
        return 0

    cdef FdHandler pop(self):
        """The oldest handler; the list is not empty."""
        cdef FdHandler handler = <FdHandler>self.take()
        must(handler.is_queued, "a handler on the ready list is queued, once")
        handler.is_queued = False
        return handler


cdef class FDMonitor:
    """One way to learn of events on file descriptors.  One per context.

    The constructor acquires the kernel objects or raises MonitorUnavailable and leaves nothing behind.
    """

    name = "none"

    def __cinit__(self):
        self.handlers = {}

    cdef object get_engine(self):
        """The completion engine (`uring/engine`), for requests of all kinds; None where there is none."""
        return None

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        """Add (old None), change, or remove (new None) the interest in one fd.

        Afterwards `old` is never reported again, even if its event is queued.  May be lazy until the
        next wait.  Does not block, runs no user code.

        Raises: OSError (EBADF; EPERM for an fd that cannot be polled, such as a regular file) and then nothing
            changed.
        """
        raise NotImplementedError

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        """Append each ready handler once.

        Parameters:
            ready_list: filled; what is on it already stays.
            timeout_ns: -1 for ever, 0 without blocking, > 0 an upper bound in nanoseconds.

        May return early and with nothing, also on EINTR, so that Python's signal handlers run.  Releases the
        GIL.  Runs no user code.
        """
        raise NotImplementedError

    cdef bint need_wait(self) noexcept:
        """Whether wait(0) has work to do: completions queued, SQEs unsubmitted, lazy updates.

        A monitor that cannot know this from user space returns True.
        """
        return True

    cdef bint spin(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1:
        """Poll, without blocking and without system calls, until an event or the end of the time.

        Parameters:
            ready_list: may be filled, as by wait.
            notified: also over when this becomes true; other threads write it.
            until_ns: the end, on the monotonic clock.

        Returns: True when wait(0) has work to do.  Releases the GIL.  A monitor that cannot know from user space
            returns False at once.
        """
        return False

    cdef bint may_poll_by_default(self) noexcept:
        """Whether a loop may poll while that is measured to be cheap: one look takes the same for any number of fds."""
        return False

    cdef bint spin_with_calls(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1:
        """The same, also by system calls that do not block: only where its cost is measured."""
        return self.spin(ready_list, notified, until_ns)

    cdef long long received_bytes(self) noexcept:
        """How much the loop has received so far, as far as it counts that: by transports."""
        return self.n_bytes + self.n_other_bytes

    cdef bint has_undispatched(self) noexcept:
        """Whether completions are collected and wait for dispatch."""
        return False

    cdef int dispatch(self) except -1:
        """Run the completion callbacks that `wait` collected.  Runs user code.

        Returns: how many ran.
        """
        return 0

    cdef int submit(self) except -1:
        """Hand queued requests to the kernel now, without waiting and without running user code."""
        return 0

    cdef int begin_run(self) except -1:
        """The calling thread is going to run the loop; a monitor that is bound to threads moves here."""
        return 0

    cdef int settle(self) except -1:
        """The loop is going to stop: let nothing hang half-way in user space.  Runs no user code."""
        return 0

    cdef int make_pollable(self) except -1:
        """Make fileno() wake the thread that sleeps on it.  begin_run comes next.  Runs no user code.

        Raises: RuntimeError, MonitorUnavailable; then nothing changed.
        """
        return 0

    cdef bint gsource_prepare(self, ReadyList ready_list) except -1:
        """A foreign loop (GLib) is going to sleep on fileno(), or where that is -1 on the fds of all handlers.

        Queued requests are submitted, and their results put on the lists.  Does not block, runs no user code.

        Returns: True when wait(0) has more to do now, so that the foreign loop must not sleep.
        """
        return False

    cdef bint gsource_check(self, bint is_fd_ready) except -1:
        """The foreign loop is awake; also called when it did not sleep, or not after a prepare.

        Parameters:
            is_fd_ready: it saw fileno() readable, or any of the handlers' fds ready.

        Returns: whether wait(0), which dispatches here, has work to do.
        """
        return is_fd_ready

    cdef int fileno(self) noexcept:
        """An fd that is readable when a non-blocking wait would deliver; -1 where there is none.

        Before each sleep on it, call gsource_prepare, and then read anew which fd it is.
        """
        return -1

    cdef int count_into(self, dict numbers) except -1:
        """Add what this monitor has counted, under the names of the fields of Statistics (aiocontext/statistics.py)."""
        numbers.update(fdmon=self.name, handlers=len(self.handlers), syscalls=self.n_syscalls,
                       bytes_received=self.n_bytes)
        return 0

    cdef dict in_flight_kinds(self):
        """Class of a request -> how many of them the kernel has."""
        return {}

    cdef dict ring_facts(self):
        """Of the ring, by name; empty without one."""
        return {}

    cdef int close(self) except -1:
        """Idempotent: cancel everything, drain until nothing is in flight, close, only then release memory."""
        self.is_closed = True
        self.handlers.clear()
        return 0

    cdef int deliver_last(self) except -1:
        """The context is closed: notify those that wait for the end of their own request.  Runs user code."""
        return 0

    cdef int forget(self) except -1:
        """In a fork child: close our copies of the kernel objects without touching what the parent sees."""
        return self.close()

    cdef bint can_leave(self) except -1:
        """Whether no operation is under way that only the parent's kernel objects could end."""
        return True

    cdef int leave(self) except -1:
        """In a fork child: as `forget`, but the handlers stay, and `renew` watches for them with our own objects.

        The files of the fds are recorded: a daemon closes them all, and the numbers become other files'.
        Raises: nothing but MemoryError.  Runs no user code.
        """
        if self.left_files is None:
            self.left_files = {fd: identity(fd) for fd in self.handlers}
        return 0

    cdef int renew(self) except -1:
        """The first use after `leave`.  Handlers of fds that are other files by now are forgotten.

        Raises: OSError, MonitorUnavailable; then the monitor is as it was.
        """
        cdef FdHandler handler
        cdef dict left_files = self.left_files
        must_not(is_none(<void *>left_files), "what is renewed was left")
        for handler in list(self.handlers.values()):
            file = identity(handler.fd)
            if file is None or file != left_files.get(handler.fd):
                self.update(handler, None)
        self.left_files = None
        return 0


cdef object identity(int fd):
    """What identifies the file of an fd; None where no file is open."""
    cdef struct_stat st
    if fstat(fd, &st) < 0:
        return None
    return st.st_dev, st.st_ino


cdef int check_pollable(int fd) except -1:
    """Raise as epoll_ctl(2) would: EBADF, or EPERM for a file that cannot be polled.

    poll(2) and IORING_OP_POLL_ADD report such a file as always ready; asyncio on epoll refuses it.  A regular file
    according to stat(2) may be pollable (message queues, /proc/self/mounts, sysfs), so the kernel decides: the check
    that fd is not an epoll instance added to itself (EINVAL) comes after both of these checks, and before any change.
    In particular this does not query the file's events, which some files report only once.
    """
    cdef struct_stat st
    cdef int error
    epoll_ctl(fd, EPOLL_CTL_DEL, fd, NULL)
    error = errno
    if error != EINVAL and error != EBADF:
        # A sandbox without epoll refuses every call with EPERM or ENOSYS; it may have only poll(2) and io_uring.
        epoll_ctl(-1, EPOLL_CTL_DEL, -1, NULL)
        if errno != EBADF:
            if fstat(fd, &st) < 0:
                error = errno
            else:
                error = EPERM if S_ISREG(st.st_mode) or S_ISDIR(st.st_mode) or S_ISBLK(st.st_mode) else EINVAL
    if error != EINVAL:
        raise os_error(error)
    return 0
