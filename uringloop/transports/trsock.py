"""What get_extra_info("socket") returns: asyncio's TransportSocket, which keeps the order of the program's writes.

A transport's writes wait for the end of the turn.  A program that uses the socket itself meanwhile must find them
sent: an option applies to later writes, shutdown() comes after the data, and so does data sent through a second
descriptor.  So each method sends first, and once the program has the socket or its number, the transport sends at
once from then on.
"""

from __future__ import annotations

import socket
import weakref
from asyncio import trsock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class _Slot(Protocol):
        def __get__(self, one: trsock.TransportSocket) -> socket.socket: ...
        def __set__(self, one: trsock.TransportSocket, sock: socket.socket) -> None: ...


# The slot: the class below has a property of this name.
_sock: _Slot = trsock.TransportSocket._sock  # type: ignore[attr-defined]


def _sends_first(name: str) -> Any:
    method = getattr(trsock.TransportSocket, name)

    def wrapper(self: TransportSocket, *args: Any, **kwargs: Any) -> Any:
        self._send_queued()
        return getattr(_sock.__get__(self), name)(*args, **kwargs)

    wrapper.__name__ = name
    wrapper.__qualname__ = f"TransportSocket.{name}"
    wrapper.__doc__ = method.__doc__
    return wrapper


class TransportSocket(trsock.TransportSocket):
    """See asyncio.trsock.TransportSocket.

    Parameters:
        sock: the Python socket.
        transport: its owner, which has _send_queued() and _share().

    A newer Python's method that is not here uses `_sock`: the transport then sends at once.
    """

    __slots__ = ("_transport",)

    def __init__(self, sock: socket.socket, transport: Any) -> None:
        _sock.__set__(self, sock)
        self._transport = weakref.ref(transport)

    def _send_queued(self) -> None:
        transport = self._transport()
        if transport is not None:
            transport._send_queued()

    @property
    def _sock(self) -> socket.socket:
        """The socket itself, for fileno() and dup(), too."""
        transport = self._transport()
        if transport is not None:
            transport._share()
        return _sock.__get__(self)

    @property
    def family(self) -> int:
        return _sock.__get__(self).family

    @property
    def type(self) -> int:
        return _sock.__get__(self).type

    @property
    def proto(self) -> int:
        return _sock.__get__(self).proto

    def __repr__(self) -> str:
        return repr(trsock.TransportSocket(_sock.__get__(self)))

    def get_inheritable(self) -> bool:
        return _sock.__get__(self).get_inheritable()

    shutdown = _sends_first("shutdown")
    getsockopt = _sends_first("getsockopt")
    setsockopt = _sends_first("setsockopt")
    getpeername = _sends_first("getpeername")
    getsockname = _sends_first("getsockname")
