from asyncio import TimerHandle
from collections.abc import Callable
from typing import Protocol

from ..fdmon.base import FDMonitor
from .bottom_halves import BottomHalf
from .notifier import Notifier
from .poll_handlers import PollHandler

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class Sources:
    @property
    def monitor(self) -> FDMonitor: ...
    @property
    def notifier(self) -> Notifier: ...
    def set_fd_handler(
        self,
        fd: int,
        io_read: Callable[[], object] | None = None,
        io_write: Callable[[], object] | None = None,
        io_poll: Callable[[], object] | None = None,
        io_poll_ready: Callable[[], object] | None = None,
    ) -> None: ...
    def set_event_notifier(
        self,
        notifier: _HasFileno,
        io_read: Callable[[], object] | None = None,
        io_poll: Callable[[], object] | None = None,
        io_poll_ready: Callable[[], object] | None = None,
    ) -> None: ...
    def add_poll_handler(
        self, io_poll: Callable[[], object], io_poll_ready: Callable[[], object]
    ) -> PollHandler: ...
    def new_bottom_half(self, callback: Callable[..., object], *args: object) -> BottomHalf: ...
    def schedule_one_shot(self, callback: Callable[..., object], *args: object) -> BottomHalf: ...
    def time_ns(self) -> int: ...
    def call_at_ns(self, when_ns: int, callback: Callable[..., object], *args: object) -> TimerHandle: ...
    def notify(self) -> None: ...
