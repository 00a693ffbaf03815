"""RawFile: unbuffered binary files (`buffering=0`), one operation of the system per call, as io.FileIO."""

from __future__ import annotations

import asyncio
import io
import operator
import os
import sys
from typing import Any

from .backend import STREAM, outcome_of
from .common import BinaryFile, bytes_view, writable_view
from .modes import c_int, optional_size

_LINE_BYTES = 1024
# io.FileIO's words changed in Python 3.12, io.BufferedReader's did not.
_READINTO_ARGUMENT = "argument 1" if sys.version_info >= (3, 12) else "argument"


class RawFile(BinaryFile):
    """The file object of `open(..., "rb", buffering=0)`: reads and writes may be short, as the system's."""

    # Bytes taken out of a stream for a task that was cancelled: the next reader gets them.
    _kept = b""

    def _check_readable(self, what: str) -> None:
        if not self._mode.is_readable:
            raise io.UnsupportedOperation("File not open for reading")

    def _check_writable(self, what: str) -> None:
        if not self._mode.is_writable:
            raise io.UnsupportedOperation("File not open for writing")

    async def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, or everything to the end."""
        size = optional_size(size)
        self._check_open()
        self._check_readable("read")
        if size < 0:
            return await self.readall()
        async with self._lock:
            return await self._read(size)

    async def _read(self, size: int) -> bytes:
        if self._kept:
            data, self._kept = self._kept[:size], self._kept[size:]
            return data
        try:
            data = await self._read_at(size, self._position if self._has_positions else STREAM)
        except (asyncio.CancelledError, MemoryError) as error:
            self._give_back([outcome_of(error) or b""])
            raise
        self._position += len(data)
        return data

    async def readall(self) -> bytes:
        """Everything to the end."""
        self._check_open()
        self._check_readable("read")
        async with self._lock:
            kept, self._kept = self._kept, b""
            try:
                data = await self._read_rest(self._position)
            except BaseException:
                self._kept = kept + self._kept
                raise
            self._position += len(data)
            return kept + data

    def _give_back(self, parts: list[bytes]) -> None:
        if not self._has_positions:
            self._kept += b"".join(parts)

    def _n_ahead(self) -> int:
        return len(self._kept)

    async def readinto(self, buffer: Any, /) -> int:
        """Read once into the caller's memory; returns how many bytes."""
        self._check_open()
        self._check_readable("read")
        view = writable_view(buffer, "readinto", _READINTO_ARGUMENT)
        async with self._lock:
            if not self._has_positions:  # by way of bytes that can be kept
                data = await self._read(len(view))
                view[: len(data)] = data
                return len(data)
            count = await self._readinto_at(view, self._position)
            self._position += count
            return count

    async def readline(self, size: int | None = -1, /) -> bytes:
        """A line with its end; without a buffer, that is one byte at a time in a stream."""
        most = optional_size(size)
        self._check_open()
        self._check_readable("read")
        async with self._lock:
            line = b""
            while most < 0 or len(line) < most:
                step = 1 if not self._has_positions else _LINE_BYTES
                try:
                    part = await self._read(step if most < 0 else min(step, most - len(line)))
                except asyncio.CancelledError:
                    self._kept = line + self._kept if not self._has_positions else b""
                    self._position -= len(line)
                    raise
                end = part.find(b"\n") + 1
                if end:
                    self._position -= len(part) - end
                    return line + part[:end]
                line += part
                if not part:
                    break
            return line

    async def write(self, data: Any, /) -> int:
        """Write once; returns how many bytes were written, which may be fewer. Cancelled: see pwrite."""
        view = data if type(data) is bytes else bytes_view(data)
        self._check_open()
        self._check_writable("write")
        async with self._lock:
            self._check_transfer(self._write_errno)
            fd = self._enter()
            count = 0
            try:
                count = await self._write_some(fd, view, self._write_offset(self._position))
            except asyncio.CancelledError as error:
                count = outcome_of(error) or 0
                error.characters_written = count  # type: ignore[attr-defined]
                raise
            finally:
                self._position += count
                self._note_appended(count)
                self._leave()
            return count

    async def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check_open()
        whence = c_int(whence)
        async with self._lock:
            if self._kept and whence == os.SEEK_CUR:
                offset = operator.index(offset) - len(self._kept)
            self._position = await self._target(offset, whence)
            self._kept = b""
            return self._position

    async def truncate(self, size: int | None = None, /) -> int:
        self._check_open()
        self._check_writable("truncate")
        async with self._lock:
            return await self._truncate(size)

    async def _finish(self) -> None:
        async with self._lock:
            pass
