"""Listening sockets and the transports of new connections; what runs for each of them: base/incoming."""

from __future__ import annotations

import _socket
import asyncio
import errno
import functools
import posix
import weakref
from asyncio import constants, exceptions, trsock
from asyncio.log import logger
from typing import TYPE_CHECKING, Any

from ..transports import stock
from ..transports.plain import DATAGRAM_METHODS, STREAM_METHODS, is_original, is_plain
from ..transports.stream.classes import _SelectorSocketTransport
from ..transports.stream.endpoint import Kind
from .base import incoming
from .base.incoming import Listening
from .base.part import LoopPart
from .stdlib_hooks import StdlibHooks
from .tls import load_tls

if TYPE_CHECKING:
    import contextvars
    import socket
    import ssl
    from collections.abc import Callable

try:
    from ..transports.stream.accept import Acceptor
    from ..transports.stream.ring_wire import RingWire
except ImportError:  # a build without liburing: no monitor has requests
    RingWire = Acceptor = None

# Errors of accept(2) when a resource has run out; asyncio waits a second and tries again.
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _load_datagrams() -> Any:
    """The class of datagram transports, loaded on first use.  Raises: ImportError, OSError."""
    from ..transports.datagram.classes import _SelectorDatagramTransport

    return _SelectorDatagramTransport


def _describe(sock: socket.socket, extra: dict[str, Any] | None) -> dict[str, Any]:
    """What get_extra_info() returns for a socket besides the socket itself; in `extra`, if that is a dict."""
    extra = {} if extra is None else extra
    try:
        extra["sockname"] = sock.getsockname()
    except OSError:
        extra["sockname"] = None
    if "peername" not in extra:
        try:
            extra["peername"] = sock.getpeername()
        except OSError:
            extra["peername"] = None
    return extra


class ServeMixin(LoopPart):
    """The part of Loop that makes transports and accepts connections."""

    _accepted = incoming.accepted
    _accept_ready = incoming.accept_ready
    _detach = incoming.detach_transport
    _prepare_transport = incoming.prepare_transport
    _serve_later = incoming.serve_later

    # Accepts on the sockets of a LoopGroup of which this loop is a member: group/balancer.pyx has serve(),
    # stop_serving(), before_handshake().
    _seat: Any = None

    # -- sockets that the program made: it may still use them, also through an fd or an earlier duplicate -----------

    # A WeakSet, made for the first one: it takes a while to make, and few loops need it.
    _given_sockets: Any = frozenset()

    def _note_given(self, sock: object) -> None:
        if isinstance(sock, _socket.socket):
            if not self._given_sockets:
                self._given_sockets = weakref.WeakSet()
            self._given_sockets.add(sock)

    def _note_arguments(self, kwargs: dict[str, Any]) -> None:
        """Of a call that makes connections."""
        if kwargs.get("ssl"):
            load_tls()
        self._note_given(kwargs.get("sock"))

    def _is_given(self, sock: object) -> bool:
        return not isinstance(sock, _socket.socket) or sock in self._given_sockets

    @functools.wraps(asyncio.BaseEventLoop.create_connection)
    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self._note_arguments(kwargs)
        return await super().create_connection(*args, **kwargs)

    @functools.wraps(StdlibHooks.create_unix_connection)
    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        self._note_arguments(kwargs)
        return await super().create_unix_connection(*args, **kwargs)

    @functools.wraps(asyncio.BaseEventLoop.connect_accepted_socket)
    async def connect_accepted_socket(self, protocol_factory: Any, sock: Any, **kwargs: Any) -> Any:
        self._note_arguments({"sock": sock, **kwargs})
        return await super().connect_accepted_socket(protocol_factory, sock, **kwargs)

    @functools.wraps(asyncio.BaseEventLoop.create_datagram_endpoint)
    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        _load_datagrams()
        self._note_given(kwargs.get("sock"))
        return await super().create_datagram_endpoint(*args, **kwargs)

    # -- transports ------------------------------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        """A transport for a connected socket, which it owns from now on."""
        self._ensure_fd_no_transport(sock.fileno())
        return self._new_socket_transport(sock, protocol, waiter, extra, server, context)

    def _new_stock_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any,
        extra: Any,
        server: Any,
        context: contextvars.Context | None,
    ) -> Any:
        """asyncio's own, which calls the methods of the socket; it notifies the server by itself."""
        since_3_15 = {} if context is None else {"context": context}
        return stock.Stream(self, sock, protocol, waiter, extra, server, **since_3_15)

    def _new_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any,
        extra: Any,
        server: Any,
        context: contextvars.Context | None,
    ) -> Any:
        """The same where the fd cannot have a transport yet."""
        connection_made = protocol.connection_made  # as asyncio: an object that is no protocol fails here
        if not is_plain(sock, STREAM_METHODS):
            return self._new_stock_transport(sock, protocol, waiter, extra, server, context)
        transport = _SelectorSocketTransport.__new__(_SelectorSocketTransport)
        transport._take_socket(sock, extra, self._is_given(sock))
        self._start_transport(transport, connection_made, protocol, waiter, server, context)
        return transport

    def _start_transport(
        self,
        transport: Any,
        connection_made: Callable[..., object],
        protocol: Any,
        waiter: Any,
        server: Any,
        context: contextvars.Context | None,
    ) -> None:
        """Start a transport that has its socket; on failure close the socket and detach it from the server."""
        self._prepare_transport(transport, protocol, server, context)
        try:
            transport._start(connection_made, waiter)
        except BaseException:
            transport._close_socket()
            if server is not None:
                self._detach(server, transport)
            raise

    def _make_datagram_transport(
        self, sock: socket.socket, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        """A transport for a datagram socket, which it owns from now on."""
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        if not is_plain(sock, DATAGRAM_METHODS):
            return stock.Datagram(self, sock, protocol, address, waiter, extra)
        transport_class = _load_datagrams()
        transport = transport_class.__new__(transport_class)
        transport._setup(
            self, self.aio_context, sock, protocol, address, _describe(sock, extra), self._is_given(sock)
        )
        self._transports[fd] = transport
        transport._start(waiter)
        return transport

    # -- sendfile --------------------------------------------------------------------------------------

    async def _sendfile_native(self, transport: Any, file: Any, offset: int, count: int | None) -> Any:
        """BaseEventLoop.sendfile calls this: earlier writes are sent first, and nothing is read meanwhile.

        The transport refuses writes as long as it has an empty waiter.  The file is sent through a second fd of the
        socket: the first is the wire's, and the monitor must not confuse the two waits, for example when user code
        calls resume_reading() meanwhile.
        """
        if type(transport) is stock.Stream:
            raise exceptions.SendfileNotAvailableError("the socket has a send() of its own")
        self._check_sendfile_params(transport._own_sock(), file, offset, count)
        is_empty = transport._make_empty_waiter()
        was_reading = transport.is_reading()
        transport.pause_reading()
        try:
            await is_empty
            if transport._conn_lost:
                raise ConnectionError("Connection is closed by peer")
            try:
                second = transport._own_sock().dup()
            except OSError as error:  # no descriptor left; reading and writing needs none
                raise exceptions.SendfileNotAvailableError("no second descriptor for the socket") from error
            with second as sock:
                self._sendfiles[transport] = future = self.create_future()
                try:
                    return await self._sock_sendfile_native(sock, file, offset, count, future)
                finally:
                    del self._sendfiles[transport]
                    future = None  # its exception would be in a cycle with this frame
        finally:
            transport._reset_empty_waiter()
            if was_reading:
                transport.resume_reading()

    def _sendfile_lost(self, transport: Any, is_empty: Any, error: BaseException | None) -> None:
        """The connection of a sendfile is lost, or was closed."""
        for future in (is_empty, self._sendfiles.get(transport)):
            if future is not None and not future.done():
                future.set_exception(error or ConnectionError("Connection is closed by peer"))

    # -- listening -------------------------------------------------------------------------------------

    @functools.wraps(asyncio.BaseEventLoop.create_server)
    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        self._note_arguments(kwargs)
        return await super().create_server(*args, **kwargs)

    @functools.wraps(StdlibHooks.create_unix_server)
    async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any:
        self._note_arguments(kwargs)
        return await super().create_unix_server(*args, **kwargs)

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: asyncio.Server | None = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> None:
        """Accept connections of a listening socket from now on.

        Each connection gets a copy of `context`, the server's, in which all its callbacks run; None before
        Python 3.15.

        On io_uring by multishot ACCEPT, but only for sockets that this loop made. A given one may be shared
        with other processes (prefork servers): an armed ACCEPT is an exclusive waiter and stays first in line, so that
        one process would get every connection (measured: 600 of 600 instead of half), also while it is busy.
        """
        fd = sock.fileno()
        if fd < 0:
            return  # closed while it waited for resources
        listening = Listening(
            protocol_factory,
            sock,
            sslcontext,
            server,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
            context,
        )
        if self._seat is not None and self._seat.serve(sock, listening):
            return
        # objects other than socket.socket count as given, too: gunicorn's listeners are wrappers of sockets
        if self._has_ring and is_original(sock) and sock not in self._given_sockets:
            kind = Kind(sock)
            self._acceptors[sock] = Acceptor(self.aio_context, sock, kind, self._accepted, listening)
        else:
            self._watch_listener(sock, listening)

    def _watch_listener(self, sock: socket.socket, listening: Listening) -> None:
        """Accept when it is readable."""
        if is_original(sock):
            # the object, not its fd: that is another file's once the program has closed the listener
            self._add_reader(sock, self._accept_ready, sock, Kind(sock), listening)
        else:
            self._add_reader(sock.fileno(), self._accept_by_method, listening)

    def _stop_serving(self, sock: socket.socket) -> None:
        """Accept nothing more and close the listening socket."""
        fd = sock.fileno()
        path = sock.getsockname() if sock in self._unix_server_sockets else None
        if self._has_ring:
            acceptor = self._acceptors.pop(sock, None)
            if acceptor is not None:
                acceptor.close()
        if self._seat is not None:
            self._seat.stop_serving(sock)
        self._remove_reader(fd)
        sock.close()
        if path is not None:
            self._unlink_unix_socket(sock, path)

    def _unlink_unix_socket(self, sock: socket.socket, path: str | bytes) -> None:
        """Remove the path of a UNIX server that owns it (cleanup_socket, since Python 3.13)."""
        inode = self._unix_server_sockets.pop(sock)
        try:
            # posix's own functions, as for sendfile
            if posix.stat(path).st_ino == inode:
                posix.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, error)

    def _accept_by_method(self, listening: Listening) -> None:
        """As _accept_ready, for a listener that is no socket.socket, or a subclass, and may have its own accept()."""
        listener = listening.sock
        for _ in range(listening.backlog):
            try:
                connection, peername = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(error, listening)
                return
            connection.setblocking(False)
            self._serve_later(connection, {"peername": peername}, listening)
            if listener.fileno() < 0:
                return

    def _accept_failed(self, error: BaseException, listening: Listening) -> None:
        sock = listening.sock
        if not isinstance(error, OSError):  # MemoryError: the listener is as it was
            self.call_exception_handler(
                {
                    "message": "Exception in accepting a connection",
                    "exception": error,
                    "socket": trsock.TransportSocket(sock),
                }
            )
            return
        if error.errno == errno.EINVAL and self._acceptors.pop(sock, None) is not None:
            # before Linux 5.19: no multishot ACCEPT
            self._watch_listener(sock, listening)
            return
        message = "socket.accept() out of system resource"
        if error.errno not in OUT_OF_RESOURCES:
            if sock not in self._acceptors:
                raise error  # out of a Handle: the loop reports it and keeps watching
            message = "socket.accept() failed"
        self.call_exception_handler(
            {
                "message": message,
                "exception": error,
                "socket": trsock.TransportSocket(sock),
            }
        )
        acceptor = self._acceptors.pop(sock, None)
        if acceptor is not None:
            acceptor.close()
        self._remove_reader(sock.fileno())
        self.call_later(constants.ACCEPT_RETRY_DELAY, self._start_serving, *listening.arguments)

    def _serve_tls(
        self, connection: Any, extra: Any, listening: Listening, context: contextvars.Context | None
    ) -> None:
        since_3_15 = {} if context is None else {"context": context}
        server = listening.server if self._seat is None else self._seat.before_handshake(listening.server)
        accept = self._accept_connection2(
            listening.protocol_factory,
            connection,
            extra,
            listening.sslcontext,
            server,
            listening.handshake_timeout,
            listening.shutdown_timeout,
            **since_3_15,
        )
        task = self.create_task(accept, **since_3_15)
        if server is not listening.server:
            task.add_done_callback(server.handshake_ended)

    def _refused(self, failure: BaseException, protocol: object) -> None:
        """The application could not take a connection, which was closed."""
        if isinstance(failure, SystemExit | KeyboardInterrupt):
            raise failure
        if self._debug:
            context = {
                "message": "Error on transport creation for incoming connection",
                "exception": failure,
            }
            if protocol is not None:
                context["protocol"] = protocol
            self.call_exception_handler(context)
