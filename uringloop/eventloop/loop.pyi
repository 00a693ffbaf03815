import asyncio
from collections.abc import Callable
from typing import Any

from ..aio.poll_handlers import PollHandler
from ..aiocontext.statistics import Statistics
from .nested.mode import NestedMixin
from .processes import ProcessesMixin
from .raw import RawCore
from .resolve import ResolveMixin
from .serve import ServeMixin
from .sockets import SocketsMixin
from .stdlib_hooks import StdlibHooks
from .tls import TlsMixin

class Loop(
    RawCore,
    NestedMixin,
    ServeMixin,
    TlsMixin,
    SocketsMixin,
    ResolveMixin,
    ProcessesMixin,
    StdlibHooks,
    asyncio.BaseEventLoop,
):
    def __init__(self, fdmon: str | None = None, nested: bool = False) -> None: ...
    @property
    def fdmon(self) -> str: ...
    @property
    def fdmon_reason(self) -> str | None: ...
    def statistics(self) -> Statistics: ...
    def set_poll_params(self, max_ns: int, grow: int = 2, shrink: int = 0) -> None: ...
    def add_poll_handler(
        self, io_poll: Callable[[], object], io_poll_ready: Callable[[], object]
    ) -> PollHandler: ...
    def close(self) -> None: ...
    def set_debug(self, enabled: bool) -> None: ...
    def __del__(self, _warn: Any = ...) -> None: ...
