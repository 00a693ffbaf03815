"""Functions borrowed by name from stock asyncio's selector and Unix loops, where those are good enough.

These functions reach into a loop only through _add_reader, _add_writer and their counterparts, so they work on any
monitor.  Their classes are never instantiated and their __init__ and close never called; `StdlibHooks._setup_stdlib`
does that setup.  One file, so that only this needs a check for a new Python version.
"""

from __future__ import annotations

import functools
import signal
import socket
import threading
import weakref
from asyncio import selector_events, unix_events
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..transports.base import TransportTable
from .base.part import LoopPart
from .base.views import LazySelector

_SELECTOR: Any = selector_events.BaseSelectorEventLoop
_UNIX: Any = unix_events._UnixSelectorEventLoop

_FROM_SELECTOR = (
    "_make_self_pipe",
    "_close_self_pipe",
    "_read_from_self",
    "_accept_connection2",
    "_ensure_fd_no_transport",
    "add_reader",
    "remove_reader",
    "add_writer",
    "remove_writer",
)
_FROM_UNIX = (
    "_handle_signal",
    "remove_signal_handler",
    "_check_signal",
    "_make_write_pipe_transport",
    "_make_subprocess_transport",
    "_child_watcher_callback",
    "create_unix_connection",
    "create_unix_server",
)

# What a pipe holds by default.  Stock's 256 KiB make malloc() map and unmap memory for every read of a busy pipe
# (measured on epoll, 64 KiB chunks through cat: 69 us of CPU per chunk, 39 us with this).
_PIPE_READ_BYTES = 64 * 1024


class StdlibHooks(LoopPart):
    """Mixed into Loop behind LoopCore."""

    _uses_python_handlers = False  # see _use_python_handlers
    _wants_wakeups = False  # see _leave_signals
    _selector: Any = LazySelector()

    def _setup_stdlib(self) -> None:
        """The attributes that the borrowed functions expect."""
        self._signal_handlers: dict[int, Any] = {}
        self._unix_server_sockets: dict[socket.socket, int] = {}
        self._transports = TransportTable(self.aio_context)
        self._ssock: Any = None
        self._csock: Any = None
        watcher = getattr(unix_events, "_PidfdChildWatcher", None)
        if watcher is not None and not hasattr(unix_events, "AbstractChildWatcher"):
            # since Python 3.14 the loop owns its child watcher
            self._watcher = watcher() if unix_events.can_use_pidfd() else unix_events._ThreadedChildWatcher()  # type: ignore[attr-defined]

    def _close_stdlib(self) -> None:
        """Undo what the borrowed functions set up; the loop is not closed yet."""
        for number in list(self._signal_handlers):
            self.remove_signal_handler(number)
        if self._csock is not None:
            self._close_self_pipe()
        self._selector = None

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """See asyncio.loop.add_signal_handler.

        The wake-up fd needs its own socketpair, made with the first handler: set_wakeup_fd writes one byte,
        which an eventfd refuses.
        """
        self._check_closed()
        try:
            if self._csock is None:
                self._make_self_pipe()
            _UNIX.add_signal_handler(self, sig, callback, *args)
            if self._uses_python_handlers:
                self._set_python_handler(sig)
        finally:
            if not self._signal_handlers and self._csock is not None:
                self._close_self_pipe()  # also a half-made one, which would never be read

    def _use_python_handlers(self) -> None:
        """From now on a handler in Python is notified of signals; the bytes in the wake-up fd only wake.

        A main loop that is not asyncio's replaces our wake-up fd by its own, as PyGObject's GLib.MainLoop.run()
        does.
        """
        if self._uses_python_handlers or threading.current_thread() is not threading.main_thread():
            return
        for number in self._signal_handlers:
            self._set_python_handler(number)
        if self._csock is not None:
            self._read_from_self()  # bytes of earlier signals
        self._uses_python_handlers = True

    def _set_python_handler(self, number: int) -> None:
        signal.signal(number, functools.partial(_signal_came, weakref.ref(self)))
        signal.siginterrupt(number, False)

    def _process_self_data(self, data: bytes) -> None:
        if not self._uses_python_handlers:
            _UNIX._process_self_data(self, data)

    def remove_signal_handler(self, sig: int) -> bool:
        """See asyncio.loop.remove_signal_handler."""
        others_fd = self._foreign_wakeup_fd() if list(self._signal_handlers) == [sig] else -1
        removed: bool = _UNIX.remove_signal_handler(self, sig)
        if others_fd != -1:
            signal.set_wakeup_fd(others_fd)
        if removed and not self._signal_handlers and self._csock is not None:
            self._close_self_pipe()
        return removed

    def _foreign_wakeup_fd(self) -> int:
        """The wake-up fd that was set after ours, by another loop for example: it stays when ours is removed; or -1."""
        try:
            fd = signal.set_wakeup_fd(-1)
        except ValueError:
            return -1  # not the main thread
        return -1 if self._csock is not None and fd == self._csock.fileno() else fd

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> Any:
        return _UnixReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _leave_signals(self) -> None:
        """In a fork child: the parent's wake-up socketpair must get nothing from us.  The first run makes another."""
        if self._csock is not None:
            others_fd = self._foreign_wakeup_fd()
            self._wants_wakeups = others_fd == -1
            if not self._wants_wakeups:
                signal.set_wakeup_fd(others_fd)
            if not self._closed:
                self._remove_reader(self._ssock)
            self._internal_fds -= 1
            self._ssock.close()
            self._csock.close()
            self._ssock = self._csock = None

    def _renew_signals(self) -> None:
        """Before a run: see _leave_signals."""
        if (
            self._signal_handlers
            and self._csock is None
            and threading.current_thread() is threading.main_thread()
        ):
            self._make_self_pipe()
            if self._wants_wakeups:
                signal.set_wakeup_fd(self._csock.fileno())  # type: ignore[attr-defined]


class _UnixReadPipeTransport(unix_events._UnixReadPipeTransport):  # type: ignore[name-defined]
    max_size = _PIPE_READ_BYTES

    def _add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        try:
            super()._add_reader(fd, callback)
        except OSError as error:  # no memory in the kernel, or no room in any epoll set
            self._fatal_error(error, "Fatal read error on pipe transport")  # else nothing would ever come


def _signal_came(known: Callable[[], Any], number: int, frame: FrameType | None) -> None:
    loop = known()
    if loop is not None:
        loop._handle_signal(number)


for _name in _FROM_SELECTOR:
    setattr(StdlibHooks, _name, _SELECTOR.__dict__[_name])
for _name in _FROM_UNIX:
    if _name not in StdlibHooks.__dict__:
        setattr(StdlibHooks, _name, _UNIX.__dict__[_name])
