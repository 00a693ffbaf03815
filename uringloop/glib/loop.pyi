from collections.abc import Callable
from typing import Any

from ..eventloop.loop import Loop

class GLibLoop(Loop):
    def __init__(self, main_context: Any, fdmon: str | None, priority: int) -> None: ...

class _Entrance:
    def __init__(self, loop: Loop) -> None: ...
    def __call__(self) -> Callable[[], object] | None: ...
