"""The base of stream and datagram transports: protocol, flow control, failing; where a socket keeps its number; and the
table of a loop's transports.

asyncio's methods that both have are here where their bodies are the same.  The meaning and lifetime of `extra`, `sock`
and `fd` are up to the subclass.

Thread: the loop's.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memset
from cpython.object cimport PyObject
from cpython.weakref cimport PyWeakref_NewRef

from ..fdmon.base cimport Subject
from ..support.assertions cimport must, must_if, must_not, references_of
from ..support.capi cimport decref
from ..support.guard cimport FREE_THREADED, know_weakly, try_incref

import _socket
import warnings

from asyncio.log import logger

# C variables: module globals may be gone when the interpreter ends
cdef object warn = warnings.warn
cdef type compiled_socket = _socket.socket


cdef int warn_unclosed(object transport) except -1:
    """For the finalizer of a transport that was not closed."""
    warn(f"unclosed transport {transport!r}", ResourceWarning, source=transport)
    return 0


cdef const int *number_in(object sock, int fd) noexcept:
    """Where a socket.socket keeps its number, and -1 once it is closed; NULL for another type.

    `sock_fd` is the first field of the object in all versions of CPython; that it holds the number is checked.
    """
    cdef const int *at
    if not isinstance(sock, compiled_socket):
        return NULL
    at = <const int *>(<const char *><PyObject *>sock + sizeof(PyObject))
    return at if at[0] == fd else NULL


cdef bint has_lost(object sock, int fd) noexcept:
    """Whether a socket.socket was closed or detached since it had this number; False for another type."""
    return isinstance(sock, compiled_socket) and number_in(sock, fd) == NULL


cdef int call_flow_control(object loop, object transport, object protocol, str name, object owner) except -1:
    """Call the protocol's pause_writing or resume_writing; an exception is reported as one of the `owner` protocol.

    The caller owns the arguments: the connection may end in a turn that the protocol makes.
    """
    if protocol is None:
        return 0
    try:
        getattr(protocol, name)()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        loop.call_exception_handler({
            "message": f"protocol.{name}() failed",
            "exception": error,
            "transport": transport,
            "protocol": owner,
        })
    return 0


cdef class Transport(Flushable):
    """Owner of a socket, which calls a protocol.  Until setup() it is a transport whose connection is lost."""

    def __cinit__(self, *args, **kwargs):
        self.fd = -1
        self.fd_at = &self.fd
        self.conn_lost = 1

    def __dealloc__(self):
        self.leave_table()

    cdef void leave_table(self) noexcept:
        """It is not found by its number any more; called when that is closed, and by __del__ at the latest."""
        cdef TransportTable table = self.table
        if table is None:
            return
        must(self.table_fd < table.capacity, "the table that has a transport has room for it")
        if table.by_fd[self.table_fd] == <PyObject *>self:
            table.by_fd[self.table_fd] = NULL
        self.table = None

    cdef object recorded_as(self):
        protocol = self.protocol
        if isinstance(protocol, Subject):  # TLS
            return (<Subject>protocol).recorded_as()
        return type(self) if protocol is None else type(protocol)

    # -- the protocol ----------------------------------------------------------------------------------

    def set_protocol(self, protocol):
        self.protocol = protocol

    def get_protocol(self):
        return self.protocol

    # -- reading and flow control ----------------------------------------------------------------------

    def is_reading(self):
        return not self.is_closing_ and not self.is_paused

    def get_write_buffer_limits(self):
        return (self.low_bytes, self.high_bytes)

    cdef int pause_protocol(self) except -1:
        must(self.low_bytes <= self.high_bytes, "a protocol that is paused can be resumed")
        if self.is_protocol_paused:
            return 0
        self.is_protocol_paused = True
        self.aio_context.n_write_pauses += 1
        loop, protocol = self.loop, self.protocol
        return call_flow_control(loop, self, protocol, "pause_writing", protocol)

    cdef int resume_protocol(self) except -1:
        # as asyncio, which has no writer by then: not once connection_lost was called, or will be
        if not self.is_protocol_paused or self.conn_lost:
            return 0
        self.is_protocol_paused = False
        loop, protocol = self.loop, self.protocol
        return call_flow_control(loop, self, protocol, "resume_writing", protocol)

    # -- the end ---------------------------------------------------------------------------------------

    def is_closing(self):
        return self.is_closing_

    def abort(self):
        self.force_close(None)

    cdef int force_close(self, object error) except -1:
        """Discard the queue; connection_lost(error) is called in the next turn."""
        raise NotImplementedError

    cdef int fatal_error(self, object error, str message) except -1:
        """As asyncio: network errors are only passed to connection_lost, all others are also reported."""
        if self.loop is None:
            return 0
        must_not(self.fd_at == NULL, "a transport's socket has a place for its number")
        if isinstance(error, OSError):
            if self.loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self.loop.call_exception_handler({
                "message": message,
                "exception": error,
                "transport": self,
                "protocol": self.protocol,
            })
        return self.force_close(error)

    @property
    def _fd(self):
        """The number, for the loop; asyncio's `_sock_fd` means that the program wants to use the socket."""
        return self.fd

    # -- what asyncio's own modules access -------------------------------------------------------------

    def _force_close(self, error):
        self.force_close(error)

    def _fatal_error(self, error, message="Fatal error on transport"):
        self.fatal_error(error, message)

    @property
    def _loop(self):
        return self.loop

    @property
    def _protocol(self):
        return self.protocol

    @property
    def _closing(self):
        return self.is_closing_

    @property
    def _conn_lost(self):
        return self.conn_lost

    @property
    def _paused(self):
        return self.is_paused

    @property
    def _protocol_paused(self):
        return self.is_protocol_paused


cdef class TransportTable:
    """Which transport has an fd: a mapping of numbers to transports that are alive, without owning them.

    Ours are in an array, which costs less than a weak reference for each.  They leave it when they close their socket,
    and in __del__, which is called before anything of them is freed or cleared.  The others are asyncio's own, for
    sockets that are not plain (plain.py).

    Invariant: what is in the array is alive, and has this table and its place there.
    """

    def __cinit__(self, ContextCore aio_context not None):
        self.guard = aio_context.guard

    def __dealloc__(self):
        # each transport that is in the array owns a reference to the table
        free(self.by_fd)

    cdef int reserve(self, int fd) except -1:
        """Make room for this number."""
        cdef int capacity = max(64, self.capacity)
        cdef PyObject **grown
        while capacity <= fd:
            capacity *= 2
        if capacity == self.capacity:
            return 0
        grown = <PyObject **>realloc(self.by_fd, capacity * sizeof(PyObject *))
        if grown == NULL:
            raise MemoryError()
        memset(grown + self.capacity, 0, (capacity - self.capacity) * sizeof(PyObject *))
        self.by_fd, self.capacity = grown, capacity
        return 0

    def __setitem__(self, int fd, transport):
        cdef Transport ours
        if not isinstance(transport, Transport):
            if self.others is None:
                self.others = {}
            self.others[fd] = PyWeakref_NewRef(transport, None)
            if fd < self.capacity:
                self.by_fd[fd] = NULL
            return
        if fd < 0:
            raise ValueError("a transport has a number")
        ours = transport
        self.reserve(fd)
        if self.others is not None:
            self.others.pop(fd, None)
        ours.leave_table()
        ours.table, ours.table_fd = self, fd
        know_weakly(ours)
        self.by_fd[fd] = <PyObject *>ours
        must_if(self.by_fd[fd] != NULL, references_of(self.by_fd[fd]) > 0, "a transport in the table is alive")

    def __getitem__(self, fd):
        transport = self.get(fd)
        if transport is None:
            raise KeyError(fd)
        return transport

    def __contains__(self, fd):
        return self.get(fd) is not None

    def __len__(self):
        return len(self.fds())  # list(self) would call this first

    def __iter__(self):
        return iter(self.fds())

    cdef list fds(self):
        cdef int fd
        found = [fd for fd in range(self.capacity) if self.by_fd[fd] != NULL]
        if self.others is not None:
            found += [number for number, reference in self.others.items() if reference() is not None]
        return found

    def get(self, fd, default=None):
        # asyncio passes any int of the program: not all are C ints
        cdef PyObject *ours = NULL
        if isinstance(fd, int) and 0 <= fd < self.capacity:
            ours = self.by_fd[<int>fd]
        if ours != NULL:
            must_if(not FREE_THREADED, references_of(ours) > 0, "a transport in the table is alive")
            # Without a GIL another thread may have dropped the last reference to it; then it waits in __del__ for us.
            if try_incref(ours):
                transport = <object>ours
                decref(ours)  # taken by try_incref
                return transport
            return default
        reference = None if self.others is None else self.others.get(fd)
        transport = None if reference is None else reference()
        return default if transport is None else transport
