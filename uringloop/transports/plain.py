"""Which sockets are plain kernel sockets, so that system calls may replace their methods.

Not plain: a subclass that counts or encrypts in its own send(), a class with which PySocks, gevent or mocket has
replaced socket.socket, a wrapper with the same methods.  Stock asyncio calls the methods of any object it is given;
for such sockets so do we, with asyncio's own transports, which reach the loop through _add_reader and _add_writer.
"""

from __future__ import annotations

import _socket
import socket
from collections.abc import Collection
from typing import cast

# What stock's transports call to move data.
STREAM_METHODS = ("recv", "recv_into", "send", "sendmsg")
DATAGRAM_METHODS = ("recvfrom", "send", "sendto")


def _original() -> type[socket.socket] | None:
    """Python's socket class, also where a class derived from it has replaced it; None if there is no such class."""
    for kind in getattr(socket.socket, "__mro__", ()):
        if kind.__module__ == "socket" and kind.__qualname__ == "socket":
            return cast("type[socket.socket]", kind)
    return None


ORIGINAL = _original()


_accept = None if ORIGINAL is None else ORIGINAL.accept


def is_original(sock: object) -> bool:
    """Whether its class is Python's own: its accept() does the same as the kernel's."""
    return (
        ORIGINAL is not None
        and type(sock) is ORIGINAL
        and ORIGINAL.accept is _accept
        and "_accept" not in vars(ORIGINAL)
    )


def is_class_plain(methods: Collection[str]) -> bool:
    """Whether Python's class itself still has all these methods: no unittest.mock.patch("socket.socket.recv")."""
    return ORIGINAL is not None and vars(ORIGINAL).keys().isdisjoint(methods)


def is_plain(sock: object, methods: Collection[str]) -> bool:
    """Whether no method of these is replaced, in its class or in the object."""
    kind = type(sock)
    if kind is ORIGINAL:
        return is_class_plain(methods)
    if not issubclass(kind, _socket.socket):
        return False
    own = getattr(sock, "__dict__", ())
    # no generator expression: CPython loses the arguments of a function for whose closure there is no memory
    for name in methods:  # noqa: SIM110
        if name in own or getattr(kind, name) is not getattr(_socket.socket, name):
            return False
    return True
