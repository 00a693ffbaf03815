"""Where processes offer their live view: UNIX sockets in a folder that only one user can enter.

The folder is $XDG_RUNTIME_DIR/uringloop, or /tmp/uringloop-UID where there is no such variable; a socket is PID.sock,
a further one of the same process PID.2.sock.  docs/security.md says what that protects.

Here is what both ends need: `view`, which serves, and `command/asking`, which asks.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

PROTOCOL = 1  # of requests and answers; another number is another protocol
STATE = b"uringloop-view 1 state\n"
KERNEL = b"uringloop-view 1 kernel\n"
MOST_REQUEST_BYTES = 64
MOST_ANSWER_BYTES = 8 << 20

_NAME = r"(?P<pid>[1-9]\d{0,9})(?:\.\d{1,4})?\.sock"
_CREDENTIALS = "iII"  # struct ucred: pid, uid, gid


def folders(uid: int) -> list[Path]:
    """Where a user's sockets may be: a service may have another environment than the shell that asks."""
    named = os.environ.get("XDG_RUNTIME_DIR") if uid == os.geteuid() else f"/run/user/{uid}"
    found = [Path(named, "uringloop")] if named and os.path.isabs(named) else []
    return [*found, Path(f"/tmp/uringloop-{uid}")]


def make_folder() -> Path:
    """The folder for sockets of this process.

    Raises: PermissionError if another user owns it or may enter it; OSError if it cannot be made.
    """
    named = os.environ.get("XDG_RUNTIME_DIR")
    places = folders(os.geteuid())
    folder = places[0] if named and os.path.isdir(named) else places[-1]
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_folder(folder, os.geteuid())
    return folder


def check_folder(folder: Path, uid: int) -> None:
    """Raises: PermissionError unless it is a folder of that user, which no other may enter; OSError if it is none."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is not a folder")
    if status.st_uid != uid:
        raise PermissionError(f"{folder} belongs to the user {status.st_uid}, not {uid}")
    if status.st_mode & 0o077:
        raise PermissionError(
            f"other users may enter {folder}: its mode is {stat.S_IMODE(status.st_mode):o}, not 700"
        )


def sockets(folder: Path, uid: int) -> Iterator[tuple[int, Path]]:
    """(pid, path) of the sockets in a folder of that user, also of processes that ended; nothing if it is not safe."""
    try:
        check_folder(folder, uid)
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        found = re.fullmatch(_NAME, name)
        if found:
            yield int(found["pid"]), folder / name


def is_served(path: Path) -> bool:
    """Whether a process listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


def remove_stale(folder: Path) -> None:
    """Remove the sockets that no process listens to, such as those of processes that were killed.

    A socket gets its name when its process listens already, so none of those is taken for a stale one.
    """
    for _, path in sockets(folder, os.geteuid()):
        if not is_served(path):
            with contextlib.suppress(OSError):
                path.unlink()


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """(pid, uid) of the process at the other end, as the kernel knows it; -1 where the kernel cannot name it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_CREDENTIALS))
    pid, uid, _ = struct.unpack(_CREDENTIALS, credentials)
    return pid, uid if uid != 0xFFFFFFFF else -1


def may_talk(uid: int) -> bool:
    """Whether this process serves a peer of that user, and believes it: the same user, or root."""
    return uid in (os.geteuid(), 0)
