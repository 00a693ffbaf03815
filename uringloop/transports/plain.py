"""Which sockets are the kernel's and nothing else, so that system calls may take the place of their methods.

Not so: a subclass that counts or encrypts in a send() of its own, a class that PySocks, gevent or mocket has put into
the place of socket.socket, a wrapper with the same methods.  Stock asyncio calls the methods of whatever it is given;
for such sockets so do we, by asyncio's own transports, which reach the loop through _add_reader and _add_writer.
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
    """Python's socket class, also where another one derived from it stands in its place; None if there is no such."""
    for kind in getattr(socket.socket, "__mro__", ()):
        if kind.__module__ == "socket" and kind.__qualname__ == "socket":
            return cast("type[socket.socket]", kind)
    return None


ORIGINAL = _original()


_accept = None if ORIGINAL is None else ORIGINAL.accept


def is_original(sock: object) -> bool:
    """Its class is Python's own: accept() of it does what the kernel's does."""
    return (
        ORIGINAL is not None
        and type(sock) is ORIGINAL
        and ORIGINAL.accept is _accept
        and "_accept" not in vars(ORIGINAL)
    )


def is_class_plain(methods: Collection[str]) -> bool:
    """None of these methods is replaced in Python's class itself: unittest.mock.patch("socket.socket.recv")."""
    return ORIGINAL is not None and vars(ORIGINAL).keys().isdisjoint(methods)


def is_plain(sock: object, methods: Collection[str]) -> bool:
    """None of these methods is replaced, in its class or in the object."""
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
