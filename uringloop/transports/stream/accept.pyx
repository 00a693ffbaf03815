"""Accepting connections by one multishot ACCEPT per listening socket (since Linux 5.19).

Each completion is a new fd.  Without IORING_CQE_F_MORE the request is over and is armed again, unless it failed for
lack of resources (the owner tries again after a second, as asyncio does) or was closed.

An ACCEPT in flight holds the listener: closed by the program, it would still accept.  So an epoll set, which holds no
file, watches for the first connection and after each pause; while connections keep coming, the ACCEPT is in the ring.

Ownership: an fd in a completion is ours until a Connection has it; one that arrives after `close` is closed at once.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int32_t, uint32_t
from posix.unistd cimport close as close_fd
from cpython.contextvars cimport PyContext_CopyCurrent

from ...aio.context_core cimport ContextCore
from ...aio.handles cimport enter_context, leave_context
from ...fdmon.base cimport FdHandler, check_held, identity
from ...fdmon.io_uring cimport IoUringMonitor, MovableRequest
from ...liburing.liburing cimport *
from ...support.assertions cimport is_none, must, must_if
from ...support.errors cimport os_error
from ...support.system cimport POLLIN
from ..base cimport number_in
from .endpoint cimport Connection, Kind, connection_of


cdef extern from "<sys/socket.h>" nogil:
    int SOCK_CLOEXEC, SOCK_NONBLOCK


@cython.no_gc_clear
cdef class AcceptRequest(MovableRequest):
    """Multishot ACCEPT."""

    cdef int leave_ring(self) except -1:
        """Connections accepted already are delivered first; then the epoll set watches for the listener."""
        cdef Acceptor acceptor = self.acceptor
        if acceptor is None:
            return 0
        acceptor.engine.cancel(self)
        acceptor.is_quiet = True
        return 0

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef Acceptor acceptor = self.acceptor
        if acceptor is None:
            self.drop(res, flags)
            return 0
        self.used_at = acceptor.monitor.n_sweeps
        try:
            return acceptor.accepted(self, res, not flags & IORING_CQE_F_MORE)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # MemoryError: this connection is lost, and others follow
            if self.acceptor is not None:
                acceptor.report(None, error)
        return 0

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        if res >= 0:
            close_fd(res)


cdef class ListenerHandler(FdHandler):
    """The epoll set's view of a listener whose ACCEPT has left the ring."""

    cdef int on_ready(self, short revents) except -1:
        cdef Acceptor acceptor = self.acceptor
        try:
            return acceptor.woken()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # reported again, until there is memory
            return acceptor.report(None, error)


cdef class Acceptor:
    """Accept on a listening socket until closed.

    Parameters:
        aio_context: the one whose io_uring monitor to use.
        listener: the listening socket; borrowed until close.
        kind: that of the accepted connections.
        on_accept: called with (Connection, None, argument) for each one, and with (None, error, argument): an OSError
            once when accepting ended, anything else when a single connection was lost.  In a copy of the current
            context, also in a nested turn made by another call of it.
        argument: passed through.
    """

    def __cinit__(self, ContextCore aio_context not None, listener, Kind kind not None, on_accept, argument):
        self.guard = aio_context.guard
        self.monitor = <IoUringMonitor>aio_context.monitor
        self.engine = self.monitor.engine
        self.listener = listener
        self.fd = listener.fileno()
        self.fd_at = number_in(listener, self.fd)
        if self.fd_at == NULL:
            self.fd_at = &self.fd
        self.kind = kind
        self.aio_ctx = PyContext_CopyCurrent()
        self.on_accept = on_accept
        self.argument = argument
        self.file = identity(self.fd)
        self.is_quiet = True
        self.arm(AcceptRequest())

    cdef int arm(self, AcceptRequest request) except -1:
        """Arm `request`, which is new or over: arming it again needs no memory."""
        cdef io_uring_sqe *sqe
        must(is_none(<void *>self.request), "one ACCEPT at a time is armed for a listener")
        must(is_none(<void *>request.owner), "an ACCEPT that is armed is new, or over")
        if self.is_quiet and self.watch_idle(request):
            return 0
        sqe = self.engine.get_sqe()
        request.acceptor = self
        io_uring_prep_multishot_accept(sqe, self.fd_at[0], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)
        self.engine.add(request, sqe)
        self.request = request
        self.monitor.may_last(request)
        return self.engine.submit()  # the program may close the listener before this turn ends

    cdef bint watch_idle(self, AcceptRequest request) except -1:
        """No connection for long: let the epoll set watch, which holds no file.  False: it cannot."""
        cdef ListenerHandler handler
        self.is_quiet = False
        try:
            if self.is_closed_by_program():
                return True  # for ever: no connection is reported any more
            handler = ListenerHandler(self.fd, POLLIN)
            handler.acceptor = self
            self.monitor.rest(None, handler)
        except (OSError, MemoryError):
            return False  # no epoll, or no room in the set: the ring holds the file then
        self.idle, self.idle_request = handler, request
        return True

    cdef int end_idle(self) except -1:
        cdef ListenerHandler handler = self.idle
        self.idle = None
        return self.monitor.rest(handler, None) if handler is not None else 0

    cdef int woken(self) except -1:
        if self.is_closed_by_program():  # and a duplicate is open
            return self.end_idle()
        self.arm(self.idle_request)
        return self.end_idle()

    cdef bint is_closed_by_program(self) except -1:
        """Whether the number may be another file's by now."""
        return self.fd_at[0] != self.fd or identity(self.fd) != self.file

    cdef int report(self, Connection connection, object error) except -1:
        cdef object aio_ctx = self.aio_ctx
        left = enter_context(aio_ctx)
        try:
            self.on_accept(connection, error, self.argument)
        finally:
            check_held(self)
            leave_context(aio_ctx, left)
        return 0

    cdef int accepted(self, AcceptRequest request, int32_t res, bint is_over) except -1:
        cdef Connection connection = None
        # -ECANCELED: a broad cancel by the program, or the loop moved to another thread
        must_if(is_over, is_none(<void *>request.owner), "an ACCEPT that is over is on no list")
        cdef bint goes_on = res >= 0 or res in (-EAGAIN, -EINTR, -ECONNABORTED, -ECANCELED)
        if self.fd_at[0] != self.fd:
            # The program closed the listener; only our request still has it, and asyncio accepts nothing more.
            if is_over:
                self.request = None
            request.drop(res, 0)
            self.close()
            return 0
        if res >= 0:
            self.is_quiet = False
        try:
            if res >= 0:
                connection = connection_of(res, self.kind)
        finally:
            if is_over:
                self.request = None
                if goes_on:
                    self.arm(request)
        if connection is not None:
            self.report(connection, None)
        elif not goes_on:
            self.report(None, os_error(-res))
        return 0

    def close(self):
        """Accept nothing more.  The kernel releases the listening socket before this returns.

        A request in flight would keep a closed listener accepting; submitting at once also makes sure that
        no SQE names the fd after its owner closed it.
        """
        self.end_idle()
        request, self.request = self.request, None
        if request is not None:
            (<AcceptRequest>request).acceptor = None
            self.engine.cancel(request)
            self.engine.submit()
