"""The table of metrics: names and units by OpenTelemetry's conventions, and values that are those of the snapshot."""

import asyncio
import contextlib
import gc
import re
import threading
import weakref

import pytest
from repository.documents import ROOT
from support.work import SLOW_S, busy, echo_of, turns

import uringloop
from uringloop.aiocontext.statistics import Statistics
from uringloop.observing import metrics
from uringloop.observing.each_loop import EachLoop, RecordedLoops, in_its_thread, number_of
from uringloop.observing.metrics import INSTRUMENTS, Reading, difference, utilization
from uringloop.observing.recording import Histogram

BY_NAME = {one.name: one for one in INSTRUMENTS}


@pytest.fixture
def recorded():
    with contextlib.closing(RecordedLoops()) as loops:
        yield loops


def values(name, reading):
    """{values of the attributes: value}; the key of a metric without attributes is ()."""
    return {tuple(attributes.values()): value for attributes, value in BY_NAME[name].values(reading)}


# -- the table -----------------------------------------------------------------------------------------------


def test_names_are_as_opentelemetry_wants_them():
    names = [one.name for one in INSTRUMENTS]
    assert len(set(names)) == len(names)
    for name in (
        *names,
        *metrics.OF_EACH_LOOP,
        *(attribute for one in INSTRUMENTS for attribute in one.attributes),
    ):
        assert re.fullmatch(r"(asyncio|uringloop|network)(\.[a-z]+(_[a-z]+)*)+", name)
    assert not set(names) & {name.rpartition(".")[0] for name in names}, "a name is not a namespace as well"


@pytest.mark.parametrize("one", INSTRUMENTS, ids=lambda one: one.name)
def test_units_are_base_units(one):
    assert one.unit in ("s", "By", "1") or re.fullmatch(r"\{[a-z]+\}", one.unit)
    assert one.kind in ("counter", "updowncounter", "gauge", "histogram")
    assert (one.unit == "1") == (one.kind == "gauge")
    assert not one.name.endswith(".count"), "promtool wants no such suffix"
    assert (one.histogram is not None) == (one.kind == "histogram") == (one.values is None)
    assert one.description.endswith(".")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("asyncio.eventloop.time", "asyncio_eventloop_time_seconds"),
        ("asyncio.eventloop.utilization", "asyncio_eventloop_utilization_ratio"),
        ("asyncio.transport.io", "asyncio_transport_io_bytes"),
        ("uringloop.sqes", "uringloop_sqes"),
    ],
)
def test_names_of_prometheus_end_with_the_unit(name, expected):
    assert metrics.prometheus_name(BY_NAME[name]) == expected


def test_each_number_of_a_loop_is_in_the_table():
    """A new field of Statistics or Snapshot belongs into it."""
    source = (ROOT / "uringloop" / "observing" / "metrics.py").read_text()
    fields = {*Statistics(fdmon="poll"), *uringloop.Snapshot.__dataclass_fields__} - {"seconds"}
    assert {name for name in fields if not re.search(rf"\b{name}\b", source)} == set()


def test_the_document_has_the_table():
    text = (ROOT / "docs" / "exporters.md").read_text()
    for one in INSTRUMENTS:
        suffix = "_total" if one.kind == "counter" else ""
        attributes = ", ".join(f"`{name}`" for name in one.attributes)
        row = (
            f"| `{one.name}`<br>`{metrics.prometheus_name(one)}{suffix}` | {one.kind} | `{one.unit}` "
            f"| {one.description} | {attributes} |"
        )
        assert row in text.splitlines(), row


# -- values --------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_snapshot(loop, recorded):
    async def main():
        async for _ in echo_of(1000):
            (reading,) = recorded.read()
        return reading

    reading = loop.run_until_complete(main())
    snapshot = reading.now
    assert reading.attributes == {"asyncio.eventloop.id": "0", "uringloop.fdmon": loop.fdmon}
    times = values("asyncio.eventloop.time", reading)
    assert times["active", "callbacks"] == snapshot.time.callbacks > 0
    assert times["idle", "waiting"] == snapshot.time.waiting
    assert sum(times.values()) == pytest.approx(snapshot.seconds - snapshot.time.outside)
    calls = values("asyncio.callback.calls", reading)
    assert sum(calls.values()) == sum(one.count for one in snapshot.callbacks) == snapshot.callback_time.count
    assert calls["task",] > 0
    of_kinds = sum(values("asyncio.callback.time", reading).values())
    assert of_kinds == pytest.approx(sum(one.total_s for one in snapshot.callbacks))
    assert 0 < of_kinds <= snapshot.time.callbacks * (1 + 1e-9)
    assert values("asyncio.transport.io", reading) == {("receive",): 2000, ("transmit",): 2000}
    assert values("asyncio.eventloop.open_transports", reading) == {(): 2}
    assert values("asyncio.transport.connections", reading) == {(): 2}
    assert values("asyncio.eventloop.turns", reading) == {(): snapshot.statistics.turns}
    assert values("uringloop.system_calls", reading) == {(): snapshot.statistics.syscalls}
    assert BY_NAME["asyncio.eventloop.delay"].histogram(snapshot) == snapshot.queue_delay
    assert BY_NAME["asyncio.eventloop.timer.delay"].histogram(snapshot) == snapshot.timer_lateness
    assert BY_NAME["asyncio.eventloop.busy.duration"].histogram(snapshot) == snapshot.busy_time
    assert BY_NAME["asyncio.eventloop.gc.duration"].histogram(snapshot) == snapshot.collections
    assert BY_NAME["asyncio.callback.duration"].histogram(snapshot) == snapshot.callback_time


def test_requests_are_counted_by_kind_on_io_uring_only(loop, recorded):
    async def main():
        async for _ in echo_of(10):
            (reading,) = recorded.read()
        return reading

    reading = loop.run_until_complete(main())
    requests = values("uringloop.active_requests", reading)
    if loop.fdmon == "io_uring":
        assert requests["receive",] == 2
        assert sum(requests.values()) == reading.now.statistics.in_flight
    else:
        assert requests == {}


def test_utilization_is_that_since_the_reading_before(loop, recorded):
    loop.call_later(5 * SLOW_S, loop.stop)
    loop.run_forever()
    (idle,) = recorded.read()
    loop.call_soon(busy, SLOW_S)
    turns(loop)
    (full,) = recorded.read()
    assert idle.before is None
    assert full.before is idle.now
    (of_idle,) = values("asyncio.eventloop.utilization", idle).values()
    (of_full,) = values("asyncio.eventloop.utilization", full).values()
    assert of_idle == idle.now.utilization < 0.5 < 0.9 < of_full <= 1.0
    assert utilization(full.now, full.now) == 0.0  # no time has passed


def histogram(*values_s):
    buckets = sorted({value_s: values_s.count(value_s) for value_s in values_s}.items())
    return Histogram(
        count=len(values_s),
        total_s=sum(values_s),
        longest_s=max(values_s, default=0.0),
        buckets=tuple(buckets),
    )


def test_the_difference_of_histograms_has_the_values_between():
    before, now = histogram(0.1, 0.1, 3.0), histogram(0.1, 0.1, 0.1, 0.2, 3.0)
    assert difference(now, None) == now
    assert difference(now, histogram()) == now
    recent = difference(now, before)
    assert recent.buckets == ((0.1, 1), (0.2, 1))
    assert recent.count == 2
    assert recent.total_s == pytest.approx(0.3)
    assert recent.longest_s == pytest.approx(0.2 * 17 / 16)  # at most
    assert difference(now, now).buckets == ()
    assert difference(now, now).longest_s == 0.0


# -- which loops ---------------------------------------------------------------------------------------------


def test_loops_that_exist_and_later_ones_are_recorded_until_they_close(new_loop):
    first = new_loop()
    with contextlib.closing(RecordedLoops()) as recorded:
        second = new_loop()
        for loop in (first, second):
            turns(loop)
        assert [reading.number for reading in recorded.read()] == [0, 1]
        first.close()
        assert [reading.number for reading in recorded.read()] == [1]
        third = new_loop()  # has the number that is free
        turns(third)
        assert [reading.number for reading in recorded.read()] == [0, 1]
        assert number_of(third) == 0
    assert recorded.read() == [] or all(reading.now.seconds for reading in recorded.read())


def test_recording_ends_with_the_last_that_needs_it(loop):
    recorded = RecordedLoops()
    recording = uringloop.record(loop)
    recorded.close()
    recorded.close()
    assert recorded.read() == []
    assert not recording.is_closed
    recording.close()
    assert loop._watched_by == {}


def test_a_loop_that_runs_in_another_thread_is_recorded_by_that(new_loop):
    loop = new_loop()
    loop.call_soon((running := threading.Event()).set)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running.wait()
    recorded = RecordedLoops()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    (reading,) = recorded.read()
    assert reading.now.statistics.turns > 0
    recorded.close()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    assert recorded.read() == []
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def test_snapshots_may_be_read_while_the_loop_runs_in_another_thread(new_loop):
    loop = new_loop()
    done = threading.Event()

    async def work():
        while not done.is_set():
            async for _ in echo_of(1000):
                pass

    with contextlib.closing(RecordedLoops()) as recorded:
        thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
        thread.start()
        before = {}
        for _ in range(200):
            (reading,) = recorded.read()
            for one in INSTRUMENTS:
                if one.kind == "counter":
                    for key, value in values(one.name, reading).items():
                        assert value >= before.get((one.name, key), 0), one.name
                        before[one.name, key] = value
        done.set()
        thread.join()


def test_nothing_is_called_in_a_loop_that_is_closed(new_loop):
    loop = new_loop()
    called = []
    in_its_thread(loop, called.append)
    loop.close()
    in_its_thread(loop, called.append)
    assert called == [loop]


@pytest.mark.expects_loop_errors
def test_an_exporter_that_fails_does_not_fail_the_loop(loop, loop_errors):
    def fail(loop):
        raise ZeroDivisionError

    watched = EachLoop(fail, lambda loop: None)
    turns(loop)
    watched.close()
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_exporters_keep_no_loop(monitor, recorded):
    def make():
        loop = uringloop.new_event_loop(monitor)
        loop.call_later(1000, lambda: loop)  # what a recording's context keeps refers to the loop
        turns(loop)
        return weakref.ref(loop)

    reference = make()
    gc.collect()
    assert reference() is None
    assert recorded.read() == []


def test_a_reading_has_the_attributes_of_its_loop(loop):
    with uringloop.record(loop) as recording:
        assert Reading(7, recording.snapshot(), None).attributes == {
            "asyncio.eventloop.id": "7",
            "uringloop.fdmon": loop.fdmon,
        }
