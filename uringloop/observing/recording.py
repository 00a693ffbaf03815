"""record(): what a loop does, as numbers and as its last events; docs/observing.md.

The counting is in aio/recorder.pyx.  Here is what users call, and how numbers become names and seconds.
"""

from __future__ import annotations

import json
import os
import weakref
from bisect import bisect_right
from dataclasses import dataclass, field
from types import CodeType
from typing import IO, TYPE_CHECKING, Any, Self

from ..eventloop.loop import Loop
from ..policy import get_running_loop

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import TracebackType

    from ..aiocontext.statistics import Statistics

KINDS = ("callback", "timer", "fd", "completion", "task")  # fdmon/base.pxd
STATES = ("outside", "loop", "callback", "system calls", "waiting", "polling", "collecting")  # recorder.h

_REQUESTS = {
    "PollRequest": "poll",
    "SweepRequest": "timeout",
    "AcceptRequest": "accept",
    "ReceiveRequest": "receive",
    "SendRequest": "send",
    "RoomRequest": "poll",
}


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A distribution of times, known to 6.25 %.

    Attributes:
        count: how many there were.
        total_s: their sum, in seconds.
        longest_s: the longest one, exactly; 0.0 without any.
        buckets: pairs (least value in seconds, count) in ascending order, without empty ones; 16 per power of two.
    """

    count: int
    total_s: float
    longest_s: float
    buckets: tuple[tuple[float, int], ...] = field(repr=False)

    @property
    def mean_s(self) -> float:
        """The mean, 0.0 without any value."""
        return self.total_s / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """A time in seconds that so many percent of the values do not exceed, to 6.25 %; 0.0 without any.

        Raises: ValueError for less than 0 or more than 100.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent must be from 0 to 100, not {percent}")
        wanted = self.count * percent / 100
        seen = 0
        for least_s, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(least_s * 17 / 16, self.longest_s)
        return self.longest_s

    def counts_up_to(self, bounds_s: tuple[float, ...]) -> list[int]:
        """How many values there are up to each bound, to 6.25 %: the cumulative buckets of Prometheus."""
        totals, total = [0], 0
        for _, count in self.buckets:
            total += count
            totals.append(total)
        leasts = [least_s for least_s, _ in self.buckets]
        return [totals[bisect_right(leasts, bound_s)] for bound_s in bounds_s]


@dataclass(frozen=True, kw_only=True)
class TimeSplit:
    """Where the time of the loop's thread went, in seconds; garbage collections are not in the others.

    callbacks: callbacks, tasks and protocols.  loop: the loop's own work.  system_calls: those that do not wait; of
    epoll and poll, reading and accepting are in `callbacks`.  waiting: asleep until an event.  polling: busy-polling.
    collecting: garbage collections in the loop's thread.  outside: the loop did not run.
    """

    outside: float
    loop: float
    callbacks: float
    system_calls: float
    waiting: float
    polling: float
    collecting: float


@dataclass(frozen=True, kw_only=True)
class CallbackStatistics:
    """Callbacks of one kind that run the same code.

    Attributes:
        kind: "task" (a step of it), "callback" (call_soon), "timer", "fd" or "completion".
        name: the one that the program gave to the task, or that of the code; "(others)" once the table is full.
        where: "file:line" where it is defined, "" where that is not known.
        count, total_s, longest_s: how many ran, how long they took, in seconds.
        longest_at: when the longest began, on the clock of time.monotonic().
    """

    kind: str
    name: str
    where: str
    count: int
    total_s: float
    longest_s: float
    longest_at: float


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that the loop did, one of the last.

    Attributes:
        began: on the clock of time.monotonic().
        seconds: how long it took.
        kind: as in CallbackStatistics, "waiting" or "collecting".
        name, where: as in CallbackStatistics; "" for the last two.
    """

    began: float
    seconds: float
    kind: str
    name: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a loop did since its recording began; it does not change.

    Attributes:
        seconds: since then.
        time: where they went.
        callbacks: those that took most time first.
        queue_delay: from when a callback was ready, by call_soon() or an event, until it ran.
        timer_lateness: by how much timers were late.
        callback_time: how long callbacks took.
        busy_time: from one wait for events to the next: what arrived meanwhile waited for the rest of that.
        collections: garbage collections in the loop's thread.
        in_flight: requests that the kernel has, by kind.
        statistics: loop.statistics().
    """

    seconds: float
    time: TimeSplit
    callbacks: tuple[CallbackStatistics, ...]
    queue_delay: Histogram
    timer_lateness: Histogram
    callback_time: Histogram
    busy_time: Histogram
    collections: Histogram
    in_flight: dict[str, int]
    statistics: Statistics

    @property
    def utilization(self) -> float:
        """The part of the loop's run in which it neither waited nor polled, from 0.0 to 1.0."""
        run = self.seconds - self.time.outside
        return max(0.0, 1 - (self.time.waiting + self.time.polling) / run) if run > 0 else 0.0


class Recording:
    """Made by record(); a context manager that closes it.

    Thread: any, except dump() and events(), which name what they show at that time; each only reads.
    """

    def __init__(self, loop: Any, events: int) -> None:
        _refuse(loop)
        if events < 1:
            raise ValueError(f"events must be 1 or more, not {events}")
        self._loop: weakref.ref[Loop] = weakref.ref(loop)
        self._context = loop.aio_context
        self._recorder = self._context._record(events)
        self._last: Snapshot | None = None
        self._is_closed = False

    def snapshot(self) -> Snapshot:
        """What the loop did so far.  After the end of the recording it is the last one."""
        if self._last is not None:
            return self._last
        loop = self._loop()
        statistics = (self._context if loop is None or loop.is_closed() else loop).statistics()
        snapshot = _snapshot(self._recorder.numbers(), statistics, self._context._in_flight_kinds())
        if self.is_closed:
            self._last = snapshot
        return snapshot

    def events(self) -> list[Event]:
        """The last events, the oldest first."""
        return [
            Event(
                began=began_ns / 1e9,
                seconds=took_ns / 1e9,
                **_names_of_event(self._recorder, state, entry),
            )
            for began_ns, took_ns, state, entry in self._recorder.take_events()
        ]

    def dump(self, file: str | os.PathLike[str] | IO[str]) -> None:
        """Write the last events as a trace that Perfetto and chrome://tracing show.

        Parameters: file: a path, or a text file that is open for writing.
        """
        if isinstance(file, (str, os.PathLike)):
            with open(file, "w", encoding="utf-8") as opened:
                json.dump(self._trace(), opened)
        else:
            json.dump(self._trace(), file)

    def _trace(self) -> dict[str, Any]:
        return {
            "displayTimeUnit": "ns",
            "traceEvents": [
                {
                    "ph": "X",
                    "ts": one.began * 1e6,
                    "dur": one.seconds * 1e6,
                    "name": one.name or one.kind,
                    "cat": one.kind,
                    "pid": os.getpid(),
                    "tid": 1,
                    "args": {"where": one.where},
                }
                for one in self.events()
            ],
        }

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: by close(), or with its loop."""
        return self._is_closed or bool(self._recorder.is_closed)

    def close(self) -> None:
        """Record no more; the numbers stay.  Idempotent.  Thread: the loop's, or any while the loop does not run."""
        if not self._is_closed:
            self._is_closed = True
            self._context._end_recording(self._recorder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def record(loop: AbstractEventLoop | None = None, *, events: int = 4096) -> Recording:
    """Count what a loop does from now on, and keep its last events.

    Fixed memory, some 250 KB; a clock reading and some additions per callback.

    Parameters:
        loop: None for the running loop.
        events: how many are kept, at least; 32 bytes each.

    Returns: a Recording.  A loop has one record: a second call shares it, with its beginning and its events.

    Raises: RuntimeError if no loop runs and none is given, or for a loop that is closed or that another thread runs;
    TypeError for loops that are not of uringloop; ValueError for less than one event.
    """
    return Recording(get_running_loop() if loop is None else loop, events)


def _refuse(loop: Any) -> None:
    if not isinstance(loop, Loop):
        raise TypeError(f"only loops of uringloop can be recorded, not {loop!r}")
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")


def described(key: Any) -> tuple[str, str]:
    """(name, "file:line") of what a recorder counts callbacks under."""
    if key is None:
        return "(others)", ""
    if isinstance(key, str):
        return key, ""
    code = key if isinstance(key, CodeType) else getattr(key, "__code__", None)
    if isinstance(code, CodeType):
        return code.co_qualname, f"{code.co_filename}:{code.co_firstlineno}"
    name = getattr(key, "__qualname__", None) or repr(key)
    module = getattr(key, "__module__", None)
    return (f"{module}.{name}" if module and module != "builtins" else str(name)), ""


def _names_of_event(recorder: Any, state: int, entry: int) -> dict[str, str]:
    if STATES[state] != "callback":
        return {"kind": STATES[state], "name": "", "where": ""}
    kind, key = recorder.key_of(entry)
    name, where = described(key)
    return {"kind": KINDS[kind], "name": name, "where": where}


def _histogram(numbers: dict[str, Any]) -> Histogram:
    return Histogram(
        count=numbers["count"],
        total_s=numbers["total_ns"] / 1e9,
        longest_s=numbers["longest_ns"] / 1e9,
        buckets=tuple((least_ns / 1e9, count) for least_ns, count in numbers["buckets"]),
    )


def _snapshot(numbers: dict[str, Any], statistics: Statistics, requests: dict[type, int]) -> Snapshot:
    outside, loop, callbacks, system_calls, waiting, polling, collecting = (
        ns / 1e9 for ns in numbers["spent_ns"]
    )
    counted = []
    for kind, key, count, total_ns, longest_ns, longest_at_ns in numbers["entries"]:
        name, where = described(key)
        counted.append(
            CallbackStatistics(
                kind=KINDS[kind],
                name=name,
                where=where,
                count=count,
                total_s=total_ns / 1e9,
                longest_s=longest_ns / 1e9,
                longest_at=longest_at_ns / 1e9,
            )
        )
    in_flight: dict[str, int] = {}
    for request, count in requests.items():
        name = _REQUESTS.get(request.__name__, "raw")
        in_flight[name] = in_flight.get(name, 0) + count
    return Snapshot(
        seconds=numbers["recorded_ns"] / 1e9,
        time=TimeSplit(
            outside=outside,
            loop=loop,
            callbacks=callbacks,
            system_calls=system_calls,
            waiting=waiting,
            polling=polling,
            collecting=collecting,
        ),
        callbacks=tuple(sorted(counted, key=lambda one: one.total_s, reverse=True)),
        queue_delay=_histogram(numbers["delays"]),
        timer_lateness=_histogram(numbers["lateness"]),
        callback_time=_histogram(numbers["callbacks"]),
        busy_time=_histogram(numbers["stretches"]),
        collections=_histogram(numbers["collections"]),
        in_flight=in_flight,
        statistics=statistics,
    )
