"""QEMU's /aio-gsource/* tests: those of test-aio.c again, with the context driven by another main loop."""

import threading
import time

import pytest
from support.context_tools import Counter, ForeignIterations


@pytest.fixture
def foreign(context):
    loop = ForeignIterations(context)
    loop.drain()
    yield loop
    loop.loop.detach()


def test_notify_is_handled_by_the_foreign_loop(context, foreign):
    """flush"""
    context.notify()
    foreign.drain()
    threading.Timer(0.005, context.notify).start()
    foreign.iterate(may_block=True)
    foreign.drain()


def test_a_bottom_half_runs_once(context, foreign):
    """bh/schedule, bh/flush"""
    ran = Counter()
    half = context.new_bottom_half(ran)
    half.schedule()
    assert ran.n == 0
    assert foreign.iterate(may_block=True)
    assert ran.n == 1
    foreign.drain()
    assert ran.n == 1


def test_a_bottom_half_that_schedules_itself_runs_ten_times(context, foreign):
    """bh/schedule10"""
    ran = Counter()

    def again():
        ran()
        if ran.n < 10:
            half.schedule()

    half = context.new_bottom_half(again)
    half.schedule()
    foreign.until(lambda: ran.n >= 10)
    foreign.drain()
    assert ran.n == 10


def test_a_cancelled_bottom_half_does_not_run(context, foreign):
    """bh/cancel"""
    ran = Counter()
    half = context.new_bottom_half(ran)
    half.schedule()
    half.cancel()
    foreign.drain()
    assert ran.n == 0


def test_a_deleted_bottom_half_does_not_run(context, foreign):
    """bh/delete"""
    ran = Counter()
    half = context.new_bottom_half(ran)
    half.schedule()
    half.delete()
    foreign.drain()
    assert ran.n == 0


def test_bottom_halves_may_delete_themselves(context, foreign):
    """bh/callback-delete/one, bh/callback-delete/many"""
    lives = [1, 3, 2, 4]
    runs = [0] * 4

    def run(number):
        runs[number] += 1
        if runs[number] == lives[number]:
            halves[number].delete()
        else:
            halves[number].schedule()

    halves = [context.new_bottom_half(run, number) for number in range(4)]
    for half in halves:
        half.schedule()
    foreign.drain()
    assert runs == lives
    assert all(half.deleted for half in halves)


def test_an_idle_handler_is_added_and_removed_without_a_call(context, foreign, new_notifier):
    """event/add-remove"""
    notifier = new_notifier()
    ran = Counter(notifier)
    context.set_event_notifier(notifier, ran)
    foreign.drain()
    context.set_event_notifier(notifier)
    foreign.drain()
    assert ran.n == 0


def test_an_event_is_reported_once_and_not_after_its_removal(context, foreign, new_notifier):
    """event/wait"""
    notifier = new_notifier()
    ran = Counter(notifier)
    context.set_event_notifier(notifier, ran)
    foreign.drain()
    assert ran.n == 0
    notifier.set()
    foreign.until(lambda: ran.n)
    foreign.drain()
    assert ran.n == 1
    context.set_event_notifier(notifier)
    notifier.set()
    foreign.drain()
    assert ran.n == 1


def test_only_the_notifier_that_was_set_fires(context, foreign, new_notifier):
    """event/wait/no-flush-cb"""
    notifiers = new_notifier(), new_notifier()
    counters = [Counter(notifier) for notifier in notifiers]
    for notifier, counter in zip(notifiers, counters, strict=True):
        context.set_event_notifier(notifier, counter)
    foreign.drain()
    for number, expected in ((0, [1, 0]), (1, [1, 1])):
        notifiers[number].set()
        foreign.until(lambda number=number: counters[number].n)
        foreign.drain()
        assert [counter.n for counter in counters] == expected


def test_a_handler_that_sets_its_own_event_runs_again(context, foreign, new_notifier):
    """event/flush"""
    notifier = new_notifier()
    ran = Counter(notifier, active=10)
    context.set_event_notifier(notifier, ran)
    notifier.set()
    foreign.until(lambda: ran.n >= 10)
    foreign.drain()
    assert ran.n == 10


def test_a_timer_runs_once_on_time_and_can_arm_itself_again(context, foreign):
    """timer/schedule"""
    runs = []

    def run():
        runs.append(context.time_ns())
        if len(runs) == 1:
            context.call_at_ns(due_ns + 40_000_000, run)

    due_ns = context.time_ns() + 20_000_000
    context.call_at_ns(due_ns, run)
    foreign.iterate()
    assert runs == []
    time.sleep(0.025)
    foreign.drain()
    assert len(runs) == 1
    foreign.until(lambda: len(runs) == 2)
    foreign.drain()
    assert len(runs) == 2
    assert runs[1] >= due_ns + 40_000_000
