"""The receiving sock_* methods, so that a cancelled one never loses data or a connection.

Stock asyncio receives in the reader's callback and hands the result to a future; when the task is cancelled in the turn
between, what was received is gone.  Here the callback only wakes the task, which then receives by itself: whoever is
cancelled before leaves everything in the socket.
"""

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None


def _check(loop, sock):
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")
    if loop.get_debug() and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


class SocketsMixin:
    """sock_recv and its relatives; sending and connecting are asyncio's own (stdlib_hooks)."""

    def _readable(self, fd, future):
        self._remove_reader(fd)
        if not future.done():
            future.set_result(None)

    async def _wait_readable(self, sock):
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        future = self.create_future()
        handle = self._add_reader(fd, self._readable, fd, future)
        try:
            await future
        finally:
            if not handle.cancelled():
                self._remove_reader(fd)

    async def _receive(self, sock, method, *args):
        """Call a receiving method of the socket until it has something."""
        _check(self, sock)
        while True:
            try:
                return method(*args)
            except (BlockingIOError, InterruptedError):
                pass
            await self._wait_readable(sock)

    async def sock_recv(self, sock, n):
        """See asyncio.loop.sock_recv."""
        return await self._receive(sock, sock.recv, n)

    async def sock_recv_into(self, sock, buf):
        """See asyncio.loop.sock_recv_into."""
        return await self._receive(sock, sock.recv_into, buf)

    async def sock_recvfrom(self, sock, bufsize):
        """See asyncio.loop.sock_recvfrom."""
        return await self._receive(sock, sock.recvfrom, bufsize)

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """See asyncio.loop.sock_recvfrom_into."""
        return await self._receive(sock, sock.recvfrom_into, buf, nbytes or len(buf))

    async def sock_accept(self, sock):
        """See asyncio.loop.sock_accept."""
        connection, address = await self._receive(sock, sock.accept)
        connection.setblocking(False)
        return connection, address
