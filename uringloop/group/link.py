"""Messages between a LoopGroup and a member of it: pickled through a pair of sockets, or as they are."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH_BYTES = 8


class PickleLink(asyncio.Protocol):
    """One end of a link between interpreters, which share no objects.

    Parameters:
        received: called with each message of the other end, in the loop of this one.
        lost: called when the other end is gone.
    """

    def __init__(self, received: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self.transport: Any = None
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= LENGTH_BYTES:
                start = at + LENGTH_BYTES
                end = start + int.from_bytes(self._buffer[at:start])
                if len(self._buffer) < end:
                    break
                at = end
                self._received(pickle.loads(bytes(self._buffer[start:end])))
        finally:
            del self._buffer[:at]

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        self._lost()

    def send(self, message: tuple[Any, ...]) -> None:
        """Send numbers, strings and what dumps() made, which the other end gives to loads()."""
        if self.transport is not None and not self.is_lost:
            self.transport.write(self.frame(message))

    @staticmethod
    def frame(message: tuple[Any, ...]) -> bytes:
        """What goes through the sockets."""
        data = pickle.dumps(message)
        return len(data).to_bytes(LENGTH_BYTES) + data

    def close(self) -> None:
        """What was sent still arrives."""
        if self.transport is not None:
            self.transport.close()

    @staticmethod
    def dumps(value: Any) -> bytes:
        return pickle.dumps(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        return pickle.loads(data)


class DirectLink:
    """One end of a link between threads: the objects themselves.

    Parameters:
        loop: that of the other end.
        received: called there with each message.
    """

    transport: Any = None
    is_lost = True  # nothing has to be closed

    def __init__(self, loop: asyncio.AbstractEventLoop, received: Callable[[Any], None]) -> None:
        self._loop = loop
        self._received = received

    def send(self, message: tuple[Any, ...]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._received, message)
        except RuntimeError:
            if not self._loop.is_closed():  # else the other end is gone, and no message matters there
                raise

    def close(self) -> None:
        """There is nothing to close."""

    @staticmethod
    def dumps(value: Any) -> Any:
        return value

    loads = dumps
