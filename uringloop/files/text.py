"""TextFile: text on top of a BufferedFile, as io.TextIOWrapper.

How it works:
1. Bytes are taken from `buffer` in chunks of CHUNK_BYTES and decoded by the codec's incremental decoder and
   io.IncrementalNewlineDecoder; `_decoded[_used:]` was not returned yet.
2. `_snapshot` is the decoder's state before the last chunk, and the chunk. From it tell() finds out how many bytes
   make up the characters that were taken: by bisection, since decoding is fast and encoding again is not exact.
3. Writing encodes at once; `buffer` collects the bytes.
4. A chunk that cannot be decoded is skipped, as io.TextIOWrapper skips it: the error is raised once, and reading
   continues behind it. Text decoded for the call that failed is lost with it.

Positions are numbers for seek() and nothing else, as with io.TextIOWrapper: below 2**64 they are a position in bytes,
above there are the decoder's flags and what must be decoded again to get there.
"""

from __future__ import annotations

import asyncio
import codecs
import errno
import io
import operator
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from ..support.errors import os_error
from .backend import OFFSET_MOST
from .buffered import BufferedFile
from .misuse import AsyncFor, AsyncWith
from .modes import c_int, c_size, optional_size, type_name

CHUNK_BYTES = 8192


class TextFile(AsyncWith, AsyncFor):
    """The file object of `open` without a "b" in the mode. `buffer` is the binary file below."""

    def __init__(
        self,
        buffer: BufferedFile,
        mode: str,
        encoding: str,
        errors: str | None,
        newline: str | None,
        is_line_buffered: bool,
    ) -> None:
        self.buffer = buffer
        self.mode = mode
        self.encoding = encoding
        self.errors = errors or "strict"
        self.line_buffering = is_line_buffered
        buffer._text_kind = mode, encoding
        self._lock = asyncio.Lock()
        self._readable = buffer._mode.is_readable
        self._writable = buffer._mode.is_writable
        # On reading: every kind of line end is a newline (translated or not), or one kind only.
        self._is_universal = not newline
        self._is_translating = newline is None
        self._line_end = newline or "\n"
        # On writing: what a "\n" becomes.
        self._written_end = {None: os.linesep, "": "\n"}.get(newline, newline)
        self._encoder: codecs.IncrementalEncoder | None = None
        self._decoder: Any = None
        self._decoded = ""
        self._used = 0
        self._snapshot: tuple[int, bytes] | None = None
        # Where in `_decoded` the last chunk begins, and the snapshot before it, if there are several.
        self._last: tuple[int, tuple[int, bytes]] | None = None
        # Bytes per character in the last chunk: to request as many bytes as will be needed.
        self._bytes_per_character = 0.0
        if self._readable:
            decoder: Any = codecs.getincrementaldecoder(encoding)(self.errors)
            if self._is_universal:
                decoder = io.IncrementalNewlineDecoder(decoder, self._is_translating)
            self._decoder = decoder
        if self._writable:
            self._encoder = codecs.getincrementalencoder(encoding)(self.errors)
            if buffer._is_seekable and buffer._position:
                self._encoder.setstate(0)  # no byte order mark in the middle of a file

    # Properties

    def __repr__(self) -> str:
        closed = " closed" if self.closed else ""
        kind = f"mode={self.mode!r} encoding={self.encoding!r}{closed}"
        return f"<uringloop.files.TextFile name={self.name!r} {kind}>"

    @property
    def name(self) -> Any:
        return self.buffer.name

    @property
    def closed(self) -> bool:
        return self.buffer.closed

    @property
    def newlines(self) -> Any:
        """The kinds of line ends seen so far."""
        return getattr(self._decoder, "newlines", None)

    def fileno(self) -> int:
        return self.buffer.fileno()

    async def readable(self) -> bool:
        return await self.buffer.readable()

    async def writable(self) -> bool:
        return await self.buffer.writable()

    async def seekable(self) -> bool:
        return await self.buffer.seekable()

    async def isatty(self) -> bool:
        return await self.buffer.isatty()

    def _check_open(self) -> None:
        if self.buffer.closed:
            raise ValueError("I/O operation on closed file.")

    def _check_readable(self) -> None:
        self._check_open()
        if not self._readable:
            raise io.UnsupportedOperation("not readable")

    # Reading

    async def read(self, size: int | None = -1, /) -> str:
        """`size` characters, fewer only at the end; or everything."""
        size = optional_size(size)
        self._check_readable()
        async with self._lock:
            if size < 0:
                data = await self.buffer.read()
                text: str = self._decoder.decode(data, final=True)
                everything = self._decoded[self._used :] + text
                self._forget()
                return everything
            while (missing := size - len(self._decoded) + self._used) > 0 and await self._decode_chunk(
                missing
            ):
                pass
            end = min(self._used + size, len(self._decoded))
            some = self._decoded[self._used : end]
            self._used = end
            return some

    async def _decode_chunk(self, n_wanted: int = 0) -> bool:
        """Decode one more chunk, large enough for so many characters; false at the end. Used text is dropped.

        A chunk that cannot be decoded is skipped, and the earlier text counts as used.
        """
        if self._last is not None and self._used >= self._last[0]:
            self._drop_before_last()
        pending, flags = self._decoder.getstate()
        data = await self.buffer._read_some(
            max(CHUNK_BYTES, int(max(self._bytes_per_character, 1.0) * n_wanted))
        )
        try:
            text = self._decoder.decode(data, final=not data)
        except Exception:
            if self._last is not None:
                self._drop_before_last()
            self._used = len(self._decoded)
            raise
        self._bytes_per_character = len(data) / len(text) if text else 0.0
        if self._used < len(self._decoded) and self._snapshot is not None:
            self._last = (len(self._decoded), (flags, pending + data))
            self._snapshot = (self._snapshot[0], self._snapshot[1] + data)
            self._decoded += text
        else:
            has_position = self.buffer._is_seekable and self._used == len(self._decoded)
            self._snapshot = (flags, pending + data) if has_position else None
            self._decoded = self._decoded[self._used :] + text
            self._used = 0
            self._last = None
        return bool(data or text)

    def _drop_before_last(self) -> None:
        """The chunks before the last are used up: count positions from the last."""
        assert self._last is not None
        before, self._snapshot = self._last
        self._decoded = self._decoded[before:]
        self._used -= before
        self._last = None

    async def readline(self, size: int | None = -1, /) -> str:
        """A line with its end; at most `size` characters of it."""
        most = -1 if size is None or size == -1 else c_size(size)
        if most < 0 and not self._lock.locked() and not self.buffer.closed:
            end = self._line_end_from(self._used)
            if end > 0:
                line = self._decoded[self._used : end]
                self._used = end
                return line
        self._check_readable()
        async with self._lock:
            searched = 0
            while True:
                end = self._line_end_from(self._used + searched) - self._used
                have = len(self._decoded) - self._used
                if end > 0 or (self._decoded and 0 <= most <= have):
                    break
                # The last character may be the first half of "\r\n".
                searched = max(have - 1, 0)
                try:
                    has_more = await self._decode_chunk()
                except ValueError:  # of the decoder; the beginning of the line is lost, as in io
                    self._decoded, self._used = "", 0
                    raise
                if not has_more:
                    line = self._decoded[self._used :]
                    self._forget()
                    return line
            if end <= 0:
                end = have
            if most >= 0:
                end = min(end, most)
            line = self._decoded[self._used : self._used + end]
            self._used += end
            return line

    def _line_end_from(self, start: int) -> int:
        """The index behind the first line end from `start` on, 0 if there is none."""
        decoded = self._decoded
        if self._is_translating or not self._is_universal:
            at = decoded.find(self._line_end, start)
            return at + len(self._line_end) if at >= 0 else 0
        newline, carriage = decoded.find("\n", start), decoded.find("\r", start)
        if carriage < 0 or 0 <= newline < carriage:
            return newline + 1
        # The decoder never ends a chunk between "\r" and "\n".
        return carriage + 2 if newline == carriage + 1 else carriage + 1

    async def readlines(self, hint: int | None = None, /) -> list[str]:
        """All lines, or as many as make up `hint` characters."""
        lines: list[str] = []
        n_characters, most = 0, optional_size(hint)
        while line := await self.readline():
            lines.append(line)
            n_characters += len(line)
            if 0 < most < n_characters:
                break
        return lines

    def __aiter__(self) -> TextFile:
        self._check_open()
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    # Writing

    async def write(self, text: str, /) -> int:
        """Encode and write; returns how many characters. Cancelled: see BufferedFile.write, whose bytes these are."""
        self._check_open()
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type_name(text)}")
        if self._encoder is None:
            raise io.UnsupportedOperation("not writable")
        async with self._lock:
            has_end = self.line_buffering and ("\n" in text or "\r" in text)
            written = text
            if self._written_end != "\n" and "\n" in text:
                written = text.replace("\n", self._written_end or "\n")
            encoded = self._encoder.encode(written)  # an error leaves everything as it was
            self._forget()
            if self._decoder is not None:
                self._decoder.reset()
            await self.buffer.write(encoded)
            if has_end:
                await self.buffer.flush()
            return len(text)

    async def writelines(self, lines: Iterable[str], /) -> None:
        self._check_open()
        for line in lines:
            await self.write(line)

    async def flush(self) -> None:
        self._check_open()
        await self.buffer.flush()

    async def fsync(self) -> None:
        """Write buffers and the file's data and metadata to the disk."""
        self._check_open()
        await self.buffer.fsync()

    async def fdatasync(self) -> None:
        """The same without metadata that reading does not need."""
        self._check_open()
        await self.buffer.fdatasync()

    # Positions

    def _forget(self) -> None:
        self._decoded, self._used, self._snapshot, self._last = "", 0, None, None

    async def tell(self) -> int:
        """A number for seek()."""
        self._check_open()
        if not self.buffer._is_seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        async with self._lock:
            await self._settle_position()
            return self._tell()

    async def _settle_position(self) -> None:
        """The end of appended text, or the kernel's position after it, is known only once it is written."""
        if self.buffer._dirty and (self.buffer._is_appending or not self.buffer._has_positions):
            await self.buffer.flush()
        self.buffer._ask_position()

    def _tell(self) -> int:
        position = self.buffer._position
        if self._decoder is None or self._snapshot is None:
            return position
        if self._last is not None and self._used >= self._last[0]:
            self._drop_before_last()
        flags, data = self._snapshot
        position -= len(data)
        if not self._used:
            return _pack(position, flags, 0, 0, False)
        state = self._decoder.getstate()
        try:
            # The fewest bytes that make at least as many characters as were taken.
            low, high = 0, len(data)
            while low < high:
                middle = (low + high) // 2
                if self._count(flags, data[:middle]) >= self._used:
                    high = middle
                else:
                    low = middle + 1
            is_final = False
            if (count := self._count(flags, data[:low])) < self._used:
                is_final = True  # characters that come only at the end of the file
            elif count == self._used:
                pending, flags_there = self._decoder.getstate()
                if not pending:
                    return _pack(position + low, flags_there, 0, 0, False)
            elif low:
                # One byte makes several characters, of which not all were taken: after "\r", for instance.
                before = self._count(flags, data[: low - 1])
                pending, flags_there = self._decoder.getstate()
                if not pending:
                    return _pack(position + low - 1, flags_there, 1, self._used - before, False)
            return _pack(position, flags, low, self._used, is_final)
        finally:
            self._decoder.setstate(state)

    def _count(self, flags: int, data: bytes, is_final: bool = False) -> int:
        self._decoder.setstate((b"", flags))
        return len(self._decoder.decode(data, final=is_final))

    async def seek(self, cookie: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to the beginning, the end, or where tell() was called."""
        self._check_open()
        whence = c_int(whence)
        cookie = operator.index(cookie)
        if not self.buffer._is_seekable:
            raise io.UnsupportedOperation("underlying stream is not seekable")
        async with self._lock:
            if whence == os.SEEK_CUR:
                if cookie != 0:
                    raise io.UnsupportedOperation("can't do nonzero cur-relative seeks")
                await self._settle_position()
                cookie = self._tell()
            elif whence == os.SEEK_END:
                if cookie != 0:
                    raise io.UnsupportedOperation("can't do nonzero end-relative seeks")
                position = await self.buffer.seek(0, os.SEEK_END)
                self._forget()
                if self._decoder is not None:
                    self._decoder.reset()
                self._restart_encoder(position)
                return position
            elif whence != os.SEEK_SET:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            if cookie < 0:
                raise ValueError(f"negative seek position {cookie}")
            await self._go(cookie)
            return cookie

    async def _go(self, cookie: int) -> None:
        position, flags, n_bytes, n_characters, is_final = _unpack(cookie)
        if position > OFFSET_MOST:  # to io it is a negative one
            raise os_error(errno.EINVAL)
        await self.buffer.seek(position)
        self._forget()
        if self._decoder is not None:
            if cookie:
                self._decoder.setstate((b"", flags))
            else:
                self._decoder.reset()
            self._snapshot = (flags, b"")  # a second seek to the same position must restore the same state
            if n_bytes or n_characters:
                data = await self.buffer.read(n_bytes)
                self._decoded = self._decoder.decode(data, final=is_final)
                self._snapshot = (flags, data)
                if len(self._decoded) < n_characters:
                    raise OSError("can't restore logical file position")
                self._used = n_characters
        self._restart_encoder(cookie)

    def _restart_encoder(self, position: int) -> None:
        """At the beginning there is a byte order mark, elsewhere none."""
        if self._encoder is not None:
            if position:
                self._encoder.setstate(0)
            else:
                self._encoder.reset()

    async def truncate(self, size: int | None = None, /) -> int:
        """Cut or extend the file to `size` bytes, or to the position of `buffer`."""
        self._check_open()
        if not self._writable:
            raise io.UnsupportedOperation("truncate")
        async with self._lock:
            # The position is the buffer's: as with io, behind what was read ahead.
            return await self.buffer.truncate(size)

    # Closing

    async def close(self) -> None:
        """Write buffered text and close the file."""
        await self.buffer.close()

    async def __aenter__(self) -> TextFile:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()


def _pack(position: int, flags: int, n_bytes: int, n_characters: int, is_final: bool) -> int:
    return position | flags << 64 | n_bytes << 128 | n_characters << 192 | is_final << 256


def _unpack(cookie: int) -> tuple[int, int, int, int, bool]:
    mask = (1 << 64) - 1
    return (
        cookie & mask,
        cookie >> 64 & mask,
        cookie >> 128 & mask,
        cookie >> 192 & mask,
        bool(cookie >> 256),
    )
