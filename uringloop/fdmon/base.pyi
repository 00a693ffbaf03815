from collections.abc import Callable
from typing import Any, ClassVar, Self

class FdHandler:
    def __new__(cls, fd: int = -1, events: int = 0) -> Self: ...
    @property
    def fd(self) -> int: ...
    @property
    def events(self) -> int: ...

class Stopwatch:
    def __new__(cls, report: Callable[[Any, float], object], limit_ns: int) -> Self: ...

class ReadyList: ...

class FDMonitor:
    name: ClassVar[str]
    @property
    def is_closed(self) -> bool: ...
    # `fdmon` is the monitor's name, everything else a count
