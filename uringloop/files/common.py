"""The common part of all binary files: the descriptor, its users, positional reads and writes, closing.

How it works:
1. Operations on the position (read, write, seek ...) run one after the other, by `_lock`; positional ones (pread,
   pwrite ...) run concurrently and are only counted.
2. The kernel's own file position is not used for regular files and block devices: each file keeps its position and
   passes offsets, so that a cancelled operation cannot move it. Writes to an fd with O_APPEND use the kernel's
   position, which is read back. Files that take no offsets although they are seekable (devices, an eventfd, files in
   /proc that are written to) use the kernel's position.

3. A file belongs to the loop that opened it. Operations that need the descriptor, and every write, refuse other loops:
   the request would go to a ring that another thread runs, or that no thread runs.

Invariant: the descriptor is closed only when it is not used any more (`_n_users` is 0): in a thread, or in a request
that was not submitted yet, its number could otherwise mean another file.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import io
import operator
import os
import select
import socket
import stat
import sys
import threading
import warnings
from asyncio.events import _get_running_loop
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from ..support.errors import os_error
from .backend import APPEND, OFFSET_MOST, STREAM, Backend, Buffer, Opened, Path, outcome_of
from .misuse import AsyncFor, AsyncWith
from .modes import Mode, optional_size, type_name
from .page_cache import DONE, Block, CachedReads

_F = TypeVar("_F", bound="BinaryFile")

# Bytes that `read()` requests where a file does not report its size (in /proc, for instance).
UNKNOWN_SIZE_BYTES = 64 * 1024

# The least that a file system of Linux takes for a file's size (MAX_NON_LFS).
ALWAYS_MOST = (1 << 31) - 1

# After so much was written, closing may take long.
MUCH_BYTES = 1024 * 1024


class _Released:
    """An awaitable that is done at once."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


_RELEASED = _Released()


class Lock(asyncio.Lock):
    """asyncio's lock, which `async with` always releases.

    asyncio's own `__aexit__` needs a coroutine.  Where memory is short, making it fails, and all later operations on
    the file wait for ever.
    """

    def is_idle(self) -> bool:
        """Whether nothing holds it, and nothing waits for it: one that was woken has not got it yet."""
        return not self.locked() and not self._waiters

    def __aexit__(self, kind: object, error: object, where: object) -> _Released:  # type: ignore[override]
        try:
            self.release()
        except MemoryError:  # it is released; the task that waits for it has not been woken
            asyncio.get_running_loop().call_soon(self._wake_up_first)  # type: ignore[attr-defined]
        return _RELEASED


def bytes_view(data: Any) -> memoryview:
    """The memory of a bytes-like object as plain bytes; TypeError with io's text for others."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(data).__name__!r}") from None
    return view if view.format == "B" and view.ndim == 1 and view.contiguous else view.cast("B")


def _write_ready(fd: int, data: bytes) -> int:
    """Write to a stream as long as that does not wait; returns how many bytes."""
    watched = select.poll()
    watched.register(fd, select.POLLOUT)
    n_written = 0
    with suppress(BlockingIOError):
        while n_written < len(data) and watched.poll(0):
            # A pipe that is ready takes this much.
            n_written += os.write(fd, data[n_written : n_written + select.PIPE_BUF])
    return n_written


def _write_and_close(fd: int, rest: bytes) -> None:
    watched = select.poll()
    watched.register(fd, select.POLLOUT)
    try:
        while rest:
            watched.poll()
            rest = rest[_write_ready(fd, rest) :]
    except OSError:
        pass  # its reader is gone, and io's file would also lose it
    finally:
        os.close(fd)


def _is_listening(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _errno_of(function: Any, *args: Any) -> int:
    """The errno that a call fails with, 0 if it does not."""
    try:
        function(*args)
    except OSError as error:
        return error.errno or 0
    return 0


def writable_view(buffer: Any, caller: str, argument: str = "argument") -> memoryview:
    """The same for memory that will be filled; errors name the caller and the argument."""
    try:
        view = bytes_view(buffer)
        if not view.readonly:
            return view
    except TypeError:
        pass
    raise TypeError(
        f"{caller}() {argument} must be read-write bytes-like object, not {type_name(buffer)}"
    ) from None


class BinaryFile(AsyncWith, AsyncFor):
    """A file of bytes; RawFile and BufferedFile say how it is read and written."""

    def __init__(
        self,
        backend: Backend,
        opened: Opened,
        mode: Mode,
        name: str | bytes | int,
        closefd: bool,
        is_foreign: bool,
    ) -> None:
        """is_foreign: the fd was opened by other code, with its own flags and position."""
        self._backend = backend
        self._loop = backend.loop
        self._fd = -1  # until it is adopted
        self._mode = mode
        self._closefd = closefd
        self._lock = Lock()
        self._n_users = 0
        self._is_closing = False
        self._idle: asyncio.Future[None] | None = None
        self._closed_waiter: asyncio.Future[None] | None = None
        self.name: Any = name
        self._delete_path: Path | None = None  # of a temporary file: its name is removed when it is closed
        self._opened_at = ""  # " opened at FILE:LINE" in debug mode
        self._text_kind: tuple[str, str] | None = None  # mode and encoding of the text file above
        self._is_regular = stat.S_ISREG(opened.st_mode)
        self._size_hint_bytes = opened.st_size
        # Where the next read or write takes place, if the file is seekable.
        self._position = 0
        self._is_appending = mode.is_appending  # the fd has O_APPEND
        is_stored = self._is_regular or stat.S_ISBLK(opened.st_mode)
        self._is_seekable = is_stored
        if not is_stored or is_foreign:
            # lseek() that moves nothing does not wait for anything.
            try:
                self._position = os.lseek(opened.fd, 0, os.SEEK_CUR)
                self._is_seekable = True
            except OSError as error:
                if mode.is_appending and error.errno != errno.ESPIPE:
                    raise
                self._is_seekable = is_stored = False  # a stored file, but O_PATH, which takes no call at all
        is_cached = self._is_regular
        if is_foreign:
            flags = fcntl.fcntl(opened.fd, fcntl.F_GETFL)
            self._is_appending = bool(flags & os.O_APPEND)
            is_cached = is_cached and not flags & os.O_DIRECT
        # Whether reads and writes pass offsets. A file with a size has contents, which the kernel accesses anywhere.
        self._has_positions = is_stored
        self._read_errno = self._write_errno = (
            0  # what the kernel refuses reading and writing with, in any case
        )
        if not (self._is_regular and opened.st_size):
            self._try_transfers(opened, is_stored)
        # What reads data that is cached without a request; None where it could wait.
        self._cached: CachedReads | None = backend.cached if is_cached and self._has_positions else None
        if mode.is_appending and self._is_regular:
            self._position = opened.st_size
            if not self._has_positions:
                os.lseek(opened.fd, 0, os.SEEK_END)
        self._n_written_bytes = 0
        # Counts pwrite() and the like: bytes read ahead before one may be out of date.
        self._n_changes = 0

    def _adopt(self, opened: Opened) -> None:
        """Own the descriptor from now on; nothing can fail in between."""
        self._fd = opened.fd
        opened.is_owned = False

    async def _close_fd(self) -> None:
        closing = self._backend.close(self._fd, self._n_written_bytes > MUCH_BYTES)
        self._fd = -1  # not before: that call may fail
        await closing

    def _try_transfers(self, opened: Opened, is_stored: bool) -> None:
        """Find out what the kernel takes, by empty transfers: they check the fd, and do not reach the file.

        Files in /proc that can be written to take no offset; an epoll fd is not read, and would be waited for.
        """
        fd = opened.fd
        if self._mode.is_readable:
            self._read_errno = _errno_of(os.readv, fd, [])
            if not self._read_errno and stat.S_ISSOCK(opened.st_mode) and _is_listening(fd):
                self._read_errno = errno.ENOTCONN
            if is_stored and _errno_of(os.preadv, fd, [], 0) == errno.ESPIPE:
                self._has_positions = False
        if self._mode.is_writable:
            self._write_errno = _errno_of(os.writev, fd, [])
            if is_stored and _errno_of(os.pwritev, fd, [], 0) == errno.ESPIPE:
                self._has_positions = False

    # Properties

    def __repr__(self) -> str:
        closed = " closed" if self._is_closing else ""
        return f"<uringloop.files.{type(self).__name__} name={self.name!r} mode={self.mode!r}{closed}>"

    @property
    def mode(self) -> str:
        return self._mode.raw_name

    @property
    def closed(self) -> bool:
        return self._is_closing

    @property
    def closefd(self) -> bool:
        """Whether close() closes the descriptor."""
        return self._closefd

    def fileno(self) -> int:
        """The descriptor. Its own file position is not where this file reads or writes."""
        self._check_open()
        return self._fd

    async def readable(self) -> bool:
        self._check_open()
        return self._mode.is_readable

    async def writable(self) -> bool:
        self._check_open()
        return self._mode.is_writable

    async def seekable(self) -> bool:
        self._check_open()
        return self._is_seekable

    async def isatty(self) -> bool:
        self._check_open()
        return False if self._is_regular else os.isatty(self._fd)

    def _check_open(self, text: str = "I/O operation on closed file") -> None:
        if self._is_closing:
            raise ValueError(text)

    def _check_readable(self, what: str) -> None:
        raise NotImplementedError

    def _check_writable(self, what: str) -> None:
        raise NotImplementedError

    def _check_seekable(self) -> None:
        if not self._is_seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")

    def _check_positional(self, offset: int) -> None:
        if offset < 0:
            raise os_error(errno.EINVAL)
        # io_uring would read and write them as if no offset had been given
        if not self._has_positions and (
            not self._is_seekable
            or (self._mode.is_readable and _errno_of(os.preadv, self._fd, [], offset) == errno.ESPIPE)
            or (self._mode.is_writable and _errno_of(os.pwritev, self._fd, [], offset) == errno.ESPIPE)
        ):
            raise os_error(errno.ESPIPE)

    # Users of the descriptor

    def _enter(self) -> int:
        """The descriptor, for one operation; every _enter() has its _leave()."""
        if self._fd < 0:
            raise ValueError("I/O operation on closed file")
        if _get_running_loop() is not self._loop:
            self._refuse_loop()
        self._n_users += 1
        return self._fd

    def _refuse_loop(self) -> NoReturn:
        if self._loop.is_closed():
            raise RuntimeError(f"the event loop that opened {self!r} is closed: only close() is allowed")
        raise RuntimeError(
            f"{self!r} belongs to the event loop that opened it, which is another one: {self._loop!r}"
        )

    def _leave(self) -> None:
        self._n_users -= 1
        if self._n_users == 0 and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _check_transfer(self, refusal: int) -> None:
        if refusal:
            raise os_error(refusal)

    # Operations on the descriptor, each of them once or until all is done

    async def _read_at(self, count: int, offset: int) -> bytes:
        self._check_transfer(self._read_errno)
        fd = self._enter()
        try:
            if self._cached is None:
                return await self._backend.read(fd, count, offset)
            found: Any = self._cached.read(fd, count, offset)
            data: bytes
            if not isinstance(found, bytes):
                await self._backend.fill(fd, found, offset)
                data = found.take()
            else:
                data = found
            return data
        finally:
            self._leave()

    async def _readinto_at(self, view: memoryview, offset: int) -> int:
        """The same into the caller's memory."""
        self._check_transfer(self._read_errno)
        block = Block.over(view)
        fd = self._enter()
        try:
            if self._cached is None or self._cached.go_on(fd, block, offset) != DONE:
                await self._backend.fill(fd, block, offset)
            filled: int = block.filled
            return filled
        finally:
            self._leave()

    async def _write_all(self, data: Buffer, offset: int) -> None:
        """Write everything. An exception's `outcome` says how many bytes were still written."""
        self._check_transfer(self._write_errno)
        fd = self._enter()
        done = 0
        try:
            done = await self._write_some(fd, data, offset)
            while done < len(data):
                rest = memoryview(data)[done:]
                done += await self._write_some(fd, rest, offset + done if offset >= 0 else offset)
        except (OSError, asyncio.CancelledError) as error:
            error.outcome = done + (outcome_of(error) or 0)  # type: ignore[union-attr]
            raise
        finally:
            self._n_written_bytes += done
            self._leave()

    async def _write_some(self, fd: int, data: Buffer, offset: int) -> int:
        """One write, as far as it goes."""
        try:
            return await self._backend.write(fd, data, offset)
        except PermissionError:
            if not self._is_regular or self._size_hint_bytes:
                raise
        # Files of /proc that belong to one thread (attr/*, loginuid) cannot be written by another, such as a worker of
        # the kernel or of the executor: this is the thread in which io would have written.
        return os.pwrite(fd, data, offset) if offset >= 0 else os.write(fd, data)

    def _write_offset(self, position: int) -> int:
        if self._is_regular and (self._is_appending or not self._has_positions):
            return APPEND  # at the kernel's position, all at once: it does not wait
        return position if self._has_positions else STREAM

    async def _read_rest(self, position: int) -> bytes:
        """Everything from here to the end."""
        parts: list[bytes] = []
        hint_bytes = max(self._size_hint_bytes - position, 0) if self._is_regular else 0
        count = hint_bytes + 1 if hint_bytes else UNKNOWN_SIZE_BYTES
        try:
            while True:
                part = await self._read_at(count, position if self._has_positions else STREAM)
                parts.append(part)
                position += len(part)
                # A regular file returns less than requested only at its end; one in /proc, whose size is 0, always may.
                if not part or (hint_bytes and len(part) < count):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                count = max(UNKNOWN_SIZE_BYTES, min(2 * count, 1 << 23))
        except BaseException as error:
            self._give_back([*parts, outcome_of(error) or b""])
            raise

    def _give_back(self, parts: list[bytes]) -> None:
        """Keep the bytes that a failed read took out of a stream."""

    # Positional operations

    async def pread(self, count: int, offset: int, /) -> bytes:
        """Up to `count` bytes from `offset` on, as os.pread. Neither uses nor moves the position."""
        if (
            self._cached is not None
            and count > 0
            and offset >= 0
            and self._mode.is_readable
            and not self._is_closing
            and not self._unwritten()
            and not self._read_errno
            and _get_running_loop() is self._loop
        ):
            found: bytes | None = self._cached.read_now(self._fd, count, offset)
            if found is not None:
                return found
        self._check_open()
        self._check_readable("read")
        self._check_positional(min(offset, count))
        await self._settle()
        return await self._read_at(count, offset)

    async def pwrite(self, data: Buffer, offset: int, /) -> int:
        """Write all of `data` at `offset`; returns its length. Neither uses nor moves the position.

        Cancelled, or out of space: the exception's `characters_written` says how many bytes were written.
        """
        self._check_open()
        self._check_writable("write")
        self._check_positional(offset)
        view = data if type(data) is bytes else bytes_view(data)
        await self._settle()
        self._changed()
        try:
            await self._write_all(view, offset)
        except (OSError, asyncio.CancelledError) as error:
            error.characters_written = outcome_of(error)  # type: ignore[union-attr]
            raise
        finally:
            self._changed()
        return len(view)

    async def preadv(self, buffers: Sequence[Any], offset: int, /) -> int:
        """Fill several buffers, as os.preadv."""
        self._check_open()
        self._check_readable("read")
        self._check_positional(offset)
        views = [bytes_view(one) for one in buffers]
        await self._settle()
        fd = self._enter()
        try:
            return await self._backend.readv(fd, views, offset)
        finally:
            self._leave()

    async def pwritev(self, buffers: Sequence[Any], offset: int, /) -> int:
        """Write several buffers, as os.pwritev; returns how many bytes were written, which may be fewer."""
        self._check_open()
        self._check_writable("write")
        self._check_positional(offset)
        views = [bytes_view(one) for one in buffers]
        await self._settle()
        self._changed()
        fd = self._enter()
        try:
            return await self._backend.writev(fd, views, offset)
        finally:
            self._leave()
            self._changed()

    async def fsync(self) -> None:
        """Write buffers and the file's data and metadata to the disk, as flush() and os.fsync."""
        await self._sync(False)

    async def fdatasync(self) -> None:
        """The same without metadata that reading does not need, as os.fdatasync."""
        await self._sync(True)

    async def _sync(self, data_only: bool) -> None:
        self._check_open()
        await self._settle()
        fd = self._enter()
        try:
            await self._backend.fsync(fd, data_only)
        finally:
            self._leave()

    async def fallocate(self, offset: int, length: int, mode: int = 0) -> None:
        """Reserve space, or with a `mode` punch holes and more, as fallocate(2)."""
        self._check_open()
        self._check_writable("write")
        await self._settle()
        fd = self._enter()
        try:
            await self._backend.fallocate(fd, mode, offset, length)
        finally:
            self._changed()
            self._leave()

    async def fadvise(self, offset: int, length: int, advice: int) -> None:
        """Advise the kernel how the file will be read, as os.posix_fadvise."""
        self._check_open()
        fd = self._enter()
        try:
            await self._backend.fadvise(fd, offset, length, advice)
        finally:
            self._leave()

    async def _settle(self) -> None:
        """Write buffered data, so that positional operations see it."""

    def _changed(self) -> None:
        """The file was changed, but not through the buffer."""
        self._n_changes += 1

    # Positions

    async def tell(self) -> int:
        self._check_open()
        if not self._is_seekable:
            os.lseek(self._fd, 0, os.SEEK_CUR)  # raises, as io does
        self._ask_position()
        return self._position

    async def _target(self, offset: int, whence: int) -> int:
        """The target position of a seek."""
        offset = operator.index(offset)
        if not self._has_positions or not -OFFSET_MOST - 1 <= offset <= OFFSET_MOST:
            return os.lseek(self._fd, offset, whence)
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence != os.SEEK_SET:
            fd = self._enter()
            try:
                size = (
                    (await self._backend.describe(fd)).st_size
                    if whence == os.SEEK_END and self._is_regular
                    else 0
                )
                if not size:  # it may be a file of /proc, which reports no size
                    return await self._backend.call(os.lseek, fd, offset, whence)
                offset += size
            finally:
                self._leave()
        if not 0 <= offset <= OFFSET_MOST:
            raise os_error(errno.EINVAL)
        # A file system may refuse to go beyond that; a file in /proc may not move at all. Both decide without waiting.
        is_taken = offset <= ALWAYS_MOST and self._size_hint_bytes
        return offset if is_taken else os.lseek(self._fd, offset, os.SEEK_SET)

    def _ask_position(self) -> None:
        """Where the kernel's position is used, only the kernel knows it: devices move it or not."""
        if self._is_seekable and not self._has_positions:
            self._position = os.lseek(self._fd, 0, os.SEEK_CUR) + len(self._unwritten()) - self._n_ahead()

    def _n_ahead(self) -> int:
        """Bytes that were read ahead."""
        return 0

    async def _truncate(self, size: int | None) -> int:
        """With the lock held and nothing buffered."""
        if size is None:
            size = await self.tell()
        size = operator.index(size)
        fd = self._enter()
        try:
            await self._backend.truncate(fd, size)
        finally:
            self._leave()
            self._changed()
        self._size_hint_bytes = size
        return size

    def _note_appended(self, count: int) -> None:
        """After a write to a file opened for appending: only the kernel knows where it ended."""
        if count and self._is_appending and self._is_seekable:
            self._position = os.lseek(self._fd, 0, os.SEEK_CUR) + len(self._unwritten())

    # The rest of the interface, by means of the subclasses' methods

    async def read(self, size: int | None = -1, /) -> bytes:
        raise NotImplementedError

    async def readline(self, size: int | None = -1, /) -> bytes:
        raise NotImplementedError

    async def write(self, data: Any, /) -> int:
        raise NotImplementedError

    async def flush(self) -> None:
        self._check_open()

    async def readlines(self, hint: int | None = None, /) -> list[bytes]:
        """All lines, or as many as make up `hint` bytes."""
        lines: list[bytes] = []
        n_bytes, most = 0, optional_size(hint)
        while line := await self.readline():
            lines.append(line)
            n_bytes += len(line)
            if 0 < most < n_bytes:
                break
        return lines

    async def writelines(self, lines: Iterable[Any], /) -> None:
        self._check_open()
        for line in lines:
            await self.write(line)

    def __aiter__(self: _F) -> _F:
        self._check_open()
        return self

    async def __anext__(self) -> bytes:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def __aenter__(self: _F) -> _F:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    # Closing

    async def close(self) -> None:
        """Write buffered data and close the descriptor, in any case; cancellation waits for it.

        Data that cannot be written without waiting for the other side (to a pipe) is lost when close() is cancelled.
        """
        if self._is_closing:
            if self._closed_waiter is not None:  # another task is closing it
                await asyncio.shield(self._closed_waiter)
            return
        if self._loop.is_closed():  # no task could wait for anything: buffered data must not be lost for that
            self._close_at_once()
            return
        if _get_running_loop() is not self._loop:
            self._refuse_loop()
        self._closed_waiter = done = self._loop.create_future()
        self._is_closing = True
        problem: BaseException | None = None
        try:
            if self._is_settled() and self._closefd and self._delete_path is None:
                await self._close_fd()
                return
            problem = await self._outlast(self._finish)
            while self._n_users:
                problem = await self._outlast(self._wait_until_idle) or problem
            if self._closefd:
                problem = await self._outlast(self._close_fd, is_once=True) or problem
            else:
                self._fd = -1
            if self._delete_path is not None:
                problem = await self._outlast(self._delete) or problem
        finally:
            if self._closefd and self._fd >= 0 and not self._n_users and not self._lock.locked():
                fd, self._fd = self._fd, -1  # the backend's close() failed for lack of memory
                os.close(fd)
            done.set_result(None)
            self._closed_waiter = None
        if problem is not None:
            raise problem

    def _is_settled(self) -> bool:
        """Whether the file is not in use, and there is nothing to write."""
        return not self._n_users and not self._lock.locked() and not self._unwritten()

    async def _outlast(self, step: Any, is_once: bool = False) -> BaseException | None:
        """Run a step of closing to its end in spite of cancellations; returns the first exception."""
        problem: BaseException | None = None
        while True:
            try:
                await step()
                return problem
            except asyncio.CancelledError as error:
                problem = problem or error
                if is_once or not (self._has_positions or self._is_regular):
                    return problem
            except Exception as error:
                return problem or error

    async def _wait_until_idle(self) -> None:
        self._idle = self._loop.create_future()
        await asyncio.wait([self._idle])

    async def _delete(self) -> None:
        assert self._delete_path is not None
        with suppress(FileNotFoundError):
            await self._backend.unlink(self._delete_path, None, False)

    async def _finish(self) -> None:
        """Before closing: write buffered data."""

    def _unwritten(self) -> Buffer:
        return b""

    def _close_at_once(self) -> None:
        """Close by blocking calls: the loop that the file was opened on is closed."""
        fd, self._fd = self._fd, -1
        self._is_closing = True
        try:
            self._write_now(fd, bytes(self._unwritten()))
            if not self._closefd and self._has_positions and not self._is_appending:
                os.lseek(fd, self._position, os.SEEK_SET)
        finally:
            if self._closefd:
                os.close(fd)
            if self._delete_path is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._delete_path)

    def _write_now(self, fd: int, rest: bytes) -> None:
        """Write buffered data by blocking calls."""
        start = self._position - len(rest)
        n_written = 0
        while n_written < len(rest):
            piece = rest[n_written:]
            if self._has_positions and not self._is_appending:
                n_written += os.pwrite(fd, piece, start + n_written)
            else:
                n_written += os.write(fd, piece)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        fd = getattr(self, "_fd", -1)
        if fd < 0:
            return
        try:
            if self._closefd and sys is not None and not sys.is_finalizing():
                name = repr(self)
                if self._text_kind is not None:
                    name = "<uringloop.files.TextFile name={!r} mode={!r} encoding={!r}>".format(
                        self.name, *self._text_kind
                    )
                # The warning shows the line where the last reference was dropped, as with io's files.
                _warn(f"unclosed file {name}{self._opened_at}", ResourceWarning, stacklevel=2, source=self)
        finally:  # a warning may be an exception
            self._fd = -1
            self._is_closing = True
            self._end_forgotten(fd)

    def _end_forgotten(self, fd: int) -> None:
        """Write buffered data, as io does, and close.

        The reader of a pipe may be this loop, so that a write that waits would wait for ever: a thread writes the data
        for which the pipe has no room.  The interpreter waits for it at its end, as it waits for io's file.
        """
        rest = bytes(self._unwritten())
        try:
            with suppress(OSError):
                if rest and (self._has_positions or self._is_regular):
                    self._write_now(fd, rest)
                    rest = b""
                elif rest:
                    rest = rest[_write_ready(fd, rest) :]
                    if rest:
                        own_fd = os.dup(fd)
                        try:
                            threading.Thread(target=_write_and_close, args=(own_fd, rest)).start()
                        except RuntimeError:  # the interpreter ends
                            _write_and_close(own_fd, rest)
        finally:
            if self._closefd:
                with suppress(OSError):
                    os.close(fd)
            if self._delete_path is not None:
                with suppress(OSError):
                    os.unlink(self._delete_path)
