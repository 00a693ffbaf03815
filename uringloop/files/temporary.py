"""Temporary files and directories, with the arguments of the tempfile module's.

`async with TemporaryFile() as file:`, or `file = await TemporaryFile()` and `await file.close()`. One that is left
open is removed with its last reference, after a ResourceWarning.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, overload

from .backend import Backend, Opened, Path
from .buffered import BufferedFile
from .choice import backend_of
from .common import BinaryFile
from .functions import mkdir
from .misuse import AsyncWith
from .modes import check_text_arguments, parse_mode, resolve_encoding
from .opening import AnyFile, BinaryMode, Opening, TextMode, make_file, place_of_caller
from .raw import RawFile
from .text import TextFile

_ATTEMPTS = 10_000
# States of a TemporaryDirectory
_NOT_AWAITED, _AWAITED, _THERE, _REMOVED = "not awaited yet", "awaited", "there", "removed"
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
# Errors of O_TMPFILE where the file system, or the kernel's support of it, has no files without names.
_HAS_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


def _new_name(suffix: str, prefix: str, folder: str) -> str:
    return os.path.join(folder, prefix + os.urandom(6).hex() + suffix)


async def _folder(backend: Backend, folder: Path | None) -> str:
    if folder is not None:
        return os.path.abspath(os.fsdecode(folder))
    return await backend.call(tempfile.gettempdir)  # the first call tries where it can write


async def _open_named(backend: Backend, suffix: str, prefix: str, folder: str) -> tuple[Opened, str]:
    for _ in range(_ATTEMPTS):
        path = _new_name(suffix, prefix, folder)
        try:
            return await backend.open(path, _FLAGS, 0o600), path
        except FileExistsError:
            continue
        except asyncio.CancelledError:
            with suppress(OSError):  # it may have been made
                os.unlink(path)
            raise
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
        opened.close()
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
    place: str,
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

    return Opening(open_it, f"uringloop.files.{'Named' if is_named else ''}TemporaryFile", (mode,), place)


@overload
def TemporaryFile(
    mode: TextMode,
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    *,
    errors: str | None = None,
) -> Opening[TextFile]: ...
@overload
def TemporaryFile(  # type: ignore[overload-overlap]
    mode: BinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    *,
    errors: None = None,
) -> Opening[RawFile]: ...
@overload
def TemporaryFile(  # type: ignore[overload-overlap]
    mode: BinaryMode = "w+b",
    *,
    buffering: Literal[0],
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    errors: None = None,
) -> Opening[RawFile]: ...
@overload
def TemporaryFile(
    mode: BinaryMode = "w+b",
    buffering: int = -1,
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    *,
    errors: None = None,
) -> Opening[BufferedFile]: ...
@overload
def TemporaryFile(
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    *,
    errors: str | None = None,
) -> Opening[Any]: ...
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
    place = place_of_caller()
    return _opening(mode, buffering, encoding, newline, suffix, prefix, dir, errors, False, True, place)


@overload
def NamedTemporaryFile(
    mode: TextMode,
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
) -> Opening[TextFile]: ...
@overload
def NamedTemporaryFile(  # type: ignore[overload-overlap]
    mode: BinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    *,
    errors: None = None,
) -> Opening[RawFile]: ...
@overload
def NamedTemporaryFile(  # type: ignore[overload-overlap]
    mode: BinaryMode = "w+b",
    *,
    buffering: Literal[0],
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    errors: None = None,
) -> Opening[RawFile]: ...
@overload
def NamedTemporaryFile(
    mode: BinaryMode = "w+b",
    buffering: int = -1,
    encoding: None = None,
    newline: None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    *,
    errors: None = None,
) -> Opening[BufferedFile]: ...
@overload
def NamedTemporaryFile(
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Path | None = None,
    delete: bool = True,
    *,
    errors: str | None = None,
) -> Opening[Any]: ...
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
    place = place_of_caller()
    return _opening(mode, buffering, encoding, newline, suffix, prefix, dir, errors, True, delete, place)


class TemporaryDirectory(AsyncWith):
    """A directory that is removed with all its contents, as tempfile.TemporaryDirectory.

    `async with TemporaryDirectory() as path:`, or `await` it, take its `name`, and `await cleanup()`.
    """

    def __init__(self, suffix: str | None = None, prefix: str | None = None, dir: Path | None = None) -> None:
        self._parts = suffix or "", "tmp" if prefix is None else prefix
        self._dir = dir
        self._place = place_of_caller()
        self._state = _NOT_AWAITED
        self.name = ""

    def __repr__(self) -> str:
        return f"<uringloop.files.TemporaryDirectory {self.name!r} {self._state}>"

    def __del__(self, _warn: Any = warnings.warn) -> None:
        state = getattr(self, "_state", _REMOVED)
        if state not in (_NOT_AWAITED, _THERE) or sys is None or sys.is_finalizing():
            return
        place = self._place and f", called{self._place}"
        if state == _NOT_AWAITED:
            text = f"uringloop.files.TemporaryDirectory() was never awaited{place}"
            _warn(text, RuntimeWarning, stacklevel=2, source=self)
            return
        _warn(f"implicitly cleaning up {self!r}{place}", ResourceWarning, stacklevel=2, source=self)
        shutil.rmtree(self.name, ignore_errors=True)  # as tempfile's; no task is left that could wait for it

    async def _make(self) -> TemporaryDirectory:
        if self._state != _NOT_AWAITED:
            raise RuntimeError("this uringloop.files.TemporaryDirectory() was awaited already")
        self._state = _AWAITED
        backend = backend_of(asyncio.get_running_loop())
        folder = await _folder(backend, self._dir)
        for _ in range(_ATTEMPTS):
            path = _new_name(*self._parts, folder)
            try:
                await mkdir(path, 0o700)
            except FileExistsError:
                continue
            except asyncio.CancelledError:
                with suppress(OSError):  # it may have been made
                    os.rmdir(path)
                raise
            self.name, self._state = path, _THERE
            return self
        raise FileExistsError(errno.EEXIST, "No usable temporary directory name found")

    def __await__(self) -> Generator[Any, Any, TemporaryDirectory]:
        return self._make().__await__()

    async def cleanup(self) -> None:
        """Remove it and its contents. In the default executor."""
        if self.name:
            self._state = _REMOVED
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
