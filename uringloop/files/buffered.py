"""BufferedFile: binary files with read-ahead and collected writes, as io.BufferedReader, Writer and Random in one.

How it works:
1. Reading takes from `_ahead`, bytes that were read already; `_at` is the first not returned yet. Other bytes are
   read in chunks. A chunk that follows the one before it is twice as large, up to READ_AHEAD_MOST_BYTES; after a
   jump it is small again, or no larger than what is requested. An explicit `buffering=` fixes the size of chunks.
2. Writing collects in `_dirty`, which is written when it would grow beyond the size of the buffer, and by flush().
   Data larger than the buffer is written at once, from the caller's memory.
3. A call that needs only memory, or data that is cached (page_cache), returns without yielding control (read_ahead).

Invariant: there are bytes in `_ahead` or in `_dirty`, never in both; for a seekable file `_position` is that of
`_ahead[_at]`, or the end of `_dirty`. A cancelled read leaves `_ahead` and `_position` as if it had not begun (bytes
taken from a stream stay in `_ahead`); a cancelled write has removed from `_dirty` exactly the bytes that were written.

Memory: at most READ_AHEAD_MOST_BYTES or WRITE_BUFFER_BYTES (or `buffering=`), and what the caller requests.
"""

from __future__ import annotations

import asyncio
import io
import operator
import os
from asyncio.events import _get_running_loop
from typing import Any

from .backend import OFFSET_MOST, STREAM, Backend, Buffer, Opened, outcome_of
from .common import BinaryFile, bytes_view, writable_view
from .modes import Mode, c_int, c_size, optional_size
from .read_ahead import ReadAhead

READ_AHEAD_FIRST_BYTES = 8 * 1024
READ_AHEAD_MOST_BYTES = 256 * 1024
WRITE_BUFFER_BYTES = 128 * 1024


class BufferedFile(ReadAhead, BinaryFile):  # type: ignore[misc]
    """The file object of `open(..., "rb")` and other binary modes."""

    # of the compiled base class
    _ahead: bytes
    _at: int
    _dirty: bytearray
    _chunk_bytes: int
    _chunk_first_bytes: int
    _chunk_most_bytes: int
    _chunk_end: int
    _position: int

    def __init__(
        self,
        backend: Backend,
        opened: Opened,
        mode: Mode,
        name: str | bytes | int,
        closefd: bool,
        is_foreign: bool,
        buffering: int = -1,
    ) -> None:
        super().__init__(backend, opened, mode, name, closefd, is_foreign)
        self._is_readable = mode.is_readable
        if buffering > 1:
            self._chunk_first_bytes = self._chunk_most_bytes = self._most_dirty_bytes = buffering
        else:
            self._chunk_first_bytes = READ_AHEAD_FIRST_BYTES
            self._chunk_most_bytes = READ_AHEAD_MOST_BYTES
            self._most_dirty_bytes = WRITE_BUFFER_BYTES
        self._chunk_bytes = self._chunk_first_bytes

    def _check_readable(self, what: str) -> None:
        if not self._mode.is_readable:
            raise io.UnsupportedOperation(what)

    def _check_writable(self, what: str) -> None:
        if not self._mode.is_writable:
            raise io.UnsupportedOperation(what)

    # Reading

    async def read(self, size: int | None = -1, /) -> bytes:
        """`size` bytes, fewer only at the end; or everything to the end."""
        found: bytes | None = self._read_now(size)
        if found is not None:
            return found
        self._check_readable("read")
        size = optional_size(size)
        if size < -1:
            raise ValueError("read length must be non-negative or -1")
        self._check_open("read of closed file")
        async with self._lock:
            return await (self._read_everything() if size < 0 else self._read(size))

    async def _read(self, size: int) -> bytes:
        if self._dirty:
            await self._write_dirty()
        have = len(self._ahead) - self._at
        if size <= have:
            return self._take(size)
        if self._has_positions and size >= self._chunk_most_bytes:
            parts = [self._ahead[self._at :]] if have else []
            position = self._position + have
            missing = size - have
            while missing:
                part = await self._read_at(missing, position)
                parts.append(part)
                position += len(part)
                missing -= len(part)
                if not part or (missing and self._is_regular and self._size_hint_bytes):
                    break
            self._forget_ahead()
            self._position = self._chunk_end = position
            return parts[0] if len(parts) == 1 else b"".join(parts)
        await self._fill(size)
        return self._take(min(size, len(self._ahead) - self._at))

    async def _read_everything(self) -> bytes:
        if self._dirty:
            await self._write_dirty()
        have = self._ahead[self._at :]
        rest = await self._read_rest(self._position + len(have))
        self._forget_ahead()
        self._position = self._chunk_end = self._position + len(have) + len(rest)
        return have + rest if have else rest

    def _take(self, size: int) -> bytes:
        data = self._ahead if size == len(self._ahead) else self._ahead[self._at : self._at + size]
        self._at += size
        self._position += size
        if self._at == len(self._ahead):
            self._ahead, self._at = b"", 0
        return data

    def _n_ahead(self) -> int:
        return len(self._ahead) - self._at

    def _forget_ahead(self) -> None:
        self._ahead, self._at = b"", 0

    def _give_back(self, parts: list[bytes], n_older: int | None = None) -> None:
        """Put them behind the bytes ahead, or behind the first n_older of those."""
        if not self._has_positions and parts:
            ahead = self._ahead[self._at :]
            if n_older is None:
                n_older = len(ahead)
            self._ahead, self._at = b"".join([ahead[:n_older], *parts, ahead[n_older:]]), 0

    def _changed(self) -> None:
        super()._changed()
        if self._ahead and self._has_positions:
            self._forget_ahead()

    async def _fill(self, size: int) -> None:
        """Read until there are `size` bytes ahead, or the end."""
        while True:
            n_changes = self._n_changes
            parts: list[bytes] = []
            have = n_older = len(self._ahead) - self._at
            try:
                while have < size:
                    part = await self._chunk(size - have, self._position + have)
                    if not part:
                        break
                    parts.append(part)
                    have += len(part)
            except BaseException:
                self._give_back(parts, n_older)  # before what _chunk() has given back
                raise
            if n_changes == self._n_changes or not self._has_positions:
                break  # else a pwrite() came in between: bytes ahead are gone, those just read may be out of date
        if parts:
            if self._at < len(self._ahead):
                parts.insert(0, self._ahead[self._at :])
            self._ahead, self._at = parts[0] if len(parts) == 1 else b"".join(parts), 0

    def _next_chunk_bytes(self, position: int) -> int:
        if position == self._chunk_end:
            return min(2 * self._chunk_bytes, self._chunk_most_bytes)
        return self._chunk_first_bytes

    async def _chunk(self, wanted: int, position: int) -> bytes:
        """One read of a good size; nothing at the end."""
        if not self._has_positions:
            try:
                return await self._read_at(max(self._chunk_bytes, wanted), STREAM)
            except (asyncio.CancelledError, MemoryError) as error:
                self._give_back([outcome_of(error) or b""])
                raise
        self._chunk_bytes = self._next_chunk_bytes(position)
        while True:
            n_changes = self._n_changes
            part = await self._read_at(max(self._chunk_bytes, wanted), position)
            if (
                n_changes == self._n_changes
            ):  # else a pwrite() came in between, and part may be from before it
                self._chunk_end = position + len(part)
                return part

    async def read1(self, size: int = -1, /) -> bytes:
        """The available bytes, at most `size`, with at most one read."""
        self._check_readable("read1")
        self._check_open("read of closed file")
        size = c_size(size)
        if size < 0:
            size = self._chunk_first_bytes
        async with self._lock:
            if size and self._at == len(self._ahead):
                if self._dirty:
                    await self._write_dirty()
                self._ahead, self._at = (
                    await self._chunk(size if self._has_positions else 1, self._position),
                    0,
                )
            return self._take(min(size, len(self._ahead) - self._at))

    async def _read_some(self, size: int) -> bytes:
        """For TextFile: `size` bytes of a file, fewer only at its end; available ones of a stream. At most one read."""
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            while (have := len(self._ahead) - self._at) < size and (self._is_regular or not have):
                n_changes = self._n_changes
                wanted = size - have if self._has_positions else 1
                part = await self._chunk(wanted, self._position + have)
                if n_changes == self._n_changes or not self._has_positions:
                    self._ahead, self._at = self._ahead[self._at :] + part if have else part, 0
                    break  # else a pwrite() came in between: the bytes ahead are gone
            return self._take(min(size, len(self._ahead) - self._at))

    async def readinto(self, buffer: Any, /) -> int:
        """Fill the caller's memory as far as there is data; returns how many bytes."""
        return await self._readinto(buffer, self.read)

    async def readinto1(self, buffer: Any, /) -> int:
        """The same with at most one read."""
        return await self._readinto(buffer, self.read1)

    async def _readinto(self, buffer: Any, how: Any) -> int:
        self._check_readable("read")
        self._check_open("readinto of closed file")
        view = writable_view(buffer, "readinto1" if how == self.read1 else "readinto")
        if not self._has_positions or len(view) < self._chunk_most_bytes or how == self.read1:
            data = await how(len(view))
            view[: len(data)] = data
            return len(data)
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            done = len(self._ahead) - self._at
            if done >= len(view):
                done = len(view)
                view[:] = self._take(done)
                return done
            view[:done] = self._ahead[self._at :]
            while done < len(view):
                count = await self._readinto_at(view[done:], self._position + done)
                if not count:
                    break
                done += count
            self._forget_ahead()
            self._position = self._chunk_end = self._position + done
            return done

    async def peek(self, size: int = 0, /) -> bytes:
        """The available bytes without taking them, after at most one read."""
        c_size(size)
        self._check_readable("peek")
        self._check_open("peek of closed file")
        async with self._lock:
            if self._at == len(self._ahead):
                if self._dirty:
                    await self._write_dirty()
                self._ahead, self._at = await self._chunk(1, self._position), 0
            return self._ahead[self._at :]

    async def readline(self, size: int | None = -1, /) -> bytes:
        """A line with its end; at most `size` bytes of it."""
        size = optional_size(size)
        line = self._line_ahead() if self._lock.is_idle() and not self._is_closing and size < 0 else b""
        if line:
            return line
        self._check_readable("read")
        self._check_open("readline of closed file")
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            searched = 0
            while True:
                have = len(self._ahead) - self._at
                end = self._ahead.find(b"\n", self._at + searched) + 1 - self._at
                if 0 <= size <= (end if end > 0 else have):
                    return self._take(size)
                if end > 0:
                    return self._take(end)
                searched = have
                await self._fill(have + 1)
                if len(self._ahead) - self._at == have:
                    return self._take(have)

    def _line_ahead(self) -> bytes:
        """The next line, if all of it is in memory."""
        end = self._ahead.find(b"\n", self._at) + 1
        if not end:
            return b""
        line = self._ahead[self._at : end]
        self._position += end - self._at
        self._at = end
        return line

    # Writing

    async def write(self, data: Any, /) -> int:
        """Take all of `data`, writing when the buffer is full; returns its length.

        Cancelled, or out of space: `characters_written` of the exception says how much of `data` was taken, which is
        written or stays in the buffer; the position is behind it.
        """
        self._check_writable("write")
        view = data if type(data) is bytes else bytes_view(data)
        size = len(view)
        self._check_open("write to closed file")
        if _get_running_loop() is not self._loop:
            self._refuse_loop()
        if len(self._dirty) + size <= self._most_dirty_bytes and not self._ahead and self._lock.is_idle():
            self._dirty += view
            self._position += size
            return size
        async with self._lock:
            self._forget_ahead()
            try:
                if len(self._dirty) + size > self._most_dirty_bytes:
                    if self._dirty:
                        await self._write_dirty()
                    if size > self._most_dirty_bytes:
                        await self._write_directly(view)
                        return size
            except (OSError, asyncio.CancelledError) as error:
                if not hasattr(error, "characters_written"):
                    error.characters_written = 0  # type: ignore[union-attr]
                raise
            self._dirty += view
            self._position += size
            return size

    async def _write_directly(self, view: Buffer) -> None:
        count = len(view)
        try:
            await self._write_all(view, self._write_offset(self._position))
        except (OSError, asyncio.CancelledError) as error:
            count = outcome_of(error) or 0
            error.characters_written = count  # type: ignore[union-attr]
            raise
        finally:
            self._position += count
            self._note_appended(count)

    async def _write_dirty(self) -> None:
        """With the lock held: write the collected bytes. Those that could not be written stay."""
        dirty = self._dirty
        count = len(dirty)
        try:
            await self._write_all(dirty, self._write_offset(self._position - count))
        except (OSError, asyncio.CancelledError) as error:
            count = outcome_of(error) or 0
            raise
        finally:
            # A new object: the kernel or a thread may read the old one's memory as long as a view of it exists.
            self._dirty = bytearray(memoryview(dirty)[count:]) if count < len(dirty) else bytearray()
            self._note_appended(count)

    async def flush(self) -> None:
        """Write the collected bytes to the file (the kernel's memory; for the disk see fsync)."""
        self._check_open("flush of closed file")
        async with self._lock:
            if self._dirty:
                await self._write_dirty()

    async def _settle(self) -> None:
        while self._dirty:
            async with self._lock:
                if self._dirty:
                    await self._write_dirty()

    async def _finish(self) -> None:
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            if not self._closefd and self._has_positions and not self._is_appending:
                # The next user of the descriptor continues where this file ended, as after io's close().
                os.lseek(self._fd, self._position, os.SEEK_SET)

    def _unwritten(self) -> Buffer:
        return self._dirty

    # Positions

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        moved: int | None = self._seek_now(offset, whence)
        if moved is not None:
            return moved
        whence = c_int(whence)
        self._check_open("seek of closed file")
        if whence not in (os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            raise ValueError(f"whence value {whence} unsupported")
        self._check_seekable()
        if not -OFFSET_MOST - 1 <= (offset := operator.index(offset)) <= OFFSET_MOST:
            raise ValueError("cannot fit 'int' into an offset-sized integer")
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            if not self._has_positions:
                if whence == os.SEEK_CUR:
                    offset -= len(self._ahead) - self._at
                self._position = await self._target(offset, whence)
                self._forget_ahead()
                return self._position
            moved = self._move(await self._target(offset, whence))
            return moved

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file, to the position if no size is given; the position stays."""
        self._check_writable("truncate")
        self._check_open("truncate of closed file")
        async with self._lock:
            if self._dirty:
                await self._write_dirty()
            self._forget_ahead()
            return await self._truncate(size)
