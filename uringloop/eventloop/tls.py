"""TLS on the loop's stream transports, and start_tls() on any; once per connection, so Python."""

import asyncio
import functools
import ssl
from asyncio import constants

from ..transports.tls.classes import _SSLProtocolTransport
from ..transports.tls.protocol import TlsProtocol


class TlsMixin:
    """The part of Loop that makes TLS connections."""

    def _make_ssl_transport(
        self,
        rawsock,
        protocol,
        sslcontext,
        waiter=None,
        *,
        server_side=False,
        server_hostname=None,
        extra=None,
        server=None,
        ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout=constants.SSL_SHUTDOWN_TIMEOUT,
        context=None,
    ):
        """A TLS transport for a connected socket, which it owns from now on."""
        self._ensure_fd_no_transport(rawsock)
        tls = TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        transport = _SSLProtocolTransport(tls)
        tls._attach(transport)
        self._make_socket_transport(rawsock, tls, extra=extra, server=server, context=context)
        return transport

    @functools.wraps(asyncio.BaseEventLoop.start_tls)
    async def start_tls(
        self,
        transport,
        protocol,
        sslcontext,
        *,
        server_side=False,
        server_hostname=None,
        ssl_handshake_timeout=None,
        ssl_shutdown_timeout=None,
    ):
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = TlsProtocol(
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
        tls._attach(_SSLProtocolTransport(tls))
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
            waiter = None  # its exception knows this frame
        return tls._app_transport


def _move_buffered(protocol, tls):
    """Give the handshake what a StreamReader has read already.

    A client that does not wait for the answer sends its ClientHello right behind its STARTTLS line; both may arrive
    in one piece. Left in the reader it would be lost for the handshake, and taken for something that came encrypted.
    """
    if isinstance(protocol, asyncio.StreamReaderProtocol):
        reader = protocol._stream_reader
        if reader is not None and reader._buffer:
            tls._receive_early(reader._buffer)
            reader._buffer.clear()
