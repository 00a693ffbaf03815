# Accepting connections by multishot ACCEPT.
from libc.stdint cimport int32_t, uint32_t

from ...fdmon.base cimport FdHandler
from ...fdmon.io_uring cimport IoUringMonitor, MovableRequest
from ...uring.engine cimport Engine
from .endpoint cimport Connection, Kind

cdef class AcceptRequest(MovableRequest):
    cdef Acceptor acceptor           # None when orphaned: accepted fds are closed

cdef class ListenerHandler(FdHandler):
    cdef Acceptor acceptor

cdef class Acceptor:
    cdef object guard                # the context's; see support/guard.h
    cdef IoUringMonitor monitor
    cdef Engine engine
    cdef AcceptRequest request       # armed, or None
    cdef object aio_ctx              # contextvars.Context in which on_accept is called
    cdef object on_accept            # on_accept(Connection or None, error or None, argument)
    cdef object argument
    cdef object listener             # the listening socket, borrowed
    cdef int fd                      # its number at the start
    cdef const int *fd_at            # where the number is now: see transports/stream/endpoint
    cdef Kind kind                   # of the accepted connections
    cdef object file                 # the identity of its file
    cdef bint is_quiet               # the next ACCEPT does not begin in the ring
    cdef ListenerHandler idle        # the epoll set's handler in its place, or None
    cdef AcceptRequest idle_request  # is armed again then
    cdef bint watch_idle(self, AcceptRequest request) except -1
    cdef int end_idle(self) except -1
    cdef int woken(self) except -1
    cdef bint is_closed_by_program(self) except -1
    cdef int arm(self, AcceptRequest request) except -1
    cdef int report(self, Connection connection, object error) except -1
    cdef int accepted(self, AcceptRequest request, int32_t res, bint is_over) except -1
