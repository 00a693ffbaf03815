from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

from .loop import Loop

_T = TypeVar("_T")

class NestedMixin:
    nested: bool
    def setup_nested(self, nested: bool) -> None: ...
    def run_nested(self, awaitable: Awaitable[_T]) -> _T: ...
    def run_until_complete(self, future: Generator[Any, None, _T] | Awaitable[_T]) -> _T: ...

def allow_nested() -> None: ...
def disallow_nested() -> None: ...
def running_nestable_loop() -> Loop | None: ...
def run_main(
    loop: AbstractEventLoop,
    main: Coroutine[Any, Any, _T],
    *,
    context: Context | None = None,
    debug: bool | None = None,
) -> _T: ...
