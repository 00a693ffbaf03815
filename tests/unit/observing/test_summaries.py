"""uringloop.log_summaries(): one line per interval, with the numbers of that interval."""

import asyncio
import logging

import pytest
from support.work import SLOW_S, busy, echo_of, turns

import uringloop
from uringloop.observing.summaries import summary

INTERVAL_S = 2 * SLOW_S


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def lines():
    return Lines()


@pytest.fixture
def logger(lines):
    made = logging.Logger("of the test")
    made.addHandler(lines)
    return made


def until(loop, lines, count):
    """Run until so many lines were logged."""

    async def wait():
        while len(lines.records) < count:
            await asyncio.sleep(INTERVAL_S / 10)

    loop.run_until_complete(asyncio.wait_for(wait(), 60))


def test_each_interval_has_a_line(loop, logger, lines):
    with uringloop.log_summaries(INTERVAL_S, logger=logger, loop=loop):
        loop.call_soon(busy, SLOW_S)
        until(loop, lines, 1)
        until(loop, lines, 2)
    first, second = lines.records
    assert first.levelno == logging.INFO
    assert first.uringloop_loop == 0
    assert first.uringloop_interval_s >= INTERVAL_S
    assert 0 < second.uringloop_utilization < first.uringloop_utilization <= 1
    assert first.uringloop_longest_callback == "callback busy"
    assert first.uringloop_longest_callback_s >= SLOW_S
    assert first.uringloop_busiest_callback == "callback busy"
    assert second.uringloop_longest_callback != "callback busy"
    text = first.getMessage()
    assert text.startswith("loop 0: ")
    assert " ms (callback busy), 0 connections, 0.0 kB/s in, 0.0 kB/s out" in text


def test_the_numbers_are_those_between_two_snapshots(loop):
    with uringloop.record(loop) as recording:
        turns(loop, 10)
        before = recording.snapshot()

        async def main():
            async for _ in echo_of(5000):
                busy(SLOW_S)
                found.append(recording.snapshot())

        found = []
        loop.run_until_complete(main())
        (now,) = found
    numbers = summary(now, before)
    seconds = now.seconds - before.seconds
    assert numbers["interval_s"] == seconds
    assert numbers["received_bytes_per_s"] == pytest.approx(10_000 / seconds)
    assert numbers["written_bytes_per_s"] == pytest.approx(10_000 / seconds)
    assert numbers["connections"] == 2
    assert numbers["turns_per_s"] == pytest.approx((now.statistics.turns - before.statistics.turns) / seconds)
    assert numbers["callbacks_per_s"] == pytest.approx(
        (now.callback_time.count - before.callback_time.count) / seconds
    )
    assert 0 <= numbers["delay_p50_s"] <= numbers["delay_p99_s"] <= numbers["delay_max_s"]
    assert numbers["busiest_callback_s"] <= numbers["callbacks_per_s"] * seconds


def test_nothing_in_an_interval_is_zero(loop):
    with uringloop.record(loop) as recording:
        turns(loop)
        snapshot = recording.snapshot()
    numbers = summary(snapshot, snapshot)
    assert {value for value in numbers.values() if value} == set()
    assert (numbers["longest_callback"], numbers["busiest_callback"]) == ("", "")


def test_the_longest_is_named_if_it_is_the_longest_of_its_name(loop):
    with uringloop.record(loop) as recording:
        loop.call_soon(busy, 2 * SLOW_S)
        turns(loop)
        before = recording.snapshot()
        loop.call_soon(busy, SLOW_S)  # shorter than that before the interval
        turns(loop)
        now = recording.snapshot()
    numbers = summary(now, before)
    assert numbers["longest_callback"] == ""
    assert numbers["longest_callback_s"] >= SLOW_S
    assert numbers["busiest_callback"] == "callback busy"
    assert numbers["busiest_callback_s"] >= SLOW_S


def test_names_in_lines_are_short(loop):
    async def work():
        busy(SLOW_S)

    with uringloop.record(loop) as recording:
        before = recording.snapshot()
        loop.run_until_complete(loop.create_task(work(), name="x" * 10_000))
        numbers = summary(recording.snapshot(), before)
    assert len(numbers["longest_callback"]) == len(numbers["busiest_callback"]) == 100


def test_it_ends_when_it_is_closed(loop, logger, lines):
    with uringloop.record(loop) as recording:
        summaries = uringloop.log_summaries(INTERVAL_S, logger=logger, loop=loop)
        until(loop, lines, 1)
        summaries.close()
        summaries.close()
        assert not recording.is_closed
        loop.call_later(2 * INTERVAL_S, loop.stop)
        loop.run_forever()
    assert len(lines.records) == 1


def test_it_ends_with_its_loop(new_loop, logger, lines):
    loop = new_loop()
    summaries = uringloop.log_summaries(INTERVAL_S, logger=logger, loop=loop)
    loop.close()
    summaries.close()
    assert lines.records == []


def test_the_running_loop_and_the_logger_of_uringloop_are_the_defaults(loop, lines, caplog):
    async def main():
        with uringloop.log_summaries(INTERVAL_S / 10, level=logging.WARNING):
            while not caplog.records:
                await asyncio.sleep(INTERVAL_S / 10)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert (caplog.records[0].name, caplog.records[0].levelname) == ("uringloop", "WARNING")


@pytest.mark.expects_loop_errors
def test_a_failing_logger_is_called_again(loop, logger, lines, loop_errors):
    def fail(record):
        lines.records.append(record)
        raise ZeroDivisionError

    lines.handle = fail
    with uringloop.log_summaries(INTERVAL_S / 10, logger=logger, loop=loop):
        until(loop, lines, 2)
    assert [type(context["exception"]) for context in loop_errors][:2] == [ZeroDivisionError] * 2


@pytest.mark.parametrize("interval_s", [0, -1, float("nan"), float("inf")])
def test_wrong_intervals_are_refused(loop, interval_s):
    with pytest.raises(ValueError, match="interval_s must be positive"):
        uringloop.log_summaries(interval_s, loop=loop)


def test_what_cannot_be_recorded_is_refused(new_loop):
    with pytest.raises(RuntimeError, match="no running event loop"):
        uringloop.log_summaries()
    closed = new_loop()
    closed.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        uringloop.log_summaries(loop=closed)
