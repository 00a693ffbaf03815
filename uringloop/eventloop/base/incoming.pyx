"""Connections on their way from a listening socket to the application.

Compiled, because a server of short connections runs little else: as Python functions, these took half of the
instructions that a connection costs in user space.  ServeMixin has the functions of this module as methods.

Thread: the loop's.
"""

from libc.errno cimport ECONNABORTED
from cpython.object cimport PyObject

from ...support.errors cimport os_error
from ...transports.stream.endpoint cimport Connection
from ...transports.stream.transport cimport StreamTransport

import asyncio
from asyncio.log import logger

from ...transports.plain import ORIGINAL, STREAM_METHODS, is_class_plain, is_plain
from ...transports.stream.classes import _SelectorSocketTransport
from ...transports.stream.wire import ReadinessWire

try:
    from ...transports.stream.ring_wire import RingWire
except ImportError:  # a build without liburing: no monitor has requests
    RingWire = None

cdef extern from "../../support/type_tag.h":
    unsigned ul_tag_of(PyObject *type) noexcept

# Since Python 3.13 a server knows its connections, before it only counts them.
cdef bint KNOWS_CLIENTS = hasattr(asyncio.Server, "close_clients")
cdef object ACCEPTED_CLASS = _SelectorSocketTransport


cdef class Listening:
    """A listening socket, and the settings of its connections.

    Parameters: those of ServeMixin._start_serving.
    """

    cdef readonly tuple arguments
    cdef readonly object protocol_factory
    cdef readonly object sock
    cdef readonly object sslcontext
    cdef readonly object server
    cdef readonly object backlog
    cdef readonly object handshake_timeout
    cdef readonly object shutdown_timeout
    cdef readonly object context       # each connection gets a copy; None before Python 3.15
    cdef unsigned plain_tag            # of socket.socket when its methods were Python's own

    def __init__(self, *arguments):
        self.arguments = arguments
        (
            self.protocol_factory,
            self.sock,
            self.sslcontext,
            self.server,
            self.backlog,
            self.handshake_timeout,
            self.shutdown_timeout,
            self.context,
        ) = arguments

    cdef bint has_plain_sockets(self) except -1:
        """Whether socket.socket still has its own methods; looked up again when the class has changed."""
        cdef unsigned tag = ul_tag_of(<PyObject *>ORIGINAL) if ORIGINAL is not None else 0
        if tag and tag == self.plain_tag:
            return True
        if not is_class_plain(STREAM_METHODS):
            return False
        self.plain_tag = tag
        return True


cdef class Accepted:
    """An accepted connection that the application does not know yet.

    Its server counts it: it will be served even if the server is closed meanwhile, and wait_closed() waits for it.
    If serving it fails on the way, for lack of memory, it is closed and no longer counted.

    Parameters:
        loop: the one whose server accepted it.
        connection: a Connection, or a socket.
        extra: what get_extra_info() returns for a socket, a dict.
        listening: the Listening that accepted it.
    """

    cdef object __weakref__
    cdef object loop
    cdef object connection
    cdef object extra
    cdef object context                # a copy of the server's; None before Python 3.15
    cdef Listening listening
    cdef bint is_counted

    def __cinit__(self, loop, connection, extra, Listening listening not None):
        self.loop = loop
        self.connection = connection
        self.extra = extra
        self.listening = listening

    cdef int count(self) except -1:
        server = self.listening.server
        if server is not None:
            attach(server, self)
            self.is_counted = True
        return 0

    cdef int uncount(self) except -1:
        if self.is_counted:
            self.is_counted = False
            detach(self.listening.server, self)
        return 0

    def __del__(self):
        if self.is_counted:
            try:
                if self.connection is not None:
                    self.connection.close()
            finally:
                self.uncount()

    def close(self):
        """Also called by Server.close_clients()."""
        connection, self.connection = self.connection, None
        if connection is not None:  # once only: the server knows this object until its turn comes
            connection.close()

    def abort(self):
        self.close()


cdef int attach(object server, object client) except -1:
    if KNOWS_CLIENTS:
        server._attach(client)
    else:
        server._attach()
    return 0


cdef int detach(object server, object client) except -1:
    if KNOWS_CLIENTS:
        server._detach(client)
    else:
        server._detach()
    return 0


def attach_transport(self, server, transport):
    """The server counts the transport."""
    attach(server, transport)


def detach_transport(self, server, transport):
    detach(server, transport)


def transport_closed(self, transport, server):
    """connection_lost was called and the socket closed."""
    if server is not None:
        detach(server, transport)


def accepted(self, connection, error, Listening listening not None):
    """A new Connection, or an exception instead."""
    if error is not None:
        self._accept_failed(error, listening)
        return
    extra = None
    try:
        if (
            listening.sslcontext is not None and listening.sslcontext
            or self._debug
            or not (<Connection?>connection).kind.is_known
            or not listening.has_plain_sockets()
        ):
            extra = {"peername": connection.peer(), "sockname": connection.name()}
            connection = connection.socket()
        serve_later(self, connection, extra, listening)
    except BaseException:
        connection.close()
        raise


def serve_later(self, connection, extra, Listening listening not None):
    """The application is given the connection three turns from now; by stock asyncio in two.

    A server that shuts down closes the connections that it knows and that have no request yet (uvicorn does; the
    request is lost), and serves those that it is given later.  What shuts it down is often a task that waits for a
    timer.  One that was due in the wait that accepted the connection runs the task in the next turn; one that became
    due while connections were accepted, in the turn after that, where protocol and transport are made.
    connection_made() is called in the third, after what the protocol's factory and other threads scheduled until
    then, and the request is read at the end of that turn.
    """
    cdef Accepted waiting
    server, context = listening.server, listening.context
    if server is not None and server._sockets is None:
        connection.close()  # the kernel accepted it before the server was closed
        return
    if self._debug:
        logger.debug("%r got a new connection from %r: %r", server, extra["peername"], connection)
    if listening.sslcontext:
        call_in_copy(context, self._serve_tls, connection, extra, listening)
        return
    waiting = Accepted(self, connection, extra, listening)
    try:
        waiting.count()
        # by a task in stock asyncio, which is made in this turn and schedules connection_made() in the next
        if context is None:
            self.call_soon(self._serve_soon, waiting)
        else:
            context = waiting.context = context.copy()
            context.run(serve_in, self, waiting)
    except BaseException:
        waiting.uncount()  # at once: keeping the exception keeps this frame
        raise


def call_in_copy(context, function, *arguments):
    """Call it in a copy of a context, which is also the last argument; None, before Python 3.15: in the current one."""
    if context is None:
        function(*arguments, None)
    else:
        context = context.copy()
        context.run(function, *arguments, context)


def serve_in(self, Accepted waiting not None):
    self.call_soon(self._serve_soon, waiting, context=waiting.context)


def serve_soon(self, Accepted waiting not None):
    if waiting.context is None:
        self.call_soon(self._serve, waiting)
    else:
        self.call_soon(self._serve, waiting, context=waiting.context)


def serve(self, Accepted waiting not None):
    """Make protocol and transport of a connection."""
    cdef object context = waiting.context
    cdef Listening listening = waiting.listening
    cdef StreamTransport transport = None
    server = listening.server
    # the factory may call Server.close_clients(), to which asyncio's connection is not known yet
    connection, waiting.connection = waiting.connection, None
    protocol = None
    try:
        if connection is None:  # by Server.close_clients()
            raise os_error(ECONNABORTED)
        protocol = listening.protocol_factory()
        connection_made = protocol.connection_made  # as asyncio: an object that is no protocol fails here
        if not isinstance(connection, Connection) and not is_plain(connection, STREAM_METHODS):
            self._new_stock_transport(connection, protocol, None, waiting.extra, server, context)
            waiting.uncount()
            return
        transport = ACCEPTED_CLASS.__new__(ACCEPTED_CLASS)
        if isinstance(connection, Connection):
            transport._take_connection(connection)
        else:
            transport._take_socket(connection, waiting.extra, self._is_given(connection))
        self._prepare_transport(transport, protocol, server, context, waiting if server is not None else None)
        try:
            transport._start(connection_made, None)
        except BaseException:  # MemoryError
            if server is not None:
                detach(server, transport)
            raise
    except BaseException as failure:
        if connection is not None:
            connection.close()  # where the transport did not take it
        if transport is not None:
            transport._close_socket()
        waiting.uncount()
        self._refused(failure, protocol)


def prepare_transport(self, StreamTransport transport not None, protocol, server, context, Accepted waiting=None):
    """Set up a transport that has its socket, without starting it; on failure close the socket.

    Parameters:
        waiting: the Accepted that the server counts until now.
    """
    cdef int fd = transport.fd
    try:
        transport._setup(self, self.aio_context, protocol, server, context)
        # a record must be received whole, which the ring's provided buffers do not promise
        by_ring = self.supports_sqe and not transport.keeps_records
        transport._attach_wire((RingWire if by_ring else ReadinessWire)(transport, fd))
        self._transports[fd] = transport
        if waiting is not None:
            if KNOWS_CLIENTS:
                # not by its methods, which refuse a server that was closed meanwhile
                server._clients.add(transport)
                server._clients.discard(waiting)
            waiting.is_counted = False  # the transport counts in its place
        elif server is not None:
            attach(server, transport)
    except BaseException:
        transport._close_socket()
        raise
