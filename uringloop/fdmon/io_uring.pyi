from typing import Self

from ..uring.request import Request
from .base import FdHandler, FDMonitor

class PollRequest(Request):
    def __new__(cls, handler: FdHandler | None = None) -> Self: ...

class SweepRequest(Request):
    def __new__(cls) -> Self: ...

class MovableRequest(Request): ...
class SetHandler(FdHandler): ...

class IoUringMonitor(FDMonitor):
    @property
    def skip_sends(self) -> bool: ...
