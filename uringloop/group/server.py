"""A server whose connections the balancer counts, until they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class CountedServer(asyncio.Server):
    """A server of a member of a LoopGroup; made from asyncio's own, which create_server() has made."""

    _connection_ended: Callable[[], None]
    _n_attached: int
    _n_detached: int
    _unused_waiter: asyncio.Future[None] | None

    def _attach(self, *transport: Any) -> None:  # with the transport since Python 3.13
        super()._attach(*transport)  # type: ignore[misc]
        self._n_attached += 1

    def _detach(self, *transport: Any) -> None:
        super()._detach(*transport)  # type: ignore[misc]
        self._n_detached += 1
        self._connection_ended()
        waiter = self._unused_waiter
        if waiter is not None and self._n_attached == self._n_detached and not waiter.done():
            waiter.set_result(None)

    async def wait_until_unused(self) -> None:
        """Wait for the end of all connections; Server.wait_closed() does not in Python 3.11."""
        if self._n_attached != self._n_detached:
            self._unused_waiter = asyncio.get_running_loop().create_future()
            await self._unused_waiter


CountedServer.__name__ = CountedServer.__qualname__ = "Server"


class CountedOnce:
    """Stands for the server before a TLS connection has its transport.

    asyncio's coroutine makes the transport, which attaches itself to the server; if it fails before, nothing else says
    that the connection has ended.
    """

    def __init__(self, server: CountedServer) -> None:
        self._server = server
        self._is_attached = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def _attach(self, *transport: Any) -> None:
        self._server._attach(*transport)
        self._is_attached = True

    def _detach(self, *transport: Any) -> None:
        self._server._detach(*transport)

    def handshake_ended(self, task: asyncio.Task[None]) -> None:
        """The coroutine has ended."""
        if not self._is_attached:
            self._server._connection_ended()


def count_clients(server: asyncio.Server, connection_ended: Callable[[], None]) -> None:
    """Call `connection_ended` with each connection of the server that ends."""
    if isinstance(server, CountedServer):
        return
    server.__class__ = CountedServer
    server._n_attached = server._n_detached = 0  # type: ignore[attr-defined]
    server._unused_waiter = None  # type: ignore[attr-defined]
    server._connection_ended = connection_ended  # type: ignore[attr-defined]
