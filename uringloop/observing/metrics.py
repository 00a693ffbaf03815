"""The table of metrics: what exporters publish of a loop, under which names and units; docs/observing.md.

Names follow OpenTelemetry's semantic conventions.  They have metrics of Node.js's loop (nodejs.eventloop.*) and of
CPython's garbage collector (cpython.gc.*), none of asyncio's loop.  So what any loop of asyncio has is called after
Node.js's, below asyncio.eventloop; what is this one's own is below uringloop.

Nothing of Prometheus and OpenTelemetry is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .recording import KINDS, Histogram, Snapshot

Attributes = Mapping[str, str]

LOOP_ID = "asyncio.eventloop.id"
FDMON = "uringloop.fdmon"
OF_EACH_LOOP = (LOOP_ID, FDMON)

BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
PERCENTILES = (50, 90, 99)

_ACTIVITIES = (  # attributes of TimeSplit; `outside` is no time of the loop
    ("active", "callbacks"),
    ("active", "loop"),
    ("active", "system_calls"),
    ("active", "collecting"),
    ("idle", "waiting"),
    ("idle", "polling"),
)
_REQUESTS = ("poll", "timeout", "accept", "receive", "send", "raw")


@dataclass(frozen=True)
class Reading:
    """What is read of one loop at a time.

    Attributes:
        number: the loop's, as in each_loop.
        now: what it did so far.
        before: the same when the exporter read it before; None at first.
    """

    number: int
    now: Snapshot
    before: Snapshot | None

    @property
    def attributes(self) -> dict[str, str]:
        """Those of all metrics of the loop."""
        return {LOOP_ID: str(self.number), FDMON: self.now.statistics.fdmon}


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """One metric.

    Attributes:
        name: as OpenTelemetry writes it.
        kind: "counter", "updowncounter", "gauge" or "histogram".
        unit: in UCUM, as OpenTelemetry writes it.
        description: one sentence.
        attributes: the names of those that its values have besides OF_EACH_LOOP.
        values: of a reading: (attributes, value) of each; of a histogram one Histogram, cumulative as all others.
    """

    name: str
    kind: Literal["counter", "updowncounter", "gauge", "histogram"]
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    values: Callable[[Reading], Iterator[tuple[Attributes, float]]] | None = None
    histogram: Callable[[Snapshot], Histogram] | None = None


def difference(now: Histogram, before: Histogram | None) -> Histogram:
    """The values that came after `before`; their longest one is known to 6.25 %."""
    if before is None or before.count == 0:
        return now
    counted = dict(before.buckets)
    buckets = tuple(
        (least_s, more) for least_s, count in now.buckets if (more := count - counted.get(least_s, 0)) > 0
    )
    longest_s = min(buckets[-1][0] * 17 / 16, now.longest_s) if buckets else 0.0
    return Histogram(
        count=sum(count for _, count in buckets),
        total_s=max(now.total_s - before.total_s, 0.0),
        longest_s=longest_s,
        buckets=buckets,
    )


def utilization(now: Snapshot, before: Snapshot | None) -> float:
    """Snapshot.utilization between the two."""
    if before is None:
        return now.utilization
    run_s = (now.seconds - now.time.outside) - (before.seconds - before.time.outside)
    idle_s = (now.time.waiting + now.time.polling) - (before.time.waiting + before.time.polling)
    return min(max(1 - idle_s / run_s, 0.0), 1.0) if run_s > 0 else 0.0


def _of_statistics(field: str) -> Callable[[Reading], Iterator[tuple[Attributes, float]]]:
    def values(reading: Reading) -> Iterator[tuple[Attributes, float]]:
        yield {}, getattr(reading.now.statistics, field)

    return values


def _by(attribute: str, **fields: str) -> Callable[[Reading], Iterator[tuple[Attributes, float]]]:
    """Parameters: fields: of Statistics, by the attribute's value."""

    def values(reading: Reading) -> Iterator[tuple[Attributes, float]]:
        for value, field in fields.items():
            yield {attribute: value}, getattr(reading.now.statistics, field)

    return values


def _times(reading: Reading) -> Iterator[tuple[Attributes, float]]:
    for state, activity in _ACTIVITIES:
        attributes = {"asyncio.eventloop.state": state, "asyncio.eventloop.activity": activity}
        yield attributes, getattr(reading.now.time, activity)


def _utilizations(reading: Reading) -> Iterator[tuple[Attributes, float]]:
    yield {}, utilization(reading.now, reading.before)


def _callback_counts(reading: Reading) -> Iterator[tuple[Attributes, float]]:
    for kind in KINDS:
        count = sum(one.count for one in reading.now.callbacks if one.kind == kind)
        yield {"asyncio.callback.kind": kind}, count


def _callback_times(reading: Reading) -> Iterator[tuple[Attributes, float]]:
    for kind in KINDS:
        total_s = sum(one.total_s for one in reading.now.callbacks if one.kind == kind)
        yield {"asyncio.callback.kind": kind}, total_s


def _requests(reading: Reading) -> Iterator[tuple[Attributes, float]]:
    if reading.now.statistics.fdmon == "io_uring":
        for kind in _REQUESTS:
            yield {"uringloop.request.kind": kind}, reading.now.in_flight.get(kind, 0)


INSTRUMENTS = (
    Instrument(
        name="asyncio.eventloop.time",
        kind="counter",
        unit="s",
        description="Time of the loop's thread while the loop runs, by what it does.",
        attributes=("asyncio.eventloop.state", "asyncio.eventloop.activity"),
        values=_times,
    ),
    Instrument(
        name="asyncio.eventloop.utilization",
        kind="gauge",
        unit="1",
        description="The active part of the loop's time since the exporter's reading before this one.",
        values=_utilizations,
    ),
    Instrument(
        name="asyncio.eventloop.delay",
        kind="histogram",
        unit="s",
        description="From when a callback is ready until it runs.",
        histogram=lambda snapshot: snapshot.queue_delay,
    ),
    Instrument(
        name="asyncio.eventloop.timer.delay",
        kind="histogram",
        unit="s",
        description="By how much timers are late.",
        histogram=lambda snapshot: snapshot.timer_lateness,
    ),
    Instrument(
        name="asyncio.eventloop.busy.duration",
        kind="histogram",
        unit="s",
        description="From one wait for events to the next.",
        histogram=lambda snapshot: snapshot.busy_time,
    ),
    Instrument(
        name="asyncio.eventloop.gc.duration",
        kind="histogram",
        unit="s",
        description="How long garbage collections in the loop's thread take.",
        histogram=lambda snapshot: snapshot.collections,
    ),
    Instrument(
        name="asyncio.callback.duration",
        kind="histogram",
        unit="s",
        description="How long callbacks take, without garbage collections.",
        histogram=lambda snapshot: snapshot.callback_time,
    ),
    Instrument(
        name="asyncio.callback.calls",
        kind="counter",
        unit="{call}",
        description="Callbacks that ran, by their kind.",
        attributes=("asyncio.callback.kind",),
        values=_callback_counts,
    ),
    Instrument(
        name="asyncio.callback.time",
        kind="counter",
        unit="s",
        description="Time in callbacks, by their kind.",
        attributes=("asyncio.callback.kind",),
        values=_callback_times,
    ),
    Instrument(
        name="asyncio.eventloop.turns",
        kind="counter",
        unit="{turn}",
        description="Turns of the loop.",
        values=_of_statistics("turns"),
    ),
    Instrument(
        name="asyncio.eventloop.wakeups",
        kind="counter",
        unit="{wakeup}",
        description="Turns in which another thread woke the loop.",
        values=_of_statistics("wakeups"),
    ),
    Instrument(
        name="asyncio.eventloop.open_transports",
        kind="updowncounter",
        unit="{transport}",
        description="Transports that have their socket.",
        values=_of_statistics("connections"),
    ),
    Instrument(
        name="asyncio.transport.connections",
        kind="counter",
        unit="{connection}",
        description="Stream connections that were made.",
        values=_of_statistics("connections_made"),
    ),
    Instrument(
        name="asyncio.transport.io",
        kind="counter",
        unit="By",
        description="Bytes that stream transports received or were given to send, of TLS the encrypted ones.",
        attributes=("network.io.direction",),
        values=_by("network.io.direction", receive="bytes_received", transmit="bytes_written"),
    ),
    Instrument(
        name="asyncio.transport.write_pauses",
        kind="counter",
        unit="{pause}",
        description="Calls of pause_writing(), because a peer reads slowly.",
        values=_of_statistics("write_pauses"),
    ),
    Instrument(
        name="uringloop.watched_fds",
        kind="updowncounter",
        unit="{fd}",
        description="File descriptors that the loop watches.",
        values=_of_statistics("handlers"),
    ),
    Instrument(
        name="uringloop.system_calls",
        kind="counter",
        unit="{call}",
        description="System calls of the monitor.",
        values=_of_statistics("syscalls"),
    ),
    Instrument(
        name="uringloop.polls",
        kind="counter",
        unit="{poll}",
        description="Waits that busy-polled, by whether an event came meanwhile.",
        attributes=("uringloop.poll.result",),
        values=_by("uringloop.poll.result", hit="poll_hits", miss="poll_misses"),
    ),
    Instrument(
        name="uringloop.active_requests",
        kind="updowncounter",
        unit="{request}",
        description="Requests that the kernel has; io_uring only.",
        attributes=("uringloop.request.kind",),
        values=_requests,
    ),
    Instrument(
        name="uringloop.leaked_requests",
        kind="counter",
        unit="{request}",
        description="Requests whose memory is kept for the life of the process; io_uring only.",
        values=_of_statistics("leaked"),
    ),
    Instrument(
        name="uringloop.sqes",
        kind="counter",
        unit="{sqe}",
        description="SQEs that the kernel took; io_uring only.",
        values=_of_statistics("submitted"),
    ),
    Instrument(
        name="uringloop.cqes",
        kind="counter",
        unit="{cqe}",
        description="CQEs that were taken from the completion queue; io_uring only.",
        values=_of_statistics("completed"),
    ),
    Instrument(
        name="uringloop.cq_overflows",
        kind="counter",
        unit="{overflow}",
        description="Times when completions did not fit into the completion queue; io_uring only.",
        values=_of_statistics("cq_overflows"),
    ),
)


def prometheus_name(instrument: Instrument) -> str:
    """As the translation of OpenTelemetry to Prometheus has it; without the _total of counters."""
    name = instrument.name.replace(".", "_")
    if unit := prometheus_unit(instrument):
        name = f"{name}_{unit}"
    return name


def prometheus_unit(instrument: Instrument) -> str:
    """The end of the name; "" of what is counted."""
    if instrument.unit == "1":
        return "ratio" if instrument.kind == "gauge" else ""
    return {"s": "seconds", "By": "bytes"}.get(instrument.unit, "")


def prometheus_label(attribute: str) -> str:
    """The label of an attribute."""
    return attribute.replace(".", "_")
