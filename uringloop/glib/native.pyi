from collections.abc import Callable
from typing import Any, Self

from ..aiocontext.context import AioContext

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
