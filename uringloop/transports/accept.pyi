from collections.abc import Callable
from socket import socket
from typing import Any, Self

from ..aio.context import AioContext
from ..uring.request import Request

class AcceptRequest(Request): ...

class Acceptor:
    def __new__(
        cls,
        aio_context: AioContext,
        listener: socket,
        on_accept: Callable[[socket | None, OSError | None, Any], object],
        details: Any,
    ) -> Self: ...
    def close(self) -> None: ...
