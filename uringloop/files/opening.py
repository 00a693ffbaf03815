"""`open`: its result can be awaited or used with `async with`, and warns if neither happens."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import sys
import warnings
from asyncio.events import _get_running_loop
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from ..support.errors import os_error
from .backend import Backend, Opened, Path
from .buffered import BufferedFile
from .choice import backend_of
from .common import BinaryFile
from .misuse import AsyncWith
from .modes import (
    Mode,
    check_file,
    check_text_arguments,
    parse_mode,
    resolve_encoding,
    warn_of_line_buffering,
)
from .raw import RawFile
from .text import TextFile

AnyFile = RawFile | BufferedFile | TextFile
_F = TypeVar("_F", bound=AnyFile)
Opener = Callable[[str, int], int]
TextMode = Literal["r", "w", "a", "x", "r+", "w+", "a+", "x+", "rt", "wt", "at", "xt", "r+t", "w+t"]
BinaryMode = Literal["rb", "wb", "ab", "xb", "rb+", "r+b", "wb+", "w+b", "ab+", "a+b", "xb+", "x+b"]


def place_of_caller() -> str:
    """ " at FILE:LINE" of the call of `open` or the like, in asyncio's debug mode or Python's; else nothing."""
    loop = _get_running_loop()
    if not (sys.flags.dev_mode if loop is None else loop.get_debug()):
        return ""
    frame = sys._getframe(2)
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}"


class Opening(AsyncWith, Coroutine[Any, Any, _F]):
    """A file that will be opened: by `await`, or by `async with`, which also closes it.

    It is also a coroutine, so that tasks take it as it is: one that is cancelled before its first step then ends it as
    it ends any coroutine, without a warning.
    """

    def __init__(self, open_it: Callable[[], Any], function: str, args: tuple[Any, ...], place: str) -> None:
        self._open_it: Callable[[], Any] | None = open_it
        self._file: _F | None = None
        self._coroutine: Coroutine[Any, Any, _F] | None = None  # what a task runs
        self._args = args
        self._place = place
        self.__name__ = self.__qualname__ = function  # for a task's repr()

    def __repr__(self) -> str:
        return f"<{self._call()} {'awaited' if self._open_it is None else 'not awaited yet'}>"

    def _call(self) -> str:
        return f"{self.__name__}({', '.join(map(repr, self._args))})"

    if not TYPE_CHECKING:  # type checkers know it from the class

        def __getattr__(self, name):
            hint = "" if name.startswith("_") else f": `await {self._call()}` gives the file"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

        def __enter__(self):
            self.close()  # the error says enough: no warning that it was never awaited
            super().__enter__()

        def __getitem__(self, index):
            """`for` calls it."""
            self.close()
            raise TypeError(
                f"`await {self._call()}` gives the file: iterate that with `async for`, not `for`"
            )

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if getattr(self, "_open_it", None) is None or sys is None or sys.is_finalizing():
            return
        # As for a coroutine. The warning shows the line where the last reference was dropped.
        place = self._place and f", called{self._place}"
        _warn(f"{self._call()} was never awaited{place}", RuntimeWarning, stacklevel=2, source=self)

    async def _open(self) -> _F:
        if self._open_it is None:
            raise RuntimeError(f"{self._call()} was awaited already")
        open_it, self._open_it = self._open_it, None
        file: _F = await open_it()
        if self._place:
            binary: BinaryFile = file.buffer if isinstance(file, TextFile) else file
            binary._opened_at = f" opened{self._place}"
        return file

    def __await__(self) -> Generator[Any, Any, _F]:
        return self._open().__await__()

    def send(self, value: Any) -> Any:
        if self._coroutine is None:
            self._coroutine = self._open()
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        if self._coroutine is None:
            self._coroutine, self._open_it = self._open(), None
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._open_it = None
        if self._coroutine is not None:
            self._coroutine.close()

    async def __aenter__(self) -> _F:
        self._file = await self._open()
        return self._file

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._file is not None
        await self._file.close()


@overload
def open(
    file: Path | int,
    mode: TextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[TextFile]: ...
@overload
def open(  # type: ignore[overload-overlap]
    file: Path | int,
    mode: BinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[RawFile]: ...
@overload
def open(
    file: Path | int,
    mode: BinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[BufferedFile]: ...
@overload
def open(
    file: Path | int,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]: ...
def open(
    file: Path | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Opener | None = None,
) -> Opening[Any]:
    """Open a file, with the arguments and exceptions of the builtin `open`.

    `async with uringloop.open(path) as file:` or `file = await uringloop.open(path)`. On io_uring without threads
    (except for an `opener`), on other loops, including stock asyncio, in the default executor.

    Raises: ValueError and TypeError at once, OSError when it is awaited.
    """
    wanted = parse_mode(mode)
    target = check_file(file)
    if not closefd and not isinstance(target, int):
        raise ValueError("Cannot use closefd=False with file name")
    check_text_arguments(wanted, buffering, encoding, errors, newline)
    warn_of_line_buffering(wanted, buffering)
    if not wanted.is_binary:
        encoding = resolve_encoding(encoding)
    sys.audit("open", file, mode, wanted.flags)
    name = file if isinstance(file, int) else target

    async def open_it() -> AnyFile:
        backend = backend_of(asyncio.get_running_loop())
        opened = await open_fd(backend, target, wanted.flags, opener)
        return await make_file(
            backend,
            opened,
            wanted,
            mode,
            name,
            closefd,
            buffering,
            encoding,
            errors,
            newline,
            is_foreign=opener is not None or isinstance(target, int),
        )

    return Opening(open_it, "uringloop.open", (name, mode), place_of_caller())


async def open_fd(
    backend: Backend, target: str | bytes | int, flags: int, opener: Opener | None = None
) -> Opened:
    """The descriptor for `open`; directories are refused."""
    is_own = not isinstance(target, int)
    try:
        if isinstance(target, int):
            opened = await backend.describe(target)
        elif opener is not None:
            opened = await _by_opener(backend, opener, target, flags)
        else:
            opened = await backend.open(target, flags, 0o666)
    except OSError as error:
        if error.filename is None and is_own:  # io does not name an invalid descriptor
            error.filename = target
        raise
    if stat.S_ISDIR(opened.st_mode):
        if is_own:
            opened.close()
        raise os_error(errno.EISDIR, filename=target)
    return opened


async def _by_opener(
    backend: Backend, opener: Callable[[Any, int], int], target: str | bytes, flags: int
) -> Opened:
    """The user's own function opens the file, in a thread: it may block."""

    def job() -> Opened:
        opened = Opened()
        fd = opener(target, flags | os.O_CLOEXEC)
        if not isinstance(fd, int):
            raise TypeError("expected integer from opener")
        if fd < 0:
            raise ValueError(f"opener returned {fd}")
        opened.own(fd)
        return opened

    opened = await backend.call(job, undo=Opened.close)
    os.set_inheritable(opened.fd, False)
    seen = await backend.describe(opened.fd)
    opened.st_mode, opened.st_size, opened.st_blksize = seen.st_mode, seen.st_size, seen.st_blksize
    return opened


async def make_file(
    backend: Backend,
    opened: Opened,
    wanted: Mode,
    mode: str,
    name: Any,
    closefd: bool,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    is_foreign: bool = False,
) -> AnyFile:
    """The file object for a descriptor; where there can be none, one that was opened here is closed."""
    file: BinaryFile | None = None
    try:
        if wanted.is_binary and buffering == 0:
            file = raw = RawFile(backend, opened, wanted, name, closefd, is_foreign)
            raw._adopt(opened)
            return raw
        # For binary files 1 is not a size: the default is used, after a warning.
        size = buffering if buffering > 1 else -1
        file = buffered = BufferedFile(backend, opened, wanted, name, closefd, is_foreign, size)
        buffered._adopt(opened)
        if wanted.is_readable and wanted.is_writable and not buffered._is_seekable:
            raise io.UnsupportedOperation("File or stream is not seekable.")
        if wanted.is_binary:
            return buffered
        assert encoding is not None
        is_line_buffered = buffering == 1 or (buffering < 0 and await buffered.isatty())
        return TextFile(buffered, mode, encoding, errors, newline, is_line_buffered)
    except BaseException:
        if file is not None and not opened.is_owned:
            file._close_at_once()  # no coroutine: making one may fail; nothing is buffered yet
        opened.close()
        raise
