"""Which monitor a new loop gets, and why.

The rule (QEMU: aio_context_setup): io_uring, else epoll, else poll.  The first loop that gets io_uring sets a mark for
the process; from then on making a loop that cannot have it fails, so that raw requests are available uniformly in
all threads.  Without the mark the fall-back is no warning.  The mark stays for the life of the process; a fork
child starts clean.

"auto-any" is the same without the mark: a loop that cannot have io_uring gets the next best.

The log of a process has one line, at INFO, that says which monitor its first loop got and why, and one warning the
first time that its loops differ, unless the program gave each of them its monitor by name.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Any

from ..exceptions import MonitorUnavailable
from .epoll import EpollMonitor
from .poll import PollMonitor

ANY = "auto-any"
ENVIRONMENT = "URINGLOOP_FDMON"

_logger = logging.getLogger("uringloop")


class _History:
    """The loops of this process so far; a fork child starts afresh."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        # each monitor that a loop got, and why the first such loop did; io_uring among them is the mark
        self.had: dict[str, str | None] = {}
        self.is_announced = False
        self.all_named = True  # so far the program gave each loop its monitor by name
        self.has_warned = False


_history = _History()


# All monitors are imported at once: a process without free descriptors could not load one later.
try:
    from .io_uring import IoUringMonitor
except ImportError as _error:  # a build without liburing
    IoUringMonitor = None
    _missing = str(_error)


def _make_io_uring() -> Any:
    if IoUringMonitor is None:
        raise MonitorUnavailable(
            "io_uring",
            errno.ENOSYS,
            f"this build of uringloop has no liburing ({_missing})",
        )
    return IoUringMonitor()


# Every monitor, the best first: the choice for a loop that does not name one.
_MAKERS: dict[str, Callable[[], Any]] = {
    "io_uring": _make_io_uring,
    "epoll": EpollMonitor,
    "poll": PollMonitor,
}
NAMES = tuple(_MAKERS)


def make_monitor(name: str | None = None) -> tuple[Any, str | None]:
    """A monitor and the reason why it is not io_uring by free choice (None when it is).

    Parameters:
        name: "io_uring", "epoll" or "poll" to force one; "auto-any" for the best available to this loop, whatever
            other loops have; None for $URINGLOOP_FDMON, else the automatic choice.

    Raises:
        ValueError: no such monitor.
        MonitorUnavailable: a forced one is not available, or io_uring is not although another loop of this
            process has it.
    """
    source = "fdmon"
    if name is None:
        name = os.environ.get(ENVIRONMENT) or None
        source = ENVIRONMENT
    if name is None or name == ANY:
        return _choose(may_differ=name == ANY)
    if name not in _MAKERS:
        raise ValueError(f"{source} must be one of {', '.join((*NAMES, ANY))}, not {name!r}")
    monitor = _MAKERS[name]()
    reason = f"{name} was requested by {source}={name}"
    _report(name, reason, is_named=source == "fdmon")
    return monitor, reason


def _choose(may_differ: bool) -> tuple[Any, str | None]:
    reasons = []
    for name, make in _MAKERS.items():
        try:
            monitor = make()
            break
        except MonitorUnavailable as error:
            if name == "io_uring" and name in _history.had and not may_differ:
                raise MonitorUnavailable(
                    name,
                    error.errno or 0,
                    f"{error.cause}; another loop of this process has io_uring, so this one must have it, too "
                    f"({ENVIRONMENT}={ANY} or fdmon={ANY!r} allow it another monitor, and a monitor's name forces one)",
                ) from None
            if name == NAMES[-1]:
                raise
            reasons.append(str(error))
    reason = "; ".join(reasons) or None
    _report(name, reason, is_named=False)
    return monitor, reason


def _report(name: str, reason: str | None, is_named: bool) -> None:
    """Log what is new about the monitors of this process, which has made one more.

    Parameters:
        is_named: the program requested this monitor, by the argument of this loop.
    """
    if not _history.is_announced and _logger.isEnabledFor(logging.INFO):
        _history.is_announced = True
        _logger.info("event loops use %s", _described(name, reason))
    elif reason is not None and not is_named:
        _logger.debug("this event loop uses %s", _described(name, reason))
    _history.all_named = _history.all_named and is_named
    if name not in _history.had:
        others, _history.had[name] = dict(_history.had), reason
        if others and not _history.all_named and not _history.has_warned:
            _history.has_warned = True
            # raw requests, for example, work in some loops only
            _logger.warning(
                "event loops of this process use different monitors: an earlier one %s, this one %s",
                _described(*next(iter(others.items()))),
                _described(name, reason),
            )


def _described(name: str, reason: str | None) -> str:
    return name if reason is None else f"{name} ({reason})"


os.register_at_fork(after_in_child=_history.clear)
