"""Files by requests on the loop's ring: without our threads, and for data in the page cache without the kernel's.

The kernel does these while requests are submitted: reads that hit the page cache, opens of names in the name cache,
close. It hands these to its own workers: writes on most file systems (not XFS, Btrfs), fsync, truncate, statx and
everything about names, opens that create. A worker can be cancelled where the call it makes can be interrupted.

A request (its `keepalive`, or the arguments of add_sqe) holds the memory to which its SQE points until the final
completion, which every await here outlasts, cancelled or not.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Sequence
from typing import Any

from ..liburing import ffi, lib
from ..support.errors import os_error
from .backend import OFFSET_MOST, STREAM, Backend, Buffer, Opened, Path
from .page_cache import DONE, LATER, Block
from .ring_requests import (
    BASIC_STATS,
    EMPTY_PATH,
    FDCWD,
    REMOVEDIR,
    SYMLINK_FOLLOW,
    SYMLINK_NOFOLLOW,
    RingFiles,
    describe_now,
)

# Bytes of a file per request: more would be copied within one submission, and nothing else would get a turn.
_PIECE_BYTES = 1024 * 1024
# Bytes per write: a kernel worker copies them, and does not leave its CPU to the loop meanwhile.
_WRITE_BYTES = 1024 * 1024
# Flags for writing to a socket.
_DONT_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
# Bytes to request from a stream: what a pipe holds.
_STREAM_BYTES = 64 * 1024

_IOV_MAX = os.sysconf("SC_IOV_MAX")

# Flags of open(2) with which a submission never opens (the second is O_TMPFILE without its bits that are other flags).
_FOR_WORKERS = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)

# Whether os.link obeys follow_symlinks. Older ones do so only where they call linkat(2), for a dir_fd;
# link(2) does not on Linux. It came with a bug fix (gh-81793), so no version shows it; the signature does.
_LINK_FOLLOWS = "os.name" in (getattr(os.link, "__text_signature__", None) or "")


def _at(dir_fd: int | None) -> int:
    return FDCWD if dir_fd is None else dir_fd


class RingBackend(Backend):
    """Each operation is a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._ring = RingFiles(loop)
        self._add: Any = loop.add_sqe  # type: ignore[attr-defined]

    async def open(self, path: Path, flags: int, mode: int, dir_fd: int | None = None) -> Opened:
        name = os.fsencode(path)
        flags |= os.O_CLOEXEC
        if flags & os.O_NONBLOCK:
            return await self._openat(dir_fd, name, flags, mode)
        # The submission opens without waiting, as if O_NONBLOCK were given: the writing end of a FIFO then fails, the
        # reading end opens before any writer. An open left to a worker would wait there, and workers are few: with
        # eight FIFOs without a reader no file could be written any more.
        is_for_worker = bool(flags & _FOR_WORKERS)
        try:
            opened = await self._openat(dir_fd, name, flags | (os.O_NONBLOCK if is_for_worker else 0), mode)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return _described(await self.open_fifo(path, flags, mode, dir_fd))
            if error.errno != errno.EAGAIN:
                raise
            # Another process has a lease on the file, and a minute at most to give it back.
            return await self._openat(dir_fd, name, flags, mode)
        if stat.S_ISFIFO(opened.st_mode) and not flags & (os.O_WRONLY | os.O_RDWR):
            try:
                return _described(await self.open_fifo(path, flags, mode, dir_fd))
            finally:
                opened.close()
        if is_for_worker:
            fcntl.fcntl(opened.fd, fcntl.F_SETFL, flags)
        return opened

    async def _openat(self, dir_fd: int | None, name: bytes, flags: int, mode: int) -> Opened:
        opened = Opened()
        if not flags & _FOR_WORKERS:
            fd = self._ring.open_cached(_at(dir_fd), name, flags)
            if fd >= 0:
                opened.own(fd)
                return _described(opened)
        request = self._ring.openat(_at(dir_fd), name, flags, mode)
        try:
            opened.fd = await request
            opened.is_owned = True
        except asyncio.CancelledError:
            if (fd := _result(request)) >= 0:
                os.close(fd)
            raise
        return _described(opened)

    async def describe(self, fd: int) -> Opened:
        return _described(Opened(fd))

    async def close(self, fd: int, is_slow: bool = False) -> None:
        try:
            request = self._ring.close(fd, is_slow)
        except BaseException:  # there is no request
            os.close(fd)
            raise
        try:
            await request
        except asyncio.CancelledError:
            if _result(request) == -errno.ECANCELED:
                os.close(fd)
            raise

    # Reading and writing

    async def read(self, fd: int, count: int, offset: int) -> bytes:
        if offset < 0:
            return await self._read_stream(fd, min(count, _STREAM_BYTES))
        block = Block(count)
        await self.fill(fd, block, offset)
        data: bytes = block.take()
        return data

    async def fill(self, fd: int, block: Block, offset: int) -> None:
        state = block.state
        while True:
            if state == LATER:
                state = await self.fill_later(fd, block, offset)
            if state == DONE:
                return
            count = min(_PIECE_BYTES, block.size - block.filled)
            done = await self._ring.read(fd, block, count, offset + block.filled)
            block.add(done)
            if done < count or block.filled == block.size:
                return
            if self.cached is not None and block.is_cacheable:
                state = self.cached.go_on(fd, block, offset)

    async def _read_stream(self, fd: int, count: int) -> bytes:
        while True:
            block = Block(count)
            request = self._ring.read(fd, block, count, STREAM)
            try:
                block.add(await request)
                data: bytes = block.take()
                return data
            except BlockingIOError:
                await self.ready(fd, select.POLLIN)
            except asyncio.CancelledError as error:
                if (n := _result(request)) > 0:
                    block.add(n)
                    error.outcome = block.take()  # type: ignore[attr-defined]
                raise

    async def write(self, fd: int, data: Buffer, offset: int) -> int:
        if len(data) > _WRITE_BYTES:
            data = memoryview(data)[:_WRITE_BYTES]
        is_socket = False
        if offset == STREAM:
            is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
            if not is_socket and os.isatty(fd):
                return await self.write_terminal(fd, data)
        while True:
            if is_socket:
                # A write(2) that waits for room occupies a kernel thread where the peer has shut down its side.
                request = self._add(lib.io_uring_prep_send, fd, ffi.from_buffer(data), len(data), _DONT_WAIT)
            else:
                request = self._ring.write(fd, data, offset if offset >= 0 else STREAM)
            try:
                written: int = await request
                return written
            except BlockingIOError:
                await self.ready(fd, select.POLLOUT)
            except asyncio.CancelledError as error:
                error.outcome = max(_result(request), 0)  # type: ignore[attr-defined]
                raise

    async def readv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return await self._vectored(lib.io_uring_prep_readv, fd, buffers, offset, True)

    async def writev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return await self._vectored(lib.io_uring_prep_writev, fd, buffers, offset, False)

    async def _vectored(
        self, prep: Any, fd: int, buffers: Sequence[Buffer], offset: int, is_written_to: bool
    ) -> int:
        views = [ffi.from_buffer("char[]", one, require_writable=is_written_to) for one in buffers]
        if len(views) > _IOV_MAX:
            raise os_error(errno.EINVAL)
        vectors = ffi.new("struct iovec[]", len(views))
        for vector, view in zip(vectors, views, strict=True):
            vector.iov_base, vector.iov_len = view, len(view)
        result: int = await self._add(prep, fd, vectors, len(views), offset, keepalive=views)
        return result

    async def splice(
        self, source_fd: int, source_offset: int, target_fd: int, target_offset: int, count: int
    ) -> int:
        # The kernel hands each splice to a worker.  One that waited there would occupy a thread, so it is
        # submitted when both ends are ready, and does not wait for a pipe.
        while True:
            if source_offset < 0:
                await self.ready(source_fd, select.POLLIN)
            if target_offset < 0:
                await self.ready(target_fd, select.POLLOUT)
            request = self._add(
                lib.io_uring_prep_splice,
                source_fd,
                source_offset,
                target_fd,
                target_offset,
                count,
                os.SPLICE_F_NONBLOCK,
            )
            try:
                moved: int = await request
                return moved
            except BlockingIOError:
                continue  # another process took the data, or the room
            except asyncio.CancelledError as error:
                error.outcome = max(_result(request), 0)  # type: ignore[attr-defined]
                raise

    async def ready(self, fd: int, events: int) -> None:
        wanted = events | select.POLLERR | select.POLLHUP
        if await self._add(lib.io_uring_prep_poll_add, fd, events) & wanted:
            return
        # A peer that has shut down its side: the kernel reports that at once, for any polled events.  A
        # multishot poll reports it once, and then new events.
        polls = self._add(lib.io_uring_prep_poll_multishot, fd, events, multishot=True)
        try:
            async for cqe in polls:
                if cqe.res < 0 or cqe.res & wanted:
                    return
        finally:
            await polls.aclose()

    # Changing a file without reading or writing it

    async def fsync(self, fd: int, data_only: bool) -> None:
        await self._add(lib.io_uring_prep_fsync, fd, lib.IORING_FSYNC_DATASYNC if data_only else 0)

    async def truncate(self, fd: int, length: int) -> None:
        try:
            if 0 <= length <= OFFSET_MOST:
                await self._add(lib.io_uring_prep_ftruncate, fd, length)
                return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # The kernel has no such request before Linux 6.9, or the length is wrong.
        await self.call(os.ftruncate, fd, length)

    async def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        await self._add(lib.io_uring_prep_fallocate, fd, mode, offset, length)

    async def fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        if length >= 1 << 32:  # in the request it is 32 bits wide before Linux 6.10; 0 means to the end
            await self.call(os.posix_fadvise, fd, offset, length, advice)
            return
        await self._add(lib.io_uring_prep_fadvise, fd, offset, length, advice)

    # Names

    async def stat(self, path: Path | int, dir_fd: int | None, follow_symlinks: bool) -> os.stat_result:
        answer = ffi.new("struct statx *")
        if isinstance(path, int):
            at, name, flags = path, b"", EMPTY_PATH
        else:
            at, name, flags = _at(dir_fd), os.fsencode(path), 0 if follow_symlinks else SYMLINK_NOFOLLOW
        await self._add(lib.io_uring_prep_statx, at, name, flags, BASIC_STATS, answer)
        return _stat_result(answer)

    async def rename(
        self, source: Path, target: Path, source_dir: int | None, target_dir: int | None
    ) -> None:
        names = _at(source_dir), os.fsencode(source), _at(target_dir), os.fsencode(target)
        await self._add(lib.io_uring_prep_renameat, *names, 0)

    async def unlink(self, path: Path, dir_fd: int | None, is_directory: bool) -> None:
        flags = REMOVEDIR if is_directory else 0
        await self._add(lib.io_uring_prep_unlinkat, _at(dir_fd), os.fsencode(path), flags)

    async def mkdir(self, path: Path, mode: int, dir_fd: int | None) -> None:
        await self._add(lib.io_uring_prep_mkdirat, _at(dir_fd), os.fsencode(path), mode)

    async def symlink(self, target: Path, path: Path, dir_fd: int | None) -> None:
        await self._add(lib.io_uring_prep_symlinkat, os.fsencode(target), _at(dir_fd), os.fsencode(path))

    async def link(
        self,
        source: Path,
        target: Path,
        source_dir: int | None,
        target_dir: int | None,
        follow_symlinks: bool,
    ) -> None:
        is_linkat = _LINK_FOLLOWS or source_dir is not None or target_dir is not None
        flags = SYMLINK_FOLLOW if follow_symlinks and is_linkat else 0
        names = _at(source_dir), os.fsencode(source), _at(target_dir), os.fsencode(target)
        await self._add(lib.io_uring_prep_linkat, *names, flags)


def _described(opened: Opened) -> Opened:
    opened.st_mode, opened.st_size, opened.st_blksize = describe_now(opened.fd)
    return opened


def _result(request: Any) -> int:
    """What a request that was cancelled did in the end."""
    result: int = request.cqe.res
    return result


def _stat_result(seen: Any) -> os.stat_result:
    """struct statx as what os.stat returns."""
    times = [seen.stx_atime, seen.stx_mtime, seen.stx_ctime]
    device = os.makedev(seen.stx_dev_major, seen.stx_dev_minor)
    numbers = seen.stx_mode, seen.stx_ino, device, seen.stx_nlink, seen.stx_uid, seen.stx_gid, seen.stx_size
    more: dict[str, Any] = {
        "st_blksize": seen.stx_blksize,
        "st_blocks": seen.stx_blocks,
        "st_rdev": os.makedev(seen.stx_rdev_major, seen.stx_rdev_minor),
    }
    for letter, time in zip("amc", times, strict=True):
        more[f"st_{letter}time"] = time.tv_sec + 1e-9 * time.tv_nsec
        more[f"st_{letter}time_ns"] = time.tv_sec * 1_000_000_000 + time.tv_nsec
    return os.stat_result((*numbers, *(time.tv_sec for time in times)), more)
