"""The sock_* methods: the non-blocking call first, and a wait for readiness only when it would block.

Receiving and accepting: the reader's callback only wakes the task, which then receives by itself.  Stock asyncio
receives in the callback and hands the result to a future; when the task is cancelled in the turn between, that
data is lost.  Here a task that is cancelled earlier leaves everything in the socket.

Sending: the writer's callback sends, so that a long send costs one wake-up per piece and no task step; data
that a cancelled send has sent stays sent, as with stock asyncio.

Invariant: a reader or writer of ours is removed before the method returns or raises, and never one that other code
has put in its place meanwhile (the fd may have been closed and its number used again).
"""

from __future__ import annotations

import errno
import io
import os
import posix
import socket
from asyncio import Future, Handle, exceptions
from collections.abc import Callable
from typing import Any

from ..support.errors import os_error
from ..transports.plain import is_original
from ..transports.stream.endpoint import Kind, accept
from .base.part import LoopPart

try:
    import ssl
except ImportError:  # a Python without OpenSSL
    ssl = None  # type: ignore[assignment]

# Bytes per sendfile(2).  While the peer keeps reading, one call never ends, and nothing else gets a turn.
_SENDFILE_MOST_BYTES = 2 << 20
# Between attempts to connect to a UNIX socket whose backlog is full: nothing reports that there is room.
_BACKLOG_FULL_FIRST_S = 0.001
_BACKLOG_FULL_MOST_S = 0.05


def _check(loop: Any, sock: socket.socket) -> None:
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")
    if loop.get_debug() and sock.gettimeout() != 0:
        raise ValueError("the socket must be non-blocking")


def _accept(sock: socket.socket, kind: Any) -> tuple[socket.socket, Any]:
    """Accept without sock.accept(), which loses the new descriptor where memory is short.

    Parameters:
        kind: that of the connections of a plain socket; None for others, whose own method is called.
    """
    if kind is None or not kind.is_known:
        return sock.accept()
    connection = accept(sock.fileno(), kind)
    if connection is None:
        raise os_error(errno.EAGAIN)
    address = connection.peer()
    return connection.socket(), address


class _FileSender:
    """One sendfile(2) after the other, and how much they sent.

    The function is posix's own: detectors of blocking calls replace that of os, and let only asyncio's files
    through.
    """

    def __init__(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> None:
        self._sock = sock
        self._file = file
        self._offset = offset
        self._left = count  # None: to the end of the file
        self.total_bytes = 0

    def _file_fd(self) -> int:
        """-1 if the file is closed."""
        try:
            fd: int = self._file.fileno()
            return fd
        except ValueError:
            return -1

    def step(self) -> bool:
        """Send what the socket takes; true at the end."""
        most = _SENDFILE_MOST_BYTES if self._left is None else min(self._left, _SENDFILE_MOST_BYTES)
        # both are checked each time: they may be closed meanwhile, and their numbers reused
        sent = posix.sendfile(self._sock.fileno(), self._file_fd(), self._offset, most)
        self._offset += sent
        self.total_bytes += sent
        if self._left is not None:
            self._left -= sent
        return not sent or self._left == 0

    def leave_file_position(self, is_over: bool = False) -> None:
        """As stock asyncio: seek behind the last byte sent, so that file.tell() shows how much that was.

        When it is over, also when there was nothing to send (stock: since Python 3.14.9 or so).  A file that was closed
        meanwhile has no position, and its number may be another file's.
        """
        if (self.total_bytes or is_over) and (file_fd := self._file_fd()) >= 0:
            os.lseek(file_fd, self._offset, os.SEEK_SET)


class SocketsMixin(LoopPart):
    """sock_recv and its relatives."""

    # -- waiting ---------------------------------------------------------------------------------------

    def _end_watching(self, remove: Callable[[int], object], fd: int, handle: Handle) -> None:
        """Remove a reader or writer of ours, unless it is gone.

        Where the socket was closed while the other direction is also watched, that is an error, which removes both.
        It is reported, as by asyncio, and does not replace what the method returns or raises.
        """
        if handle.cancelled():
            return
        try:
            remove(fd)
        except OSError as error:
            self.call_exception_handler(
                {"message": f"fd {fd} was closed while it was watched", "exception": error, "handle": handle}
            )

    def _readable(self, fd: int, future: Future[None]) -> None:
        # first: removing raises if the socket was closed, and the task that waits has to find that out
        if not future.done():
            future.set_result(None)
        self._remove_reader(fd)

    async def _wait_readable(self, sock: socket.socket, watch: Callable[..., Handle], *file: Any) -> None:
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        future: Future[None] = self.create_future()
        handle = watch(fd, *file, self._readable, fd, future)
        try:
            await future
        finally:
            self._end_watching(self._remove_reader, fd, handle)

    def _writable(self, fd: int, future: Any, step: Callable[[], bool]) -> None:
        if future.done():
            return  # cancelled; the task removes the writer
        try:
            is_over = step()
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            future.set_exception(error)  # first, as in _readable
            self._remove_writer(fd)
        else:
            if is_over:
                future.set_result(None)
                self._remove_writer(fd)
        finally:
            future = None  # its exception refers to this frame

    async def _while_writable(
        self, sock: socket.socket, step: Callable[[], bool], future: Any = None
    ) -> None:
        """Call step() whenever the socket is writable, until it returns true or raises.

        Parameters:
            future: to wait for; other code may end the wait by an exception in it.
        """
        fd = sock.fileno()
        self._ensure_fd_no_transport(fd)
        if future is None:
            future = self.create_future()
        handle = self._add_writer(fd, self._writable, fd, future, step)
        try:
            await future
        finally:
            future = None  # with an exception it would be in a cycle with this frame
            self._end_watching(self._remove_writer, fd, handle)

    # -- receiving -------------------------------------------------------------------------------------

    async def _receive(self, sock: socket.socket, method: Callable[..., Any], *args: Any) -> Any:
        """Call a receiving method of the socket until it returns something."""
        _check(self, sock)
        while True:
            try:
                return method(*args)
            except (BlockingIOError, InterruptedError):
                pass
            # one wait for each message, and most are short
            await self._wait_readable(sock, self._watch_own_readable, sock)

    async def sock_recv(self, sock: socket.socket, n: int) -> Any:
        """See asyncio.loop.sock_recv."""
        return await self._receive(sock, sock.recv, n)

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> Any:
        """See asyncio.loop.sock_recv_into."""
        return await self._receive(sock, sock.recv_into, buf)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> Any:
        """See asyncio.loop.sock_recvfrom."""
        return await self._receive(sock, sock.recvfrom, bufsize)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> Any:
        """See asyncio.loop.sock_recvfrom_into."""
        return await self._receive(sock, sock.recvfrom_into, buf, nbytes or len(buf))

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """See asyncio.loop.sock_accept."""
        _check(self, sock)
        kind = Kind(sock) if is_original(sock) else None
        while True:
            try:
                connection, address = _accept(sock, kind)
            except (BlockingIOError, InterruptedError):
                # a listener that is closed meanwhile accepts nothing more, and releases its port at once
                await self._wait_readable(sock, self._add_reader)
            else:
                connection.setblocking(False)
                return connection, address

    # -- sending ---------------------------------------------------------------------------------------

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """See asyncio.loop.sock_sendall."""
        _check(self, sock)
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        n_bytes = len(data) if isinstance(data, (bytes, bytearray)) else memoryview(data).nbytes
        if sent == n_bytes:
            return
        with memoryview(data) as whole, whole.cast("B") as view:

            def step() -> bool:
                nonlocal sent
                with view[sent:] as rest:
                    sent += sock.send(rest)
                return sent == n_bytes

            await self._while_writable(sock, step)

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """See asyncio.loop.sock_sendto."""
        _check(self, sock)
        try:
            return sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            pass
        sent = 0

        def step() -> bool:
            nonlocal sent
            sent = sock.sendto(data, address)
            return True

        await self._while_writable(sock, step)
        return sent

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: Any, offset: int, count: int | None, future: Any = None
    ) -> int:
        """BaseEventLoop.sock_sendfile calls this after its checks, and falls back if it is not available.

        Parameters:
            future: as in _while_writable.
        """
        try:
            file_fd = file.fileno()
        except (AttributeError, io.UnsupportedOperation):
            raise exceptions.SendfileNotAvailableError("not a regular file") from None
        try:
            size = posix.fstat(file_fd).st_size
        except OSError:
            raise exceptions.SendfileNotAvailableError("not a regular file") from None
        if not count and not size:
            return 0
        sender = _FileSender(sock, file, offset, count or None)
        try:
            try:
                is_over = sender.step()
            except (BlockingIOError, InterruptedError):
                is_over = False
            if not is_over:
                await self._while_writable(sock, sender.step, future)
        except ConnectionError:
            raise  # a fallback without sendfile(2) would not help
        except OSError as error:
            if not sender.total_bytes:
                raise exceptions.SendfileNotAvailableError("os.sendfile call failed") from error
            raise
        finally:
            future = None
            sender.leave_file_position()
        sender.leave_file_position(is_over=True)
        return sender.total_bytes

    # -- connecting ------------------------------------------------------------------------------------

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """See asyncio.loop.sock_connect."""
        _check(self, sock)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            infos = await self._ensure_resolved(
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            address = infos[0][4]
        pause_s = _BACKLOG_FULL_FIRST_S
        while True:
            try:
                sock.connect(address)
                return
            except InterruptedError:
                break  # the connection is still being made
            except BlockingIOError as error:
                if error.errno != errno.EAGAIN or sock.family != socket.AF_UNIX:
                    break
            # A UNIX listener's backlog is full.  The socket is not connecting and would count as writable, so
            # stock asyncio takes it for connected.
            future: Future[None] = self.create_future()
            timer = self.call_later(pause_s, _wake, future)
            try:
                await future
            finally:
                timer.cancel()
            pause_s = min(2 * pause_s, _BACKLOG_FULL_MOST_S)

        def step() -> bool:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, f"Connect call failed {address}")
            return True

        await self._while_writable(sock, step)


def _wake(future: Future[None]) -> None:
    if not future.done():
        future.set_result(None)
