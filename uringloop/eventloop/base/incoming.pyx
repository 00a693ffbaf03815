"""Connections on their way from a listening socket to the application.

Compiled, because a server of short connections runs little else: as Python functions, these took half of the
instructions that a connection costs in user space.  ServeMixin has the functions of this module as methods.

Thread: the loop's.
"""

from libc.errno cimport ECONNABORTED
from cpython.object cimport PyObject

from ...support.errors cimport os_error
from ...support.probes cimport ul_probe_accept
from ...transports.stream.endpoint cimport Connection, Kind, accept
from ...transports.stream.transport cimport StreamTransport, attach_to, detach_from, replace_client
from ...transports.stream.wire cimport Wire
from .loop_core cimport LoopCore

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

cdef extern from *:
    """
    static PyObject *ul_new(PyObject *type, PyObject *no_arguments)
    {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, no_arguments, NULL);
    }
    """
    object ul_new(object type, tuple no_arguments)   # type.__new__(type), which looks for it in the class

cdef object ACCEPTED_CLASS = _SelectorSocketTransport
cdef object ring_wire_class = RingWire
cdef object readiness_wire_class = ReadinessWire
cdef tuple no_arguments = ()


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
    cdef Py_ssize_t n_likely           # connections that wait when there are some, as far as is known; 0: not at all
    cdef unsigned long long full_turn  # in which there were at least so many

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
    """

    cdef object __weakref__
    cdef object connection             # a Connection, or a socket
    cdef object extra                  # what get_extra_info() returns for a socket, a dict
    cdef object context                # a copy of the server's; None before Python 3.15
    cdef Listening listening           # that accepted it
    cdef bint is_counted

    cdef int count(self) except -1:
        server = self.listening.server
        if server is not None:
            attach_to(server, self)
            self.is_counted = True
        return 0

    cdef int uncount(self) except -1:
        if self.is_counted:
            self.is_counted = False
            detach_from(self.listening.server, self)
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


def detach_transport(self, server, transport):
    """The server no longer counts the transport."""
    detach_from(server, transport)


def accepted(LoopCore self not None, connection, error, Listening listening not None):
    """A new Connection, or an exception instead."""
    if error is not None:
        self._accept_failed(error, listening)
        return
    extra = None
    ul_probe_accept((<Connection?>connection).fd)
    try:
        if (
            listening.sslcontext is not None and listening.sslcontext
            or self.is_debug
            or not (<Connection>connection).kind.is_known
            or not listening.has_plain_sockets()
        ):
            extra = {"peername": connection.peer(), "sockname": connection.name()}
            connection = connection.socket()
        begin_serving(self, connection, extra, listening)
    except BaseException:
        connection.close()
        raise


def accept_ready(LoopCore self not None, listener, Kind kind not None, Listening listening not None):
    """Readiness monitors: accept the connections in the backlog.

    Mostly one waits, and to ask for the next costs as much as to accept one.  If there are more than was likely, the
    next wait reports them at once; then twice as many are.
    """
    cdef Connection connection
    cdef Py_ssize_t i, most = listening.backlog
    cdef unsigned long long turn = self.aio_context.n_turns
    if listening.n_likely:
        most = min(most, listening.n_likely if listening.full_turn + 1 != turn else 2 * listening.n_likely)
    for i in range(most):
        try:
            connection = accept(listener.fileno(), kind)
        except OSError as error:
            self._accept_failed(error, listening)
            return
        if connection is None:
            listening.n_likely = max(i, 1)
            return
        accepted(self, connection, None, listening)
        if listener.fileno() < 0:
            return  # the protocol factory closed the server
    listening.n_likely = max(most, 1)
    listening.full_turn = turn


def serve_later(LoopCore self not None, connection, extra, Listening listening not None):
    """The same for a connection that is a socket."""
    begin_serving(self, connection, extra, listening)


cdef int begin_serving(LoopCore self, object connection, object extra, Listening listening) except -1:
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
        return 0
    if self.is_debug:
        logger.debug("%r got a new connection from %r: %r", server, extra["peername"], connection)
    if listening.sslcontext:
        call_in_copy(context, self._serve_tls, connection, extra, listening)
        return 0
    waiting = Accepted.__new__(Accepted)
    waiting.connection = connection
    waiting.extra = extra
    waiting.listening = listening
    try:
        waiting.count()
        # by a task in stock asyncio, which is made in this turn and schedules connection_made() in the next
        if context is not None:
            context = waiting.context = context.copy()
        self.call_own_soon(serve_soon, self, waiting, context)
    except BaseException:
        waiting.uncount()  # at once: keeping the exception keeps this frame
        raise
    return 0


def call_in_copy(context, function, *arguments):
    """Call it in a copy of a context, which is also the last argument; None, before Python 3.15: in the current one."""
    if context is None:
        function(*arguments, None)
    else:
        context = context.copy()
        context.run(function, *arguments, context)


def serve_soon(LoopCore self not None, Accepted waiting not None):
    self.call_own_soon(serve, self, waiting, waiting.context)


def serve(LoopCore self not None, Accepted waiting not None):
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
        transport = ul_new(ACCEPTED_CLASS, no_arguments)
        if isinstance(connection, Connection):
            transport.take_connection(connection)
        else:
            transport._take_socket(connection, waiting.extra, self._is_given(connection))
        prepare(self, transport, protocol, server, context, waiting if server is not None else None)
        try:
            transport.start(connection_made, None)
        except BaseException:  # MemoryError
            if server is not None:
                detach_from(server, transport)
            raise
    except BaseException as failure:
        if connection is not None:
            connection.close()  # where the transport did not take it
        if transport is not None:
            transport._close_socket()
        waiting.uncount()
        self._refused(failure, protocol)


def prepare_transport(LoopCore self not None, StreamTransport transport not None, protocol, server, context):
    """Set up a transport that has its socket, without starting it; on failure close the socket."""
    prepare(self, transport, protocol, server, context, None)


cdef int prepare(LoopCore self, StreamTransport transport, object protocol, object server, object context,
                 Accepted waiting) except -1:
    """The same for an accepted connection.

    Parameters:
        waiting: the Accepted that the server counts until now; or None.
    """
    cdef int fd = transport.fd
    cdef Wire wire
    try:
        transport.setup(self, self.aio_context, protocol, server, context)
        # a record must be received whole, which the ring's provided buffers do not promise
        by_ring = self.aio_context.engine is not None and not transport.keeps_records
        wire = ul_new(ring_wire_class if by_ring else readiness_wire_class, no_arguments)
        wire.begin(transport, fd)
        transport.wire = wire
        self._transports[fd] = transport
        if waiting is not None:
            replace_client(server, waiting, transport)
            waiting.is_counted = False  # the transport counts in its place
        elif server is not None:
            attach_to(server, transport)
    except BaseException:
        transport._close_socket()
        raise
    return 0
