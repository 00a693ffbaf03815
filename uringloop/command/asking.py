"""The client's end of the live view: which processes offer one, and what one of them answers.

The other process may be anything that listens there: its answer is bounded in bytes and in time, and is only data.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..observing import places

ANSWER_S = 2.0  # a process that has the GIL all the time does not answer


class NoView(Exception):
    """There is no live view, or none that this user may have."""


class NoAnswer(NoView):
    """There is one, and its process did not answer in time."""


@dataclass(frozen=True)
class Offer:
    """A process that offers a view."""

    pid: int
    path: Path
    command: str


def path_of(url: str) -> Path:
    """The path of `unix:///run/x.sock`, or of a plain path.

    Raises: NoView for other URLs.
    """
    if "://" not in url:
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "unix" or parts.netloc or not parts.path:
        raise NoView(f"a view has a URL of the form unix:///path, not {url}")
    return Path(unquote(parts.path))


def offers(uid: int | None = None) -> list[Offer]:
    """The processes of a user, by default this one, that offer a view."""
    uid = os.geteuid() if uid is None else uid
    return [
        Offer(pid, path, _command(pid))
        for folder in places.folders(uid)
        for pid, path in places.sockets(folder, uid)
        if places.is_served(path)
    ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def path_for(pid: int) -> Path:
    """The socket of a process.

    Raises: NoView with the remedy, if it offers none.
    """
    try:
        uid = os.stat(f"/proc/{pid}").st_uid
    except OSError:
        raise NoView(f"there is no process {pid}") from None
    if uid != os.geteuid() and os.geteuid() != 0:
        raise NoView(
            f"the process {pid} belongs to another user ({uid}): only that user and root may view it"
        )
    for one in offers(uid):
        if one.pid == pid:
            return one.path
    raise NoView(
        f"the process {pid} offers no view: start it with URINGLOOP_TOP=1, or call uringloop.serve_view() in it"
    )


def ask(path: Path, request: bytes = places.STATE, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """What the process answers.

    Raises: NoAnswer if it does not in time; NoView if there is none, or one of another user, or no view at all.
    """
    ends_at = time.monotonic() + timeout_s
    try:
        _check_owner(os.stat(path), path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            _, uid = places.peer_of(connection)
            if not (places.may_talk(uid) or os.geteuid() == 0):
                raise NoView(f"the process at {path} belongs to another user ({uid})")
            connection.sendall(request)
            return _document(_received(connection, ends_at), path)
    except (TimeoutError, BlockingIOError):
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except FileNotFoundError:
        raise NoView(f"there is no view: {path}") from None
    except ConnectionRefusedError:
        raise NoView(f"its process has ended: {path}") from None
    except OSError as error:
        raise NoView(f"{error}: {path}") from error


def _check_owner(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISSOCK(status.st_mode):
        raise NoView(f"not a socket: {path}")
    if not (places.may_talk(status.st_uid) or os.geteuid() == 0):
        raise NoView(f"{path} belongs to another user ({status.st_uid})")


def _received(connection: socket.socket, ends_at: float) -> bytes:
    parts: list[bytes] = []
    count = 0
    while count <= places.MOST_ANSWER_BYTES:
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        part = connection.recv(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)
        count += len(part)
    raise OSError("its answer is too large")


def _document(text: bytes, path: Path) -> dict[str, Any]:
    if not text:
        raise NoView(f"the process at {path} gave no answer: it has too many peers, or ends")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NoView(f"what {path} answers is not of uringloop") from None
    if not isinstance(found, dict) or found.get("protocol") != places.PROTOCOL:
        raise NoView(f"what {path} answers is of another version of uringloop")
    if "error" in found:
        raise NoView(str(found["error"]))
    return found
