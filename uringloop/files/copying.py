"""Moving bytes between descriptors inside the kernel: `splice` and `copyfile`."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from typing import Any, TypeVar

from . import functions
from .backend import STREAM, Backend, Opened, Path, outcome_of
from .choice import backend_of
from .opening import open_fd

_P = TypeVar("_P", bound=Path)

# Bytes per system call: how long a cancellation may have to wait.
_COPY_BYTES = 16 << 20
_SPLICE_BYTES = 1 << 20

# copy_file_range(2) does not support this pair of files; reading and writing works.
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.ETXTBSY)


def _fd(file: Any) -> int:
    return file if isinstance(file, int) else int(file.fileno())


async def splice(
    source: Any, target: Any, count: int, *, offset_src: int | None = None, offset_dst: int | None = None
) -> int:
    """Move up to `count` bytes without copying them through the process; returns how many, fewer only at the end.

    Parameters:
        source, target: descriptors, or anything with a `fileno()`: pipes, sockets, files. If neither is a pipe, a
            pipe is used in between, so that a file can be sent over a socket. The file position of a uringloop
            file is not used: pass offsets.
        offset_src, offset_dst: where in a file to read or write; by default where the kernel's file position is.

    Waits until the descriptors are ready, blocking or not. Cancelled, or failed in the middle: `characters_written` of
    the exception says how many bytes have arrived.
    """
    backend = backend_of(asyncio.get_running_loop())
    source_fd, target_fd = _fd(source), _fd(target)
    if count < 0:
        raise ValueError("'count' must be nonnegative")
    arrived = 0
    has_pipe = any(stat.S_ISFIFO(os.fstat(fd).st_mode) for fd in (source_fd, target_fd))
    pipe = () if has_pipe else os.pipe()
    try:
        while arrived < count:
            some = min(count - arrived, _SPLICE_BYTES)
            source_at = STREAM if offset_src is None else offset_src + arrived
            target_at = STREAM if offset_dst is None else offset_dst + arrived
            try:
                if has_pipe:
                    moved = await backend.splice(source_fd, source_at, target_fd, target_at, some)
                else:
                    moved = await _through(backend, source_fd, source_at, target_fd, target_at, some, pipe)
            except (OSError, asyncio.CancelledError) as error:
                error.characters_written = arrived + (outcome_of(error) or 0)  # type: ignore[union-attr]
                raise
            if not moved:
                break
            arrived += moved
        return arrived
    finally:
        for fd in pipe:
            os.close(fd)


async def _through(
    backend: Backend,
    source_fd: int,
    source_at: int,
    target_fd: int,
    target_at: int,
    count: int,
    pipe: tuple[int, ...],
) -> int:
    """From one to the other by way of a pipe, which is empty before and after."""
    reading_fd, writing_fd = pipe
    try:
        filled = await backend.splice(source_fd, source_at, writing_fd, STREAM, count)
    except (OSError, asyncio.CancelledError) as error:
        error.outcome = 0  # type: ignore[union-attr]  # the moved bytes are in the pipe: none of them has arrived
        raise
    arrived = 0
    try:
        while arrived < filled:
            at = target_at if target_at < 0 else target_at + arrived
            arrived += await backend.splice(reading_fd, STREAM, target_fd, at, filled - arrived)
    except (OSError, asyncio.CancelledError) as error:
        error.outcome = arrived + (outcome_of(error) or 0)  # type: ignore[union-attr]
        raise
    return filled


async def copyfile(src: Path, dst: _P, *, follow_symlinks: bool = True) -> _P:
    """As shutil.copyfile: the contents of a file into another, by copy_file_range(2), which shares blocks where the
    file system can. That call is made in the default executor, on every loop: io_uring has no such operation.

    Cancelled: the new file is left incomplete, as with every failure.
    """
    backend = backend_of(asyncio.get_running_loop())
    target_path: Path = dst
    source_seen = await functions.stat(src, follow_symlinks=follow_symlinks)
    try:
        target_seen = await functions.stat(dst)
    except OSError:
        pass
    else:
        if os.path.samestat(await functions.stat(src), target_seen):
            raise shutil.SameFileError(f"{os.fspath(src)!r} and {os.fspath(target_path)!r} are the same file")
        if stat.S_ISFIFO(target_seen.st_mode):
            raise shutil.SpecialFileError(f"`{os.fspath(target_path)!r}` is a named pipe")
    if stat.S_ISFIFO(source_seen.st_mode):
        raise shutil.SpecialFileError(f"`{os.fspath(src)!r}` is a named pipe")
    if not follow_symlinks and stat.S_ISLNK(source_seen.st_mode):
        await functions.symlink(await functions.readlink(src), dst)
        return dst
    source = await open_fd(backend, os.fspath(src), os.O_RDONLY)
    try:
        target = await open_fd(backend, os.fspath(target_path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            await _copy(backend, source.fd, target.fd)
        finally:
            await _close(backend, target)
    finally:
        await _close(backend, source)
    return dst


async def _close(backend: Backend, opened: Opened) -> None:
    closing = backend.close(opened.fd)
    opened.is_owned = False  # not before: that call may fail
    await closing


async def _copy(backend: Backend, source_fd: int, target_fd: int) -> None:
    position = 0
    try:
        while True:
            count = await backend.call(
                os.copy_file_range, source_fd, target_fd, _COPY_BYTES, position, position
            )
            if not count:
                break
            position += count
    except OSError as error:
        if error.errno not in _CANNOT_COPY:
            raise
    # Nothing is left, unless the file is one that copy_file_range cannot read, as those in /proc.
    while data := await backend.read(source_fd, _SPLICE_BYTES, position):
        done = 0
        while done < len(data):
            done += await backend.write(target_fd, memoryview(data)[done:], position + done)
        position += len(data)
