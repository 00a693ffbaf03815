"""Which monitor a new loop gets, and why.

The rule (QEMU: aio_context_setup): io_uring, else epoll, else poll.  The first loop that gets io_uring sets a mark for
the process; from then on making a loop that cannot have it fails, so that raw requests are available uniformly in
all threads.  Without the mark the fall-back is silent.  The mark stays for the life of the process; a fork child
starts clean.

"auto-any" is the same without the mark: a loop that cannot have io_uring gets the next best.  The first time that loops
of one process, none of which was requested by its name, differ, one warning is logged.
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
# Monitors that loops of this process got, apart from epoll and poll by name.  io_uring among them is the mark.
_had: set[str] = set()


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
    if name == "io_uring":
        _had.add(name)
    return monitor, f"{name} was requested by {source}={name}"


def _choose(may_differ: bool) -> tuple[Any, str | None]:
    reasons = []
    for name, make in _MAKERS.items():
        try:
            monitor = make()
            break
        except MonitorUnavailable as error:
            if name == "io_uring" and name in _had and not may_differ:
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
    if reason is not None:
        _logger.debug("using %s: %s", name, reason)
    _warn_if_mixed(name, reason)
    return monitor, reason


def _warn_if_mixed(name: str, reason: str | None) -> None:
    """Warn once per process: raw requests, for example, then work in some loops only."""
    if len(_had) == 1 and name not in _had:
        _logger.warning(
            "loops of this process run on different monitors: an earlier one on %s, this one on %s%s",
            *_had,
            name,
            "" if reason is None else f" ({reason})",
        )
    _had.add(name)


os.register_at_fork(after_in_child=_had.clear)
