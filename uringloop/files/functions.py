"""The functions of `os` for names and directories, as coroutines with the same arguments, results and exceptions.

Requests on io_uring: stat, lstat, rename, replace, unlink, remove, mkdir, makedirs, rmdir, symlink, link. In the
default executor on every loop, because io_uring has no such operations: readlink, listdir, scandir.
"""

from __future__ import annotations

import asyncio
import os
import stat as _stat
import sys
from collections.abc import Awaitable, Iterator
from types import TracebackType
from typing import Any, TypeVar, overload

from .backend import Backend, Path
from .choice import backend_of
from .misuse import AsyncFor, AsyncWith
from .modes import check_path

_T = TypeVar("_T")

_SCAN_BATCH = 256


def _backend() -> Backend:
    return backend_of(asyncio.get_running_loop())


async def _named(operation: Awaitable[_T], path: Path | int, path2: Path | None = None) -> _T:
    """Exceptions name the files, as those of `os` do."""
    try:
        return await operation
    except OSError as error:
        if error.filename is None:
            error.filename = path if isinstance(path, int) else os.fspath(path)
            if path2 is not None:
                error.filename2 = os.fspath(path2)
        raise


def _dir(dir_fd: int | None) -> int:
    """For audit events, in which os passes -1 for none."""
    return -1 if dir_fd is None else dir_fd


async def stat(
    path: Path | int, *, dir_fd: int | None = None, follow_symlinks: bool = True
) -> os.stat_result:
    """As os.stat."""
    if not isinstance(path, int):
        check_path(path)
    elif dir_fd is not None:
        raise ValueError("stat: can't specify dir_fd without matching path")
    elif not follow_symlinks:
        raise ValueError("stat: cannot use fd and follow_symlinks together")
    elif path < 0:
        return os.stat(path)  # raises; io_uring would take -100, AT_FDCWD, for the working directory
    return await _named(_backend().stat(path, dir_fd, follow_symlinks), path)


async def lstat(path: Path, *, dir_fd: int | None = None) -> os.stat_result:
    """As os.lstat."""
    if isinstance(path, int):
        raise TypeError(f"lstat: path should be string, bytes or os.PathLike, not {type(path).__name__}")
    return await stat(path, dir_fd=dir_fd, follow_symlinks=False)


async def rename(
    src: Path, dst: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """As os.rename."""
    check_path(src)
    check_path(dst)
    sys.audit("os.rename", src, dst, _dir(src_dir_fd), _dir(dst_dir_fd))
    await _named(_backend().rename(src, dst, src_dir_fd, dst_dir_fd), src, dst)


async def replace(
    src: Path, dst: Path, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
) -> None:
    """As os.replace, which on Linux is os.rename."""
    await rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


async def unlink(path: Path, *, dir_fd: int | None = None) -> None:
    """As os.unlink."""
    check_path(path)
    sys.audit("os.remove", path, _dir(dir_fd))
    await _named(_backend().unlink(path, dir_fd, False), path)


remove = unlink


async def rmdir(path: Path, *, dir_fd: int | None = None) -> None:
    """As os.rmdir."""
    check_path(path)
    sys.audit("os.rmdir", path, _dir(dir_fd))
    await _named(_backend().unlink(path, dir_fd, True), path)


async def mkdir(path: Path, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
    """As os.mkdir."""
    check_path(path)
    sys.audit("os.mkdir", path, mode, _dir(dir_fd))
    await _named(_backend().mkdir(path, mode, dir_fd), path)


async def makedirs(name: Path, mode: int = 0o777, exist_ok: bool = False) -> None:
    """As os.makedirs: all missing directories of a path."""
    name = os.fspath(name)
    parent, last = os.path.split(name)
    if not last:
        parent, last = os.path.split(parent)
    if parent and last and not await _is(parent, None):
        try:
            await makedirs(parent, exist_ok=exist_ok)
        except FileExistsError:
            pass  # another process or thread made it meanwhile
        if last in (".", b"."):
            return
    try:
        await mkdir(name, mode)
    except OSError:
        # Systems differ in the error for a directory that exists, "/" for instance.
        if not exist_ok or not await _is(name, _stat.S_ISDIR):
            raise


async def _is(path: Path, kind: Any) -> bool:
    """Whether the path exists and is of that kind."""
    try:
        seen = await stat(path)
    except (OSError, ValueError):
        return False
    return kind is None or bool(kind(seen.st_mode))


async def symlink(
    src: Path, dst: Path, target_is_directory: bool = False, *, dir_fd: int | None = None
) -> None:
    """As os.symlink."""
    check_path(src)
    check_path(dst)
    sys.audit("os.symlink", src, dst, _dir(dir_fd))
    await _named(_backend().symlink(src, dst, dir_fd), src, dst)


async def link(
    src: Path,
    dst: Path,
    *,
    src_dir_fd: int | None = None,
    dst_dir_fd: int | None = None,
    follow_symlinks: bool = True,
) -> None:
    """As os.link."""
    check_path(src)
    check_path(dst)
    sys.audit("os.link", src, dst, _dir(src_dir_fd), _dir(dst_dir_fd))
    await _named(_backend().link(src, dst, src_dir_fd, dst_dir_fd, follow_symlinks), src, dst)


@overload
async def readlink(path: str | os.PathLike[str], *, dir_fd: int | None = None) -> str: ...
@overload
async def readlink(path: bytes | os.PathLike[bytes], *, dir_fd: int | None = None) -> bytes: ...
async def readlink(path: Path, *, dir_fd: int | None = None) -> Any:
    """As os.readlink. In the default executor."""

    def read() -> Any:
        return os.readlink(path, dir_fd=dir_fd)  # type: ignore[type-var]

    return await _backend().call(read)


@overload
async def listdir(path: str | os.PathLike[str] | int | None = None) -> list[str]: ...
@overload
async def listdir(path: bytes | os.PathLike[bytes]) -> list[bytes]: ...
async def listdir(path: Path | int | None = None) -> Any:
    """As os.listdir. In the default executor."""
    return await _backend().call(os.listdir, path)


class Scanning(AsyncWith, AsyncFor):
    """What `scandir` returns: `async for entry in scandir(path)`, or `async with` in order to stop early."""

    def __init__(self, path: Path | int | None) -> None:
        self._path = path
        self._scan: Any = None
        self._batch: Iterator[os.DirEntry[Any]] = iter(())
        self._is_over = False

    def __aiter__(self) -> Scanning:
        return self

    async def __anext__(self) -> os.DirEntry[Any]:
        while True:
            for entry in self._batch:
                return entry
            if self._is_over:
                raise StopAsyncIteration
            # Cancelled: the batch is kept for the next call.
            await _backend().call(self._read_batch)

    def _read_batch(self) -> None:
        """In a thread."""
        if self._scan is None:
            self._scan = os.scandir(self._path)
        entries = []
        for entry in self._scan:
            entries.append(entry)
            if len(entries) == _SCAN_BATCH:
                break
        else:
            self._close()
        self._batch = iter(entries)

    def _close(self) -> None:
        self._is_over = True
        if self._scan is not None:
            self._scan.close()

    async def close(self) -> None:
        """Close the directory, which reading to the end also does."""
        self._batch = iter(())
        if not self._is_over:
            await _backend().call(self._close)

    async def __aenter__(self) -> Scanning:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()


def scandir(path: Path | int | None = None) -> Scanning:
    """The entries of a directory, as those of os.scandir. In the default executor, some hundred at a time."""
    return Scanning(path)
