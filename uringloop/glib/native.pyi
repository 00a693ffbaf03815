from collections.abc import Callable
from typing import Any, Self

from ..aio.context import AioContext
from ..eventloop.core import LoopCore

def load() -> None: ...

class Source:
    def __new__(
        cls,
        aio_context: AioContext,
        main_context: Any,
        priority: int,
        enter: Callable[[], Callable[[], object] | None] | None,
    ) -> Self: ...
    @property
    def is_attached(self) -> bool: ...
    def detach(self) -> None: ...
    def run_loop(self, loop: LoopCore) -> None: ...
    def stop_loop(self, loop: LoopCore) -> None: ...
