"""Which monitor a new loop gets, and why.

The rule (QEMU: aio_context_setup): io_uring, else epoll, else poll.  The first loop that gets io_uring sets a mark for
the process; from then on a loop that cannot have it fails to be made, so that raw requests are there uniformly in
all threads.  Without the mark the fall-back is silent.  The mark stays for the life of the process; a fork child
starts clean.
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

NAMES = ("io_uring", "epoll", "poll")
ENVIRONMENT = "URINGLOOP_FDMON"

_logger = logging.getLogger("uringloop")
_io_uring_was_had = False


# All monitors are imported at once: a process without free descriptors could not load one later.
try:
    from .io_uring import IoUringMonitor
except ImportError as _error:  # a build without liburing
    IoUringMonitor = None  # type: ignore[assignment, misc]
    _missing = str(_error)


def _make_io_uring() -> Any:
    if IoUringMonitor is None:
        raise MonitorUnavailable(
            "io_uring",
            errno.ENOSYS,
            f"this build of uringloop has no liburing ({_missing})",
        )
    return IoUringMonitor()


_MAKERS: dict[str, Callable[[], Any]] = {
    "io_uring": _make_io_uring,
    "epoll": EpollMonitor,
    "poll": PollMonitor,
}


def make_monitor(name: str | None = None) -> tuple[Any, str | None]:
    """A monitor and the reason why it is not io_uring by free choice (None when it is).

    Parameters:
        name: "io_uring", "epoll" or "poll" to force one; None for $URINGLOOP_FDMON, else the automatic choice.

    Raises:
        ValueError: no such monitor.
        MonitorUnavailable: a forced one cannot be had, or io_uring cannot although another loop of this
            process has it.
    """
    source = "fdmon"
    if name is None:
        name = os.environ.get(ENVIRONMENT) or None
        source = ENVIRONMENT
    if name is None:
        return _choose()
    if name not in _MAKERS:
        raise ValueError(f"{source} must be one of {', '.join(NAMES)}, not {name!r}")
    monitor = _MAKERS[name]()
    if name == "io_uring":
        _mark()
    return monitor, f"{name} was asked for with {source}={name}"


def _choose() -> tuple[Any, str | None]:
    try:
        monitor = _make_io_uring()
    except MonitorUnavailable as error:
        if _io_uring_was_had:
            raise MonitorUnavailable(
                "io_uring",
                error.errno or 0,
                f"{error.cause}; another loop of this process has io_uring, so this one must have it, too "
                f"(fdmon=... or {ENVIRONMENT} force another monitor)",
            ) from None
        reason = str(error)
    else:
        _mark()
        return monitor, None
    try:
        monitor = EpollMonitor()
    except MonitorUnavailable as error:
        monitor, reason = PollMonitor(), f"{reason}; {error}"
    _logger.debug("using %s: %s", monitor.name, reason)
    return monitor, reason


def _mark() -> None:
    global _io_uring_was_had
    _io_uring_was_had = True


def _forget_mark() -> None:
    global _io_uring_was_had
    _io_uring_was_had = False


os.register_at_fork(after_in_child=_forget_mark)
