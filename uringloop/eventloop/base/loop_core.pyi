import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, TypeVarTuple

from ...aio.program import Program
from ...aiocontext.context import AioContext
from .watching import FdWatching

_Ts = TypeVarTuple("_Ts")

class LoopCore(FdWatching):
    @property
    def aio_context(self) -> AioContext: ...
    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle: ...
    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle: ...
    def time(self) -> float: ...
    def create_future(self) -> asyncio.Future[Any]: ...
    def run_forever(self) -> None: ...
    def stop(self) -> None: ...
    def is_running(self) -> bool: ...
    def is_closed(self) -> bool: ...
    def get_debug(self) -> bool: ...
    # raises SqeNotSupported; RawCore in raw.pyi does it
    @property
    def supports_sqe(self) -> bool: ...
    def add_sqe(
        self,
        prep: Callable[..., object],
        *args: Any,
        callback: Callable[[Any], object] | None = None,
        keepalive: object = None,
        multishot: bool = False,
    ) -> Any: ...
    def add_sqes(self, chain: Iterable[tuple[Any, ...]], *, keepalive: object = None) -> list[Any]: ...
    slow_callback_duration: float
    @property
    def slow_callback_hook(self) -> Callable[[Any, float], object] | None: ...
    @slow_callback_hook.setter
    def slow_callback_hook(self, hook: Callable[[Any, float], object] | None) -> None: ...

class LoopProgram(Program): ...

def is_in_environment(name: bytes) -> bool: ...
