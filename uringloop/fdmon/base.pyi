from collections.abc import Callable
from typing import Any, ClassVar, Self

class FdHandler:
    def __new__(cls, fd: int = -1, events: int = 0) -> Self: ...

class Stopwatch:
    def __new__(cls, report: Callable[[Any, float], object], limit_ns: int) -> Self: ...

class ReadyList: ...

class FDMonitor:
    name: ClassVar[str]
    @property
    def is_closed(self) -> bool: ...
