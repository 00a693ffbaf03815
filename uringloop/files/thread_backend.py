"""Files by the default executor: for loops on epoll and poll, and every other asyncio loop.

Operations that may wait for ever do not wait in a thread: reads and writes of pipes, terminals and sockets wait in the
loop until the descriptor is ready, through a duplicate of it (other code may watch the same number), and then transfer
no more than is possible without waiting. Opening a FIFO waits in a separate thread (`Backend.open_fifo`).
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ..support.errors import os_error
from .backend import APPEND, Backend, Buffer, Opened, Path
from .page_cache import DONE, LATER, Block

_T = TypeVar("_T")

# A call reads no more (MAX_RW_COUNT of the kernel); otherwise it reads less than requested only at the end of a file.
_READ_MOST_BYTES = 0x7FFFF000


def _describe(opened: Opened) -> Opened:
    seen = os.fstat(opened.fd)
    opened.st_mode, opened.st_size, opened.st_blksize = seen.st_mode, seen.st_size, seen.st_blksize
    return opened


def _open(path: Path, flags: int, mode: int, dir_fd: int | None) -> Opened | None:
    """None if it is a FIFO, which may wait for ever."""
    if not flags & os.O_NONBLOCK and _is_fifo(path, dir_fd):
        return None
    opened = Opened()
    opened.own(os.open(path, flags, mode, dir_fd=dir_fd))
    return _describe(opened)


def _unopen(opened: Opened | None) -> None:
    if opened is not None:
        opened.close()


def _close_what_is_left(left: list[int]) -> None:
    """Close the fd in this list, if it is still there: pop() is atomic.

    Where no thread was available at once, it was closed without one.
    """
    with suppress(IndexError):
        os.close(left.pop())


def _is_fifo(path: Path, dir_fd: int | None) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path, dir_fd=dir_fd).st_mode)
    except (OSError, ValueError):
        return False


class ThreadBackend(Backend):
    """Each operation is a call in a thread."""

    async def open(self, path: Path, flags: int, mode: int, dir_fd: int | None = None) -> Opened:
        flags |= os.O_CLOEXEC
        opened = await self.call(_open, path, flags, mode, dir_fd, undo=_unopen)
        return opened or _describe(await self.open_fifo(path, flags, mode, dir_fd))

    async def describe(self, fd: int) -> Opened:
        return await self.call(_describe, Opened(fd))

    async def close(self, fd: int, is_slow: bool = False) -> None:
        left: list[int] | None = None
        try:
            left = [fd]
            await self.call(_close_what_is_left, left, is_due=True)
        except BaseException:
            if left is None:
                os.close(fd)
            else:
                _close_what_is_left(left)
            raise

    # Reading and writing

    async def read(self, fd: int, count: int, offset: int) -> bytes:
        if offset >= 0:
            return await self.call(os.pread, fd, count, offset)
        return await self._when_ready(fd, select.POLLIN, os.read, fd, count)

    async def fill(self, fd: int, block: Block, offset: int) -> None:
        if block.state == LATER and await self.fill_later(fd, block, offset) == DONE:
            return
        count = _READ_MOST_BYTES
        while count == _READ_MOST_BYTES:
            count = await self.call(os.preadv, fd, [block], offset + block.filled)
            block.add(count)

    async def write(self, fd: int, data: Buffer, offset: int) -> int:
        if offset >= 0:
            return await self.call(os.pwrite, fd, data, offset)
        if offset == APPEND:
            return await self.call(os.write, fd, data)
        if os.isatty(fd):
            return await self.write_terminal(fd, data)
        # A pipe that is ready takes this much without waiting.
        some = data if len(data) <= select.PIPE_BUF else memoryview(data)[: select.PIPE_BUF]
        return await self._when_ready(fd, select.POLLOUT, os.write, fd, some)

    async def readv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return await self.call(os.preadv, fd, buffers, offset)

    async def writev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        return await self.call(os.pwritev, fd, buffers, offset)

    async def splice(
        self, source_fd: int, source_offset: int, target_fd: int, target_offset: int, count: int
    ) -> int:
        if source_offset < 0:
            await self.ready(source_fd, select.POLLIN)
        if target_offset < 0:
            await self.ready(target_fd, select.POLLOUT)
        offsets = {}
        if source_offset >= 0:
            offsets["offset_src"] = source_offset
        if target_offset >= 0:
            offsets["offset_dst"] = target_offset

        def splice() -> int:
            try:
                return os.splice(source_fd, target_fd, count, flags=os.SPLICE_F_NONBLOCK, **offsets)
            except BlockingIOError:
                return -1

        while (moved := await self.call(splice)) < 0:
            if source_offset < 0:
                await self.ready(source_fd, select.POLLIN)
            if target_offset < 0:
                await self.ready(target_fd, select.POLLOUT)
        return moved

    async def _when_ready(self, fd: int, events: int, function: Callable[..., _T], *args: Any) -> _T:
        while True:
            await self.ready(fd, events)
            try:
                return await self.call(function, *args)
            except (
                BlockingIOError
            ):  # of a descriptor that is non-blocking: another reader or writer was quicker
                continue

    async def ready(self, fd: int, events: int) -> None:
        """Wait until a descriptor is ready; regular files and the like, which cannot be watched, always are."""
        watched = select.poll()
        watched.register(fd, events)
        if watched.poll(0):
            return
        loop = self.loop
        ready = loop.create_future()
        add, remove = (
            (loop.add_reader, loop.remove_reader)
            if events == select.POLLIN
            else (loop.add_writer, loop.remove_writer)
        )
        own_fd = os.dup(fd)
        try:
            add(own_fd, _wake, ready)
            try:
                await ready
            finally:
                remove(own_fd)
        except PermissionError:
            pass
        finally:
            os.close(own_fd)

    # Changing a file without reading or writing it

    async def fsync(self, fd: int, data_only: bool) -> None:
        await self.call(os.fdatasync if data_only else os.fsync, fd)

    async def truncate(self, fd: int, length: int) -> None:
        await self.call(os.ftruncate, fd, length)

    async def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        await self.call(_fallocate, fd, mode, offset, length)

    async def fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        await self.call(os.posix_fadvise, fd, offset, length, advice)

    # Names

    async def stat(self, path: Path | int, dir_fd: int | None, follow_symlinks: bool) -> os.stat_result:
        def take() -> os.stat_result:
            return os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

        return await self.call(take)

    async def rename(
        self, source: Path, target: Path, source_dir: int | None, target_dir: int | None
    ) -> None:
        await self.call(lambda: os.rename(source, target, src_dir_fd=source_dir, dst_dir_fd=target_dir))

    async def unlink(self, path: Path, dir_fd: int | None, is_directory: bool) -> None:
        await self.call(lambda: (os.rmdir if is_directory else os.unlink)(path, dir_fd=dir_fd))

    async def mkdir(self, path: Path, mode: int, dir_fd: int | None) -> None:
        await self.call(lambda: os.mkdir(path, mode, dir_fd=dir_fd))

    async def symlink(self, target: Path, path: Path, dir_fd: int | None) -> None:
        await self.call(lambda: os.symlink(target, path, dir_fd=dir_fd))

    async def link(
        self,
        source: Path,
        target: Path,
        source_dir: int | None,
        target_dir: int | None,
        follow_symlinks: bool,
    ) -> None:
        await self.call(
            lambda: os.link(
                source,
                target,
                src_dir_fd=source_dir,
                dst_dir_fd=target_dir,
                follow_symlinks=follow_symlinks,
            )
        )


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); os.posix_fallocate has no mode, and writes zeros where the file system cannot do it."""
    import ctypes  # some Pythons have none, and little else needs it

    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise os_error(code)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
