"""log_summaries(): what a loop did, as one line of the log per interval; docs/exporters.md."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Self

from ..policy import get_running_loop
from .each_loop import number_of
from .metrics import difference, utilization
from .recording import Recording, Snapshot

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle
    from types import TracebackType

    from ..eventloop.loop import Loop

_EVENTS = 4096
_MOST_CHARACTERS = 100  # of a name
_TEXT = (
    "loop %d: %.1f %% used, %.0f turns/s, %.0f callbacks/s, queue delay p50 %.2f ms, p99 %.2f ms, max %.2f ms, "
    "longest callback %.2f ms%s, %d connections, %.1f kB/s in, %.1f kB/s out"
)


class Summaries:
    """Made by log_summaries(); a context manager that closes it."""

    def __init__(self, loop: Any, interval_s: float, logger: logging.Logger, level: int) -> None:
        if not 0 < interval_s < math.inf:
            raise ValueError(f"interval_s must be positive, not {interval_s}")
        self._recording = Recording(loop, _EVENTS)
        self._loop: Loop = loop
        self._number = number_of(loop)
        self._interval_s, self._logger, self._level = interval_s, logger, level
        self._before = self._recording.snapshot()
        self._timer: TimerHandle | None = loop.call_later(interval_s, self._log)

    def _log(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._log)
        now, before = self._recording.snapshot(), self._before
        self._before = now
        fields = summary(now, before)
        longest_by = fields["longest_callback"]
        self._logger.log(
            self._level,
            _TEXT,
            self._number,
            fields["utilization"] * 100,
            fields["turns_per_s"],
            fields["callbacks_per_s"],
            fields["delay_p50_s"] * 1000,
            fields["delay_p99_s"] * 1000,
            fields["delay_max_s"] * 1000,
            fields["longest_callback_s"] * 1000,
            f" ({longest_by})" if longest_by else "",
            fields["connections"],
            fields["received_bytes_per_s"] / 1000,
            fields["written_bytes_per_s"] / 1000,
            extra={
                "uringloop_loop": self._number,
                **{f"uringloop_{name}": of for name, of in fields.items()},
            },
        )

    def close(self) -> None:
        """Log no more.  Idempotent.  Thread: the loop's, or any while the loop does not run."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._recording.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def log_summaries(
    interval_s: float = 60.0,
    *,
    logger: logging.Logger | None = None,
    level: int = logging.INFO,
    loop: AbstractEventLoop | None = None,
) -> Summaries:
    """Record a loop, and log one line about each interval: how full it is, what waits, what takes long.

    Each number is an attribute of the log record, too: uringloop_utilization and others.  The line is logged in the
    loop's thread: give the logger a logging.handlers.QueueHandler if its handlers may block.  It ends with the loop.

    Parameters:
        interval_s: seconds from one line to the next.
        logger: None for the one named "uringloop".
        level: of the lines.
        loop: None for the running loop.

    Returns: what ends it, by close() or as a context manager.

    Raises: as record(); ValueError for an interval that is not positive.

    Thread: the loop's, or any while the loop does not run.
    """
    return Summaries(
        get_running_loop() if loop is None else loop,
        interval_s,
        logging.getLogger("uringloop") if logger is None else logger,
        level,
    )


def summary(now: Snapshot, before: Snapshot) -> dict[str, Any]:
    """What a line says: the numbers between the two, times in seconds."""
    seconds = now.seconds - before.seconds
    delay = difference(now.queue_delay, before.queue_delay)
    callbacks = difference(now.callback_time, before.callback_time)
    busiest, busiest_s = _busiest(now, before)
    longest, longest_s = _longest(now, before, callbacks.longest_s)

    def per_s(name: str) -> float:
        return (
            (getattr(now.statistics, name) - getattr(before.statistics, name)) / seconds
            if seconds > 0
            else 0.0
        )

    return {
        "interval_s": seconds,
        "utilization": utilization(now, before),
        "turns_per_s": per_s("turns"),
        "callbacks_per_s": callbacks.count / seconds if seconds > 0 else 0.0,
        "delay_p50_s": delay.percentile(50),
        "delay_p99_s": delay.percentile(99),
        "delay_max_s": delay.longest_s,
        "longest_callback_s": longest_s,
        "longest_callback": longest,
        "busiest_callback_s": busiest_s,
        "busiest_callback": busiest,
        "connections": now.statistics.connections,
        "received_bytes_per_s": per_s("bytes_received"),
        "written_bytes_per_s": per_s("bytes_written"),
    }


def _name(one: Any) -> str:
    return f"{one.kind} {one.name}"[:_MOST_CHARACTERS]


def _busiest(now: Snapshot, before: Snapshot) -> tuple[str, float]:
    """What took most time, ("task import_rows", seconds); ("", 0.0) if nothing ran."""
    until = {(one.kind, one.name, one.where): one.total_s for one in before.callbacks}
    taken = [
        (one.total_s - until.get((one.kind, one.name, one.where), 0.0), _name(one)) for one in now.callbacks
    ]
    seconds, name = max(taken, default=(0.0, ""))
    return (name, seconds) if seconds > 0 else ("", 0.0)


def _longest(now: Snapshot, before: Snapshot, about_s: float) -> tuple[str, float]:
    """The longest callback; its name, and its time exactly, if it is the longest so far of what it runs.

    Parameters: about_s: how long it took, to 6.25 %.
    """
    until = {(one.kind, one.name, one.where): one.longest_s for one in before.callbacks}
    longer = [
        (one.longest_s, _name(one))
        for one in now.callbacks
        if one.longest_s > until.get((one.kind, one.name, one.where), 0.0)
    ]
    seconds, name = max(longer, default=(0.0, ""))
    if seconds >= about_s * 16 / 17 * (1 - 1e-9) and name:
        return name, seconds
    return "", about_s
