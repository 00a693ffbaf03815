from collections.abc import Callable
from typing import Any

from ..aio.context import AioContext
from .request import ContextRequest, Cqe

class Scratch:
    def was_touched(self) -> bool: ...

# call: (prep, *args)
def add_sqe(
    context: AioContext,
    call: tuple[Any, ...],
    callback: Callable[[Cqe], object],
    keepalive: object,
    is_multishot: bool,
) -> ContextRequest: ...
