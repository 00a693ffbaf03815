from typing import Self

from ..uring.request import Request
from .base import FdHandler, FDMonitor

class PollRequest(Request):
    def __new__(cls, handler: FdHandler | None = None) -> Self: ...

class IoUringMonitor(FDMonitor):
    @property
    def skip_sends(self) -> bool: ...
