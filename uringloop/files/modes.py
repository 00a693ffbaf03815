"""The arguments of `open`, checked as io.open checks them and with its words."""

from __future__ import annotations

import codecs
import io
import locale
import operator
import os
import sys
import warnings
from typing import Any, NamedTuple

from .backend import Path

_NEWLINES = (None, "", "\n", "\r", "\r\n")

_HAS_OWN_NAME = sys.version_info >= (3, 15)  # open(path, "w+b").mode is "wb+"; it was "rb+" before


class Mode(NamedTuple):
    """What a mode string means."""

    is_readable: bool
    is_writable: bool
    is_appending: bool
    is_binary: bool
    flags: int  # of open(2)
    raw_name: str  # FileIO's name for it: "rb", "rb+", "wb", "ab+" ...


# mode string -> Mode; there are few, apart from invalid ones.
_known: dict[str, Mode] = {}


def parse_mode(mode: str) -> Mode:
    """Raises: TypeError, ValueError, with io.open's texts."""
    if not isinstance(mode, str):
        raise TypeError(f"open() argument 'mode' must be str, not {type(mode).__name__}")
    known = _known.get(mode)
    if known is None:
        known = _known[mode] = _parse(mode)
    return known


def _parse(mode: str) -> Mode:
    letters = set(mode)
    if letters - set("axrwb+t") or len(mode) > len(letters):
        raise ValueError(f"invalid mode: {mode!r}")
    if "t" in letters and "b" in letters:
        raise ValueError("can't have text and binary mode at once")
    kinds = letters & set("rwax")
    if len(kinds) > 1:
        raise ValueError("must have exactly one of create/read/write/append mode")
    if not kinds:
        raise ValueError("Must have exactly one of create/read/write/append mode and at most one plus")
    kind, is_updating = kinds.pop(), "+" in letters
    is_readable = kind == "r" or is_updating
    is_writable = kind != "r" or is_updating
    flags = os.O_RDWR if is_readable and is_writable else os.O_WRONLY if is_writable else os.O_RDONLY
    flags |= {
        "r": 0,
        "w": os.O_CREAT | os.O_TRUNC,
        "a": os.O_CREAT | os.O_APPEND,
        "x": os.O_CREAT | os.O_EXCL,
    }[kind]
    plus = "+" if is_updating else ""
    raw_name = ("rb" if kind == "w" and is_updating and not _HAS_OWN_NAME else f"{kind}b") + plus
    return Mode(is_readable, is_writable, kind == "a", "b" in letters, flags, raw_name)


def check_text_arguments(
    mode: Mode, buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> None:
    """Raises: TypeError, ValueError, LookupError."""
    for name, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"open() argument '{name}' must be str or None, not {type(value).__name__}")
    if not isinstance(buffering, int):
        raise TypeError(f"{type(buffering).__name__!r} object cannot be interpreted as an integer")
    if mode.is_binary:
        for name, value in (("an encoding", encoding), ("an errors", errors), ("a newline", newline)):
            if value is not None:
                raise ValueError(f"binary mode doesn't take {name} argument")
        return
    if buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    if newline not in _NEWLINES:
        raise ValueError(f"illegal newline value: {newline}")
    if encoding is not None:
        codecs.lookup(encoding)


def warn_of_line_buffering(mode: Mode, buffering: int) -> None:
    """As io.open: binary files have no lines."""
    if mode.is_binary and buffering == 1:
        warnings.warn(
            "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used",
            RuntimeWarning,
            stacklevel=3,
        )


def resolve_encoding(encoding: str | None) -> str:
    """The encoding of a text file for which none, or "locale", was given; warns as io.open does."""
    encoding = io.text_encoding(encoding, 3)
    return locale.getencoding() if encoding == "locale" else encoding


def check_file(file: Path | int) -> str | bytes | int:
    """The path or descriptor; raises TypeError and ValueError as io.open does."""
    if isinstance(file, int):
        if not -(1 << 31) <= file < 1 << 31:
            raise TypeError("expected str, bytes or os.PathLike object, not int")
        if file < 0:
            raise ValueError("negative file descriptor")
        return file
    try:
        path = os.fspath(file)
    except TypeError:
        raise TypeError(f"expected str, bytes or os.PathLike object, not {type(file).__name__}") from None
    check_path(path)
    return path


def type_name(value: Any) -> str:
    """The name of a value's type where io refuses it as an argument."""
    return "None" if value is None else type(value).__name__


def optional_size(size: Any) -> int:
    """A number of bytes or characters, -1 for None; raises TypeError with io's text."""
    if size is None:
        return -1
    try:
        number = operator.index(size)
    except TypeError:
        raise TypeError(f"argument should be integer or None, not {type(size).__name__!r}") from None
    if not -sys.maxsize - 1 <= number <= sys.maxsize:
        raise OverflowError("cannot fit 'int' into an index-sized integer")
    return number


def c_size(value: Any) -> int:
    """An integer that io's methods take as a C ssize_t; raises TypeError and OverflowError with their texts."""
    number = operator.index(value)
    if not -sys.maxsize - 1 <= number <= sys.maxsize:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def c_int(value: Any) -> int:
    """An integer that io's methods take as a C int; raises TypeError, and OverflowError for others."""
    number = operator.index(value)
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError("Python int too large to convert to C int")
    return number


def check_path(path: Path) -> None:
    """Raises: ValueError for a NUL inside, which the kernel would take for the end."""
    raw = os.fspath(path)
    if (b"\0" if isinstance(raw, bytes) else "\0") in raw:  # type: ignore[operator]
        raise ValueError("embedded null byte")
