"""TLS on the loop's stream transports, and start_tls() on any; once per connection, so Python."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import socket
from asyncio import constants
from typing import Any

from .base.part import LoopPart

try:
    import ssl
except ImportError:  # a Python that was built without OpenSSL; asyncio works there, too
    ssl = None  # type: ignore[assignment]


def load_tls() -> tuple[Any, Any]:
    """The classes of the protocol and of its transport, loaded on first use: few programs need them.

    What makes connections and servers with TLS calls this first, so that it fails at once, and alone, in a process that
    cannot load them: for lack of descriptors, for example.

    Raises: ImportError, OSError; RuntimeError in a Python without ssl, as asyncio does.
    """
    if ssl is None:
        raise RuntimeError("stdlib ssl module not available")
    from ..transports.tls.classes import _SSLProtocolTransport
    from ..transports.tls.protocol import TlsProtocol

    return TlsProtocol, _SSLProtocolTransport


class TlsMixin(LoopPart):
    """The part of Loop that makes TLS connections."""

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext | None,
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """A TLS transport for a connected socket, which it owns from now on."""
        self._ensure_fd_no_transport(rawsock)
        protocol_class, transport_class = load_tls()
        tls = protocol_class(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        transport: asyncio.Transport = transport_class(tls)
        tls._attach(transport)
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
        return transport

    @functools.wraps(asyncio.BaseEventLoop.start_tls)
    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        if ssl is None:
            raise RuntimeError("Python ssl module is not available")
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        protocol_class, transport_class = load_tls()
        waiter = self.create_future()
        tls = protocol_class(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        tls._attach(transport_class(tls))
        if server_side:
            _move_buffered(protocol, tls)
        # No data may come before connection_made.
        transport.pause_reading()
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        finally:
            waiter = None  # its exception refers to this frame
        return tls._app_transport


def _move_buffered(protocol: asyncio.BaseProtocol, tls: Any) -> None:
    """Give the handshake the data that a StreamReader has read already.

    A client that does not wait for the answer sends its ClientHello right after its STARTTLS line; both may arrive
    in one piece. Left in the reader, it would be lost for the handshake, and taken for decrypted data.
    """
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        reader: Any = protocol._stream_reader  # type: ignore[attr-defined]
        if reader is not None and reader._buffer:
            tls._receive_early(reader._buffer)
            reader._buffer.clear()
