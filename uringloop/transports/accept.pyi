from collections.abc import Callable
from socket import socket
from typing import Any, Self

from ..aio.context import AioContext
from ..uring.request import Request
from .endpoint import Connection, Kind

class AcceptRequest(Request): ...

class Acceptor:
    def __new__(
        cls,
        aio_context: AioContext,
        listener: socket,
        kind: Kind,
        on_accept: Callable[[Connection | None, BaseException | None, Any], object],
        details: Any,
    ) -> Self: ...
    def close(self) -> None: ...
