"""Timers against heapq, and the guarantees about cancelling."""

import contextvars
import heapq
import random
import sys

import pytest
from drivers.core import TimersDriver
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.helpers import run_script

COMPACT_FROM = 64


@pytest.fixture
def timers():
    driver = TimersDriver()
    yield driver
    driver.clear()


class TimersMachine(RuleBasedStateMachine):
    """The model is a heapq of (when, sequence), and the live timers in it."""

    def __init__(self):
        super().__init__()
        self.timers = TimersDriver()
        self.model = []
        self.live = {}  # sequence -> handle
        self.sequence = 0

    @rule(times=st.lists(st.integers(0, 50) | st.integers(0, 2**62), min_size=1, max_size=80))
    def push(self, times):
        for when_ns in times:
            self.sequence += 1
            self.live[self.sequence] = self.timers.push(when_ns)
            heapq.heappush(self.model, (when_ns, self.sequence))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 60))
    def cancel(self, data, count):
        for sequence in data.draw(st.permutations(sorted(self.live)))[:count]:
            self.live.pop(sequence).cancel()

    @precondition(lambda self: self.live)
    @rule(count=st.integers(1, 40))
    def pop(self, count):
        for _ in range(min(count, len(self.live))):
            when_ns, sequence = self.next_of_model()
            assert self.timers.next_when_ns() == when_ns
            assert self.timers.pop() is self.live.pop(sequence)
            heapq.heappop(self.model)

    @rule()
    def clear(self):
        self.timers.clear()
        self.model.clear()
        self.live.clear()
        assert len(self.timers) == 0

    def teardown(self):
        self.timers.clear()

    def next_of_model(self):
        while self.model and self.model[0][1] not in self.live:
            heapq.heappop(self.model)
        return self.model[0] if self.model else (-1, 0)

    @invariant()
    def counts_agree(self):
        assert len(self.timers) - self.timers.n_cancelled == len(self.live)
        assert all(handle._scheduled for handle in self.live.values())

    @invariant()
    def the_earliest_agrees(self):
        assert self.timers.next_when_ns() == self.next_of_model()[0]


TestTimersAgainstHeapq = TimersMachine.TestCase
TestTimersAgainstHeapq.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 5), max_size=300))
@settings(max_examples=50, deadline=None)
def test_equal_times_keep_the_order_of_scheduling(times):
    timers = TimersDriver()
    handles = [timers.push(when_ns) for when_ns in times]
    popped = [timers.pop() for _ in handles]
    expected = [handle for _, _, handle in sorted(zip(times, range(len(times)), handles, strict=True))]
    assert popped == expected
    assert all(handle is other for handle, other in zip(popped, expected, strict=True))


def test_timers_are_popped_in_the_order_of_their_times(timers):
    times = [(number * 7919) % 10_007 for number in range(10_007)]
    for when_ns in times:
        timers.push(when_ns)
    assert [timers.pop().when() for _ in times] == [when_ns / 1e9 for when_ns in sorted(times)]


def test_without_timers_there_is_no_next_time(timers):
    assert timers.next_when_ns() == -1
    timers.push(5).cancel()
    assert timers.next_when_ns() == -1
    assert len(timers) == 0


def test_cancelled_timer_stays_on_the_heap_until_its_turn(timers):
    """Cancelling is O(1): the heap is not touched."""
    handles = [timers.push(when_ns) for when_ns in range(10)]
    handles[5].cancel()
    handles[5].cancel()
    assert (len(timers), timers.n_cancelled) == (10, 1)
    assert [timers.pop() for _ in range(6)] == handles[:6]
    assert timers.n_cancelled == 0
    assert handles[5].cancelled()


def test_cancelled_timer_at_the_top_is_dropped_when_the_next_time_is_read(timers):
    first = timers.push(1)
    second = timers.push(2)
    first.cancel()
    assert timers.next_when_ns() == 2
    assert (len(timers), timers.n_cancelled) == (1, 0)
    assert not first._scheduled
    assert second._scheduled


def test_heap_is_compacted_when_more_than_half_is_cancelled(timers):
    handles = [timers.push(when_ns) for when_ns in range(1000)]
    lengths = set()
    for handle in handles[100:]:
        handle.cancel()
        lengths.add(len(timers))
        assert timers.n_cancelled < COMPACT_FROM or timers.n_cancelled * 2 <= len(timers) + 1
    assert len(timers) < 100 + 2 * COMPACT_FROM + 100
    assert len(lengths) < 12, "compactions must be rare"
    assert [timers.pop() for _ in range(100)] == handles[:100]


@pytest.mark.parametrize("n_left", range(40, 60))
def test_timers_are_in_order_after_a_compaction(timers, n_left):
    """The heap is made anew from what is left of it: the early ones may be anywhere."""
    shuffled = random.Random(n_left)
    made = [(when_ns, timers.push(when_ns)) for when_ns in shuffled.sample(range(1_000_000), 200)]
    shuffled.shuffle(made)
    for _, handle in made[n_left:]:
        handle.cancel()
    assert len(timers) < len(made)
    times = []
    for _ in range(n_left):
        times.append(timers.next_when_ns())
        timers.pop()
    assert times == sorted(when_ns for when_ns, _ in made[:n_left])


def test_few_cancelled_timers_cause_no_compaction(timers):
    for when_ns in range(COMPACT_FROM - 1):
        timers.push(when_ns).cancel()
    assert (len(timers), timers.n_cancelled) == (COMPACT_FROM - 1, COMPACT_FROM - 1)
    timers.push(0).cancel()
    assert (len(timers), timers.n_cancelled) == (0, 0)


def test_timer_cancelled_after_it_was_popped_is_not_counted(timers):
    handle = timers.push(1)
    timers.push(2)
    assert timers.pop() is handle
    assert not handle._scheduled
    handle.cancel()
    assert timers.n_cancelled == 0


def test_cleared_timers_can_be_cancelled(timers):
    handles = [timers.push(when_ns) for when_ns in range(200)]
    for handle in handles[:50]:
        handle.cancel()
    timers.clear()
    for handle in handles:
        assert not handle._scheduled
        handle.cancel()
    assert (len(timers), timers.n_cancelled) == (0, 0)


@pytest.mark.parametrize("end", ["pop", "compact", "clear", "read"])
def test_timers_keep_exactly_one_reference_to_a_handle(end, timers):
    handles = [timers.push(when_ns) for when_ns in range(100)]
    handle = handles[0]
    before = sys.getrefcount(handle)
    if end == "pop":
        timers.pop()
    elif end == "compact":
        for each in handles:
            each.cancel()
    elif end == "clear":
        timers.clear()
    else:
        handle.cancel()
        timers.next_when_ns()
    assert sys.getrefcount(handle) == before - 1


def test_timer_scheduled_while_a_compaction_drops_others_is_not_lost(request, timers):
    """The last reference to a cancelled handle's context may run any code."""
    variable = contextvars.ContextVar("variable")
    made = []

    class Schedules:
        def __del__(self):
            made.append(timers.push(1_000_000))

    def context():
        fresh = contextvars.Context()
        fresh.run(variable.set, Schedules())
        return fresh

    for when_ns in range(COMPACT_FROM):
        timers.push(when_ns, context=context() if when_ns == 10 else None).cancel()
    assert len(made) == 1
    assert timers.next_when_ns() == 1_000_000
    assert timers.pop() is made[0]


def test_distant_times_are_kept_exactly(timers):
    timers.push(2**63 - 1)
    timers.push(2**63 - 2)
    assert timers.next_when_ns() == 2**63 - 2


@pytest.mark.parametrize("pending", ["call_later", "call_soon"])
def test_unclosed_loop_with_pending_callbacks_is_collected(request, monitor, pending):
    """As with stock asyncio, which warns and closes it; the collector sees references in the loop's arrays."""
    call = {"call_later": "call_later(100, print)", "call_soon": "call_soon(print)"}[pending]
    out = run_script(
        f"""
        import warnings
        loop = make_loop(MONITOR)
        one_turn(loop)
        loop.{call}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del loop
            gc.collect()
        print([warning.category.__name__ for warning in caught])
        """,
        monitor,
    )
    assert out == "['ResourceWarning']\n"
