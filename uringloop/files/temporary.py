"""Temporary files and directories, with the arguments of the module tempfile's.

`async with TemporaryFile() as file:`, or `file = await TemporaryFile()` and `await file.close()`. What is forgotten
open goes with its last reference, after a ResourceWarning.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from types import TracebackType
from typing import Any

from .backend import Backend, Opened, Path, backend_of
from .common import BinaryFile
from .functions import mkdir
from .modes import check_text_arguments, parse_mode, resolve_encoding
from .opening import AnyFile, Opening, make_file
from .text import TextFile

_ATTEMPTS = 10_000
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# What O_TMPFILE answers where the file system, or the kernel's idea of it, has no files without names.
_HAS_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def _new_name(suffix: str, prefix: str, folder: str) -> str:
    return os.path.join(folder, prefix + os.urandom(6).hex() + suffix)


async def _folder(backend: Backend, folder: Path | None) -> str:
    if folder is not None:
        return os.path.abspath(os.fsdecode(folder))
    return await backend.call(tempfile.gettempdir)  # which tries, the first time, where it can write


async def _open_named(backend: Backend, suffix: str, prefix: str, folder: str) -> tuple[Opened, str]:
    for _ in range(_ATTEMPTS):
        path = _new_name(suffix, prefix, folder)
        try:
            return await backend.open(path, _FLAGS, 0o600), path
        except FileExistsError:
            continue
        except OSError as error:
            if error.filename is None:
                error.filename = path
            raise
    raise FileExistsError(errno.EEXIST, "No usable temporary file name found")


async def _open_nameless(backend: Backend, suffix: str, prefix: str, folder: str) -> Opened:
    try:
        return await backend.open(folder, os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
    except OSError as error:
        if error.errno not in _HAS_NO_NAMELESS:
            if error.filename is None:
                error.filename = folder
            raise
    opened, path = await _open_named(backend, suffix, prefix, folder)
    try:
        await backend.unlink(path, None, False)
    except BaseException:
        os.close(opened.fd)
        raise
    return opened


def _opening(
    mode: str,
    buffering: int,
    encoding: str | None,
    newline: str | None,
    suffix: str | None,
    prefix: str | None,
    folder: Path | None,
    errors: str | None,
    is_named: bool,
    delete: bool,
) -> Opening[Any]:
    wanted = parse_mode(mode)
    check_text_arguments(wanted, buffering, encoding, errors, newline)
    if not wanted.is_binary:
        encoding = resolve_encoding(encoding)

    async def open_it() -> AnyFile:
        backend = backend_of(asyncio.get_running_loop())
        parts = suffix or "", "tmp" if prefix is None else prefix, await _folder(backend, folder)
        name: str | int
        if is_named:
            opened, name = await _open_named(backend, *parts)
        else:
            opened = await _open_nameless(backend, *parts)
            name = opened.fd
        # Descriptors are opened for both; the mode says what the object does.
        file = await make_file(
            backend, opened, wanted, mode, name, True, buffering, encoding, errors, newline
        )
        if is_named and delete:
            binary: BinaryFile = file.buffer if isinstance(file, TextFile) else file
            binary._delete_path = str(name)
        return file

    return Opening(open_it)


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """A file without a name, as tempfile.TemporaryFile."""
    return _opening(mode, buffering, encoding, newline, suffix, prefix, dir, errors, False, True)


def NamedTemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
) -> Opening[Any]:
    """A file with a `name`, as tempfile.NamedTemporaryFile; closing it removes it unless `delete` is false."""
    return _opening(mode, buffering, encoding, newline, suffix, prefix, dir, errors, True, delete)


class TemporaryDirectory:
    """A directory that is removed with all that is in it, as tempfile.TemporaryDirectory.

    `async with TemporaryDirectory() as path:`, or `await` it, take its `name`, and `await cleanup()`.
    """

    def __init__(self, suffix: str | None = None, prefix: str | None = None, dir: Path | None = None) -> None:
        self._parts = suffix or "", "tmp" if prefix is None else prefix
        self._dir = dir
        self.name = ""

    async def _make(self) -> TemporaryDirectory:
        backend = backend_of(asyncio.get_running_loop())
        folder = await _folder(backend, self._dir)
        for _ in range(_ATTEMPTS):
            path = _new_name(*self._parts, folder)
            try:
                await mkdir(path, 0o700)
            except FileExistsError:
                continue
            self.name = path
            return self
        raise FileExistsError(errno.EEXIST, "No usable temporary directory name found")

    def __await__(self) -> Generator[Any, Any, TemporaryDirectory]:
        return self._make().__await__()

    async def cleanup(self) -> None:
        """Remove it and what is in it. In the default executor."""
        if self.name:
            await backend_of(asyncio.get_running_loop()).call(_remove_tree, self.name)

    async def __aenter__(self) -> str:
        return (await self._make()).name

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.cleanup()


def _remove_tree(path: str) -> None:
    if os.path.lexists(path):
        shutil.rmtree(path)
