from collections.abc import Callable
from typing import Any

from ..aio.context_core import ContextCore
from .request import ContextRequest, Cqe

class Scratch:
    def was_touched(self) -> bool: ...

# call: (prep, *args)
def add_sqe(
    context: ContextCore,
    call: tuple[Any, ...],
    callback: Callable[[Cqe], object],
    keepalive: object,
    is_multishot: bool,
) -> ContextRequest: ...
