"""uringloop's own exceptions; everything else is asyncio's or an OSError."""

import errno as _errno
import os as _os

__all__ = ["MemberEnded", "MonitorUnavailable", "SqeNotSupported", "UringLoopError"]


class UringLoopError(Exception):
    """Base of all exceptions that only uringloop raises."""


class MemberEnded(UringLoopError):
    """A member of a LoopGroup ended before it had done what it was asked to; the reason, if any, is the cause.

    Parameters:
        index: the member's number; -1: there was none to ask.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index

    def __str__(self) -> str:
        if self.index < 0:
            return "no member of the LoopGroup is running"
        return f"member {self.index} of the LoopGroup has ended"


class MonitorUnavailable(UringLoopError, OSError):
    """An fd monitor is not available.

    Parameters:
        monitor: its name, "io_uring", "epoll" or "poll".
        errno: the kernel's errno (0 where it was not called).
        cause: the likely reason and the remedy, a sentence without a full stop.

    The text always contains the errno's symbolic name, so that it can be searched for.
    """

    def __init__(self, monitor: str, errno: int, cause: str) -> None:
        super().__init__(errno, cause)
        self.monitor = monitor
        self.cause = cause

    @property
    def errno_name(self) -> str:
        """The errno's symbolic name, such as EPERM; empty where the kernel was not called."""
        return _errno.errorcode.get(self.errno or 0, str(self.errno or ""))

    def __str__(self) -> str:
        parts = [self.monitor]
        if self.errno:
            parts.append(f"{self.errno_name} ({_os.strerror(self.errno)})")
        return ": ".join([*parts, self.cause])

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.monitor, self.errno, self.cause)


class SqeNotSupported(UringLoopError):
    """A raw request was made on a loop that does not run on io_uring, or whose ring is restricted.

    Parameters:
        monitor: the name of its monitor.
        reason: why it is not io_uring (loop.fdmon_reason), or what restricts its ring.
    """

    def __init__(self, monitor: str, reason: str) -> None:
        super().__init__(monitor, reason)
        self.monitor = monitor
        self.reason = reason

    def __str__(self) -> str:
        if self.monitor == "io_uring":
            return f"raw requests are refused: {self.reason} permits the ring only what connections need"
        return f"raw requests need io_uring, and this loop runs on {self.monitor}: {self.reason}"
