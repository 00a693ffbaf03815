from collections.abc import Callable
from socket import socket
from typing import Any, Self

from ...aio.context_core import ContextCore
from ...fdmon.base import FdHandler
from ...fdmon.io_uring import MovableRequest
from .endpoint import Connection, Kind

class AcceptRequest(MovableRequest): ...
class ListenerHandler(FdHandler): ...

class Acceptor:
    def __new__(
        cls,
        aio_context: ContextCore,
        listener: socket,
        kind: Kind,
        on_accept: Callable[[Connection | None, BaseException | None, Any], object],
        details: Any,
    ) -> Self: ...
    def close(self) -> None: ...
