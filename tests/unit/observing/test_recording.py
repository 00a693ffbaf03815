"""uringloop.record(): what is counted, under which names, and what a recording costs nothing of."""

import asyncio
import contextlib
import functools
import gc
import io
import json
import socket
import time
import tracemalloc

import pytest
from support.selection_tools import script

import uringloop
from uringloop.observing.recording import Histogram

SLOW_S = 0.02


def busy(seconds):
    """A sleep may take longer, by any amount."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def turns(loop, count=1):
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


def found(recording, name, kind=None):
    """The counts of callbacks whose name ends so; there is one entry at most."""
    entries = [
        one
        for one in recording.snapshot().callbacks
        if one.name.endswith(name) and (kind is None or one.kind == kind)
    ]
    assert len(entries) <= 1, entries
    return entries[0] if entries else None


@pytest.fixture
def recording(loop):
    with uringloop.record(loop) as made:
        yield made


class Methods:
    def method(self):
        pass


class Called:
    def __call__(self):
        pass


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


# -- names ---------------------------------------------------------------------------------------------------


def a_function():
    pass


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (a_function, "a_function"),
        (Methods().method, "Methods.method"),
        (functools.partial(functools.partial(a_function)), "a_function"),
        (Called(), "Called"),
        ([].clear, "clear"),
        (gc.isenabled, "isenabled"),
    ],
)
def test_callbacks_are_counted_by_what_they_run(loop, recording, callback, name):
    for _ in range(3):
        loop.call_soon(callback)
    loop.call_later(0, callback)
    turns(loop, 2)
    assert found(recording, name, "callback").count == 3
    assert found(recording, name, "timer").count == 1


def test_a_function_is_named_with_the_line_where_it_begins(loop, recording):
    loop.call_soon(a_function)
    turns(loop)
    line = a_function.__code__.co_firstlineno
    assert found(recording, "a_function").where == f"{__file__}:{line}"


def test_tasks_are_counted_by_their_coroutine_or_the_name_that_they_were_given(loop, recording):
    async def work():
        await asyncio.sleep(0)

    async def main():
        await asyncio.gather(work(), work(), loop.create_task(work(), name="importer"))

    loop.run_until_complete(main())
    assert found(recording, "work", "task").count == 4  # two steps each
    assert found(recording, "importer", "task").count == 2


def test_tasks_of_python_are_counted_in_the_same_way(loop, recording):
    async def work():
        await asyncio.sleep(0)

    loop.set_task_factory(lambda loop, coro, **options: asyncio.tasks._PyTask(coro, loop=loop, **options))
    loop.run_until_complete(work())
    assert found(recording, "work", "task").count == 2


def test_a_name_of_the_program_that_looks_like_a_default_is_not_one(loop, recording):
    async def work():
        pass

    loop.run_until_complete(loop.create_task(work(), name="Task-of-mine"))
    assert found(recording, "Task-of-mine").count == 1


def test_no_method_of_the_programs_task_is_called(loop, recording):
    class Named(asyncio.Task):
        def get_name(self):
            raise AssertionError("called by the recorder")

        def get_coro(self):
            raise AssertionError("called by the recorder")

    async def work():
        pass

    loop.run_until_complete(Named(work(), loop=loop))
    assert found(recording, "work", "task").count == 1


def test_readers_are_counted_as_what_an_fd_calls(loop, recording):
    near, far = socket.socketpair()
    with near, far:

        def readable():
            near.recv(10)
            loop.stop()

        loop.add_reader(near, readable)
        far.send(b"x")
        loop.run_forever()
        loop.remove_reader(near)
    assert found(recording, "readable", "fd").count == 1


def test_a_protocol_is_counted_by_its_class(loop, recording):
    async def main():
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(5):
                writer.write(b"x" * 100)
                await reader.readexactly(100)
            writer.close()
            await writer.wait_closed()

    loop.run_until_complete(main())
    echoes = found(recording, "Echo", "completion" if loop.fdmon == "io_uring" else "fd")
    assert echoes.count >= 5
    statistics = recording.snapshot().statistics
    assert statistics.connections_made == 2
    assert statistics.bytes_received == statistics.bytes_written == 1000


def test_what_finds_no_room_in_the_table_is_counted_as_others(loop, recording):
    made = [eval(f"lambda: {number}") for number in range(600)]
    for one in made:
        loop.call_soon(one)
    turns(loop)
    entries = [one for one in recording.snapshot().callbacks if one.kind == "callback"]
    others = next(one for one in entries if one.name == "(others)")
    assert sum(one.count for one in entries) >= 600
    assert len(entries) + others.count - 1 >= 600
    assert others.count > 200


def test_too_many_task_names_are_counted_by_their_coroutine(loop, recording):
    async def work():
        pass

    async def main():
        for number in range(200):
            await loop.create_task(work(), name=f"connection {number}")

    loop.run_until_complete(main())
    by_name = [one for one in recording.snapshot().callbacks if one.name.startswith("connection ")]
    assert len(by_name) == 128
    assert found(recording, ".work", "task").count == 200 - 128


# -- times ---------------------------------------------------------------------------------------------------


def test_the_times_add_up(loop, recording):
    loop.call_soon(busy, SLOW_S)
    loop.call_later(2 * SLOW_S, loop.stop)
    loop.run_forever()
    snapshot = recording.snapshot()
    time_ = snapshot.time
    parts = [
        time_.outside,
        time_.loop,
        time_.callbacks,
        time_.system_calls,
        time_.waiting,
        time_.polling,
        time_.collecting,
    ]
    assert sum(parts) == pytest.approx(snapshot.seconds, rel=1e-3)
    assert time_.callbacks >= SLOW_S
    assert time_.waiting + time_.polling > 0
    assert 0 < snapshot.utilization < 1


def test_time_outside_of_the_loop_is_not_the_loops(loop, recording):
    turns(loop)
    before = recording.snapshot().time
    busy(SLOW_S)
    after = recording.snapshot().time
    assert after.outside - before.outside >= SLOW_S
    assert after.callbacks == before.callbacks


def test_the_longest_callback_is_known_exactly(loop, recording):
    began = time.monotonic()
    loop.call_soon(busy, SLOW_S)
    loop.call_soon(a_function)
    turns(loop)
    entry = found(recording, "busy")
    assert entry.count == 1
    assert SLOW_S <= entry.longest_s == entry.total_s
    assert began <= entry.longest_at <= time.monotonic() - SLOW_S
    assert recording.snapshot().callback_time.longest_s == entry.longest_s
    assert recording.snapshot().callbacks[0] == entry  # most time first


def test_a_callback_behind_a_slow_one_is_delayed_by_that(loop, recording):
    loop.call_soon(busy, SLOW_S)
    loop.call_soon(a_function)
    turns(loop)
    delay = recording.snapshot().queue_delay
    assert delay.count >= 2
    assert delay.longest_s >= SLOW_S


def test_a_callback_of_the_next_turn_is_not_delayed_by_its_own_scheduling(loop, recording):
    """What busy() schedules became ready when that ended, at the latest."""

    def schedule():
        busy(SLOW_S)
        loop.call_soon(loop.stop)

    loop.call_soon(schedule)
    loop.run_forever()
    assert recording.snapshot().queue_delay.longest_s < SLOW_S


def test_delays_are_right_while_the_queue_grows(loop, recording):
    def schedule():
        for _ in range(1000):
            loop.call_soon(a_function)
        loop.call_soon(loop.stop)

    loop.call_soon(schedule)
    loop.run_forever()
    delay = recording.snapshot().queue_delay
    assert delay.count == 1002
    assert delay.longest_s < recording.snapshot().seconds


def test_a_timer_behind_a_slow_callback_is_late(loop, recording):
    loop.call_later(0, loop.stop)
    loop.call_soon(busy, SLOW_S)
    loop.run_forever()
    late = recording.snapshot().timer_lateness
    assert late.count == 1
    assert late.longest_s >= SLOW_S


def test_from_one_wait_to_the_next_is_busy_time(loop, recording):
    loop.call_soon(busy, SLOW_S)
    loop.call_soon(busy, SLOW_S)
    turns(loop, 3)
    assert recording.snapshot().busy_time.longest_s >= 2 * SLOW_S


def test_collections_are_counted_and_not_in_a_callbacks_time(loop, recording):
    garbage = []
    for _ in range(20_000):
        one = []
        one.append(one)
        garbage.append(one)

    def collect():
        garbage.clear()
        gc.collect()

    loop.call_soon(collect)
    turns(loop)
    snapshot = recording.snapshot()
    assert snapshot.collections.count >= 1
    assert snapshot.time.collecting == pytest.approx(snapshot.collections.total_s)
    assert found(recording, "collect").total_s < snapshot.collections.longest_s
    assert any(one.kind == "collecting" for one in recording.events())


def test_a_nested_run_is_not_in_the_time_of_the_callback_that_made_it(monitor):
    loop = uringloop.Loop(fdmon=monitor, nested=True)

    def inner():
        busy(SLOW_S)

    def outer():
        loop.call_soon(inner)
        waiter = loop.create_future()
        loop.call_later(SLOW_S, waiter.set_result, None)
        loop.run_until_complete(waiter)

    with contextlib.closing(loop), uringloop.record(loop) as recording:
        loop.call_soon(outer)
        turns(loop)
        assert found(recording, "inner").total_s >= SLOW_S
        assert found(recording, "outer").total_s < SLOW_S
        assert found(recording, "outer").count == 1


def test_callbacks_that_an_exception_leaves_do_not_disturb_the_next_run(loop, recording):
    def leave():
        raise SystemExit(3)

    for _ in range(3):
        loop.call_soon(leave)
        with pytest.raises(SystemExit):
            loop.run_forever()
        busy(SLOW_S)
    loop.call_soon(a_function)
    turns(loop)
    assert found(recording, "a_function").count == 1
    assert found(recording, "a_function").total_s < SLOW_S
    assert recording.snapshot().time.callbacks < SLOW_S


# -- events --------------------------------------------------------------------------------------------------


def test_the_last_events_are_kept_in_their_order(loop):
    with uringloop.record(loop, events=16) as recording:
        loop.call_soon(busy, 0)
        for _ in range(40):
            loop.call_soon(a_function)
        turns(loop)
        events = recording.events()
    assert len(events) == 16
    assert [one.began for one in events] == sorted(one.began for one in events)
    assert not any(one.name.endswith("busy") for one in events)
    assert {one.kind for one in events if one.name.endswith("a_function")} == {"callback"}


def test_the_events_are_dumped_as_a_trace(loop, recording, tmp_path):
    loop.call_soon(busy, SLOW_S)
    turns(loop)
    recording.dump(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    slow = [one for one in trace["traceEvents"] if one["name"].endswith("busy")]
    assert len(slow) == 1
    assert slow[0]["ph"] == "X"
    assert slow[0]["dur"] >= SLOW_S * 1e6
    text = io.StringIO()
    recording.dump(text)
    assert json.loads(text.getvalue())["traceEvents"]


# -- recordings ----------------------------------------------------------------------------------------------


def test_nothing_is_counted_after_the_end_and_the_numbers_stay(loop):
    recording = uringloop.record(loop)
    loop.call_soon(a_function)
    turns(loop)
    recording.close()
    recording.close()
    assert recording.is_closed
    snapshot = recording.snapshot()
    loop.call_soon(a_function)
    turns(loop)
    assert recording.snapshot() is snapshot
    assert found(recording, "a_function").count == 1


def test_two_recordings_of_a_loop_are_one_until_both_end(loop):
    first, second = uringloop.record(loop), uringloop.record(loop)
    first.close()
    loop.call_soon(a_function)
    turns(loop)
    assert found(second, "a_function").count == 1
    second.close()
    with uringloop.record(loop) as third:
        turns(loop)
        assert found(third, "a_function") is None  # begins anew


def test_a_recording_ends_with_its_loop(new_loop):
    loop = new_loop()
    recording = uringloop.record(loop)
    loop.call_soon(a_function)
    turns(loop)
    loop.close()
    assert recording.is_closed
    assert found(recording, "a_function").count == 1
    recording.close()


def test_a_recording_may_begin_and_end_in_a_callback(loop):
    made = []

    def begin():
        made.append(uringloop.record())
        busy(SLOW_S)

    loop.call_soon(begin)
    loop.call_soon(a_function)
    loop.call_soon(lambda: made[0].close())
    turns(loop, 2)
    (recording,) = made
    assert found(recording, "a_function").count == 1
    assert found(recording, "a_function").total_s < SLOW_S  # the callback that began it is not in it


def test_slow_callbacks_are_reported_with_a_recording_and_without(loop):
    reported = []
    loop.slow_callback_duration = SLOW_S
    loop.slow_callback_hook = lambda what, seconds: reported.append(seconds)

    def slow_turn():
        loop.call_soon(busy, SLOW_S)
        turns(loop)
        return len(reported)

    assert slow_turn() == 1
    with uringloop.record(loop):
        assert slow_turn() == 2
        loop.slow_callback_duration = 1000
        assert slow_turn() == 2
        loop.slow_callback_duration = SLOW_S
    assert slow_turn() == 3
    loop.slow_callback_hook = None
    assert slow_turn() == 3


def test_memory_is_fixed(loop, recording):
    for _ in range(100):
        loop.call_soon(a_function)
    turns(loop)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(200):
            for _ in range(100):
                loop.call_soon(a_function)
            turns(loop)
        grown = sum(one.size_diff for one in tracemalloc.take_snapshot().compare_to(before, "filename"))
    finally:
        tracemalloc.stop()
    assert found(recording, "a_function").count == 100 + 200 * 100
    assert grown < 100_000


def test_what_cannot_be_recorded_is_refused(loop, new_loop):
    with pytest.raises(TypeError, match="only loops of uringloop"):
        uringloop.record(asyncio.SelectorEventLoop)
    with pytest.raises(ValueError, match="events must be 1 or more"):
        uringloop.record(loop, events=0)
    with pytest.raises(RuntimeError, match="no running event loop"):
        uringloop.record()
    closed = new_loop()
    closed.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        uringloop.record(closed)


def test_a_recording_does_not_keep_its_loop(new_loop):
    import weakref

    loop = new_loop()
    recording = uringloop.record(loop)
    turns(loop)
    reference = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert reference() is None or gc.get_referrers(reference())  # the fixture has it, and nothing of ours
    assert recording.snapshot().seconds > 0


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_environment_records_new_loops(monitor, value):
    script(
        f"""
        loop = uringloop.new_event_loop(fdmon={monitor!r})
        loop.run_until_complete(asyncio.sleep(0))
        with uringloop.record(loop) as recording:
            names = [one.name for one in recording.snapshot().callbacks]
        assert any("sleep" in one for one in names) == ({value!r} == "1"), names
        loop.close()
        """,
        env={"URINGLOOP_RECORD": value},
    )


# -- histograms ----------------------------------------------------------------------------------------------


def histogram(values_s):
    """As the recorder makes it: 16 buckets per power of two."""
    buckets = {}
    for value_s in values_s:
        ns = int(value_s * 1e9)
        step = 1 << max(ns.bit_length() - 5, 0)
        buckets[ns // step * step / 1e9] = buckets.get(ns // step * step / 1e9, 0) + 1
    return Histogram(
        count=len(values_s),
        total_s=sum(values_s),
        longest_s=max(values_s, default=0.0),
        buckets=tuple(sorted(buckets.items())),
    )


def test_percentiles_are_right_within_a_sixteenth():
    values = sorted((number**2) * 1e-6 for number in range(1, 1001))
    made = histogram(values)
    for percent in (1, 25, 50, 90, 99, 99.9, 100):
        exact = values[max(int(len(values) * percent / 100) - 1, 0)]
        assert exact <= made.percentile(percent) * (1 + 1e-9)
        assert made.percentile(percent) <= exact * 17 / 16 * (1 + 1e-6) + 2e-9
    assert made.percentile(100) == made.longest_s
    assert made.mean_s == pytest.approx(sum(values) / len(values))


def test_an_empty_histogram_is_zero():
    empty = histogram([])
    assert (empty.percentile(99), empty.mean_s, empty.longest_s) == (0.0, 0.0, 0.0)
    assert empty.counts_up_to((0.1, 1.0)) == [0, 0]


@pytest.mark.parametrize("percent", [-1, 101])
def test_percentages_out_of_range_are_refused(percent):
    with pytest.raises(ValueError, match="percent must be from 0 to 100"):
        histogram([1.0]).percentile(percent)


def test_counts_up_to_bounds_are_cumulative():
    made = histogram([0.001, 0.01, 0.1, 1.0])
    assert made.counts_up_to((0.0001, 0.005, 0.05, 0.5, 5.0)) == [0, 1, 2, 3, 4]
