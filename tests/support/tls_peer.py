"""The other end of a TLS connection, driven by hand: a socket and an SSLObject under the test's control."""

import asyncio
import ssl
import time

from support.helpers import client_tls, server_tls


class Peer:
    """Drive an SSLObject over a non-blocking socket.

    Parameters:
        sizes: called for the size of each piece of ciphertext that is sent; None sends it whole.
    """

    def __init__(self, sock, *, server_side=False, context=None, sizes=None):
        self.sock = sock
        self.sizes = sizes
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if context is None:
            context = server_tls() if server_side else client_tls()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )
        self.is_at_end = False  # the end of the socket, not of TLS

    async def send(self):
        """Send the output of the SSLObject."""
        data = self.outgoing.read()
        while data:
            size = self.sizes() if self.sizes else len(data)
            try:
                count = self.sock.send(data[:size])
            except BlockingIOError:
                count = 0
            data = data[count:]
            await asyncio.sleep(0)

    def receive(self):
        """Receive one piece from the socket; return True if there was data."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        self.is_at_end = not data
        self.incoming.write(data)
        return bool(data)

    async def call(self, method, *arguments):
        """Repeat the call until it no longer needs to read, and return its result."""
        deadline = time.monotonic() + 15
        while True:
            try:
                result = method(*arguments)
            except ssl.SSLWantReadError:
                await self.send()
                if not self.receive():
                    if self.is_at_end:
                        raise EOFError("the socket ended") from None
                    assert time.monotonic() < deadline, f"timed out: {method}"
                    await asyncio.sleep(0)
            else:
                await self.send()
                return result

    async def handshake(self):
        await self.call(self.tls.do_handshake)

    async def write(self, data):
        self.tls.write(data)
        await self.send()

    async def read(self, count):
        """Exactly `count` bytes."""
        data = bytearray()
        while len(data) < count:
            piece = await self.call(self.tls.read, count - len(data))
            assert piece, f"close_notify after {len(data)} of {count} bytes"
            data += piece
        return bytes(data)

    async def unwrap(self):
        await self.call(self.tls.unwrap)
