"""The checks of QEMU's tests of its AioContext (test-aio.c) on uringloop's, one turn at a time.
A callback in the ready queue is what QEMU calls a bottom half; here they run first in, first out. Names in the
docstrings are QEMU's.
"""

import itertools
import os
import select
import threading

import pytest
from drivers.core import ContextDriver

from unit.conftest import handler_with

POLLIN, POLLOUT = select.POLLIN, select.POLLOUT


def turns(aio, count=1):
    for _ in range(count):
        aio.poll(False)


def settle(aio, count=60):
    """Enough turns for a faulty monitor."""
    turns(aio, count)


def notifier(aio, fds, callback=None):
    """A watched eventfd, like QEMU's EventNotifier: its callback reads it."""

    def on_ready(handler, revents):
        os.eventfd_read(handler.fd)
        if callback is not None:
            callback(handler)

    handler = handler_with(on_ready, fds.eventfd(), POLLIN)
    aio.set_handler(None, handler)
    return handler


def set_notifier(handler):
    os.eventfd_write(handler.fd, 1)


def until(aio, condition, *, blocking=False, most=200):
    for _ in range(most):
        if condition():
            return
        aio.poll(blocking)
    raise AssertionError(f"still false after {most} turns")


# Bottom halves


def test_blocking_turn_is_woken_by_another_thread(aio, fds):
    """acquire"""
    handler = notifier(aio, fds)
    for count in range(1, 20):
        thread = threading.Thread(target=set_notifier, args=(handler,))
        thread.start()
        while len(handler.calls) < count:
            aio.poll(True)
        thread.join()
    turns(aio)
    assert len(handler.calls) == 19


def test_blocking_turn_is_woken_by_notify(aio):
    """flush"""
    done = []
    for count in range(1, 50):
        thread = threading.Thread(target=aio.call_soon_threadsafe, args=(done.append, count))
        thread.start()
        while len(done) < count:
            aio.poll(True)
        thread.join()
    assert done == list(range(1, 50))


def test_callback_does_not_run_before_a_turn_and_runs_once(aio):
    """bh/schedule"""
    calls = []
    aio.call_soon(calls.append, 1)
    assert calls == []
    aio.poll(True)
    assert calls == [1]
    turns(aio, 3)
    assert calls == [1]


def test_callback_that_schedules_itself_runs_once_in_each_turn(aio):
    """bh/schedule10"""
    calls = []

    def again():
        calls.append(len(calls) + 1)
        if len(calls) < 10:
            aio.call_soon(again)

    aio.call_soon(again)
    for count in range(1, 11):
        aio.poll(True)
        assert calls[-1] == count
    turns(aio, 3)
    assert len(calls) == 10


def test_cancelled_callback_never_runs(aio):
    """bh/cancel"""
    calls = []
    handle = aio.call_soon(calls.append, 1)
    handle.cancel()
    turns(aio, 3)
    assert calls == []
    assert aio.n_ready == 0


def test_callback_cancelled_by_an_earlier_one_of_the_same_turn_does_not_run(aio):
    """bh/delete"""
    calls = []
    aio.call_soon(lambda: second.cancel())
    second = aio.call_soon(calls.append, "second")
    aio.call_soon(calls.append, "third")
    turns(aio)
    assert calls == ["third"]


def test_callback_may_cancel_itself_while_it_runs(aio):
    """bh/callback-delete/one"""
    calls = []

    def run(argument):
        handle.cancel()
        calls.append(argument)

    handle = aio.call_soon(run, "argument")
    turns(aio, 2)
    assert calls == ["argument"]


def test_callbacks_each_run_as_often_as_they_schedule_themselves(aio):
    """bh/callback-delete/many"""
    counts = dict.fromkeys("abcd", 0)

    def run(name, lives):
        counts[name] += 1
        if counts[name] < lives:
            aio.call_soon(run, name, lives)

    for name, lives in zip("abcd", (1, 3, 2, 4), strict=True):
        aio.call_soon(run, name, lives)
    turns(aio)
    assert counts == {"a": 1, "b": 1, "c": 1, "d": 1}
    turns(aio, 5)
    assert counts == {"a": 1, "b": 3, "c": 2, "d": 4}


def test_callbacks_run_first_in_first_out(aio):
    calls = []
    for number in range(500):
        aio.call_soon(calls.append, number)
    turns(aio)
    assert calls == list(range(500))


def test_failing_callback_does_not_stop_the_turn(aio):
    calls = []
    aio.call_soon(lambda: 1 / 0)
    aio.call_soon(calls.append, 1)
    turns(aio)
    assert calls == [1]
    assert [type(details["exception"]) for details in aio.errors] == [ZeroDivisionError]
    aio.errors.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_in_a_callback_leaves_the_others_for_the_next_turn(aio, error):
    calls = []

    def end():
        raise error

    aio.call_soon(end)
    aio.call_soon(calls.append, 1)
    with pytest.raises(error):
        aio.poll(False)
    assert calls == []
    turns(aio)
    assert calls == [1]


# Events


def test_idle_handler_is_added_and_removed_without_a_call(aio, fds):
    """event/add-remove"""
    handler = notifier(aio, fds)
    turns(aio, 3)
    aio.set_handler(handler, None)
    turns(aio, 3)
    assert handler.calls == []


def test_event_is_delivered_by_the_next_turn_and_once(real_aio, fds):
    """event/wait"""
    handler = notifier(real_aio, fds)
    turns(real_aio)
    assert handler.calls == []
    set_notifier(handler)
    turns(real_aio)
    assert len(handler.calls) == 1
    turns(real_aio, 3)
    assert len(handler.calls) == 1
    real_aio.set_handler(handler, None)
    set_notifier(handler)
    turns(real_aio, 3)
    assert len(handler.calls) == 1


def test_of_two_handlers_only_the_ready_one_is_called(aio, fds):
    """event/wait/no-flush-cb"""
    first, second = notifier(aio, fds), notifier(aio, fds)
    set_notifier(first)
    until(aio, lambda: first.calls, blocking=True)
    settle(aio)
    assert (len(first.calls), len(second.calls)) == (1, 0)
    set_notifier(second)
    until(aio, lambda: second.calls, blocking=True)
    settle(aio)
    assert (len(first.calls), len(second.calls)) == (1, 1)


def test_handler_that_sets_its_own_event_is_called_once_in_each_turn(real_aio, fds):
    """event/flush: QEMU's io_uring monitor failed it in 2020, as it armed handlers a turn too late."""
    left = 10

    def again(handler):
        nonlocal left
        left -= 1
        if left:
            set_notifier(handler)

    handler = notifier(real_aio, fds, again)
    set_notifier(handler)
    for count in range(1, 11):
        real_aio.poll(False)
        assert len(handler.calls) == count
    turns(real_aio, 3)
    assert len(handler.calls) == 10


def test_two_handlers_that_wake_each_other_do_so_in_turns(aio, fds):
    """coroutine/queue-chaining"""
    count = 0

    def wake(handler):
        nonlocal count
        count += 1
        if count < 2000:
            set_notifier(second if handler is first else first)

    first, second = notifier(aio, fds, wake), notifier(aio, fds, wake)
    set_notifier(first)
    until(aio, lambda: count == 2000, blocking=True, most=50_000)
    settle(aio)
    assert (len(first.calls), len(second.calls)) == (1000, 1000)


def test_handler_removed_by_another_one_of_the_same_turn_is_not_called(aio, fds):
    first_called = []

    def remove_the_other(handler):
        first_called.append(handler)
        other = second if handler is first else first
        aio.set_handler(other, None)

    first, second = notifier(aio, fds, remove_the_other), notifier(aio, fds, remove_the_other)
    set_notifier(first)
    set_notifier(second)
    settle(aio)
    assert len(first_called) == 1


def test_handler_can_remove_itself_and_close_its_fd(aio, fds):
    def end(handler):
        aio.set_handler(handler, None)
        fds.close(handler.fd)

    handler = notifier(aio, fds, end)
    set_notifier(handler)
    settle(aio)
    assert len(handler.calls) == 1


def test_handler_that_raises_leaves_the_others_for_the_next_turn(real_aio, fds):
    def fail(handler):
        raise KeyboardInterrupt

    failing = notifier(real_aio, fds, fail)
    fine = notifier(real_aio, fds)
    set_notifier(failing)
    set_notifier(fine)
    with pytest.raises(KeyboardInterrupt):
        turns(real_aio, 2)
    turns(real_aio, 2)
    assert len(failing.calls) == 1
    assert len(fine.calls) == 1


def test_blocking_turn_does_not_sleep_on_events_that_an_exception_left_behind(real_aio, fds):
    """Invariant: the loop never blocks while an fd is undispatched."""
    called = []

    def fail_first(handler, revents):
        called.append(handler)
        if len(called) == 1:
            raise KeyboardInterrupt

    handlers = [handler_with(fail_first, fds.eventfd(1), POLLIN) for _ in range(2)]
    for handler in handlers:
        real_aio.set_handler(None, handler)
    with pytest.raises(KeyboardInterrupt):
        turns(real_aio)
    assert real_aio.n_undispatched_fds == 1
    for handler in handlers:
        os.eventfd_read(handler.fd)  # so that the kernel has no event left to wake the loop
    real_aio.poll(True)
    assert sorted(handler.fd for handler in called) == sorted(handler.fd for handler in handlers)


# Timers


def test_timer_runs_once_and_not_before_its_time(aio):
    """timer/schedule"""
    calls = []
    when_ns = aio.time_ns() + 20_000_000
    aio.call_at_ns(when_ns, lambda: calls.append(aio.time_ns()))
    turns(aio)
    while not calls:
        if aio.time_ns() < when_ns - 10_000_000:
            assert calls == []
        aio.poll(True)
    assert calls[0] >= when_ns
    turns(aio, 3)
    assert len(calls) == 1


def test_timer_that_re_arms_itself_wakes_blocking_turns(aio):
    calls = []

    def again():
        calls.append(aio.time_ns())
        if len(calls) < 5:
            aio.call_at_ns(calls[-1] + 500_000, again)

    aio.call_at_ns(aio.time_ns() + 500_000, again)
    while len(calls) < 5:
        aio.poll(True)
    assert all(later - earlier >= 500_000 for earlier, later in itertools.pairwise(calls))


def test_due_timers_of_one_turn_run_by_time_and_equal_ones_in_order(aio):
    now_ns = aio.time_ns()
    calls = []
    for number, ago_ns in enumerate((10, 30, 20, 30, 10)):
        aio.call_at_ns(now_ns - ago_ns, calls.append, number)
    turns(aio)
    assert calls == [1, 3, 2, 0, 4]


def test_timer_cancelled_by_an_earlier_one_of_the_same_turn_does_not_run(aio):
    now_ns = aio.time_ns()
    calls = []
    aio.call_at_ns(now_ns - 2, lambda: second.cancel())
    second = aio.call_at_ns(now_ns - 1, calls.append, 2)
    turns(aio, 2)
    assert calls == []


def test_timer_made_by_a_timer_waits_for_the_next_turn(aio):
    calls = []

    def again():
        calls.append(True)
        aio.call_at_ns(0, again)

    aio.call_at_ns(0, again)
    for count in range(1, 6):
        turns(aio)
        assert len(calls) == count


def test_timer_that_re_arms_itself_in_the_past_starves_no_due_timer(request, aio):
    """Stock asyncio runs all timers that are due at one reading of the clock."""
    calls = []

    def again():
        calls.append("again")
        aio.call_at_ns(1, again)

    aio.call_at_ns(1, again)
    aio.call_at_ns(2, calls.append, "due")
    turns(aio, 5)
    assert calls[:3] == ["again", "due", "again"]


def test_due_timer_runs_before_one_that_an_earlier_timer_made(request, aio):
    calls = []

    def first():
        calls.append("first")
        aio.call_at_ns(1, calls.append, "made by first")

    aio.call_at_ns(1, first)
    aio.call_at_ns(2, calls.append, "second")
    turns(aio, 3)
    assert calls == ["first", "second", "made by first"]


def test_order_of_one_turn_is_callbacks_then_events_then_timers(real_aio, fds):
    calls = []
    handler = notifier(real_aio, fds, lambda _: calls.append("event"))
    turns(real_aio)
    set_notifier(handler)
    real_aio.call_at_ns(1, calls.append, "timer")
    real_aio.call_soon(calls.append, "callback")
    turns(real_aio)
    assert calls == ["callback", "event", "timer"]


# Flushing


def test_flush_is_called_once_before_the_next_wait(aio):
    from drivers.core import RecordingFlushable

    order = []
    flushable = RecordingFlushable(lambda: order.append("flush"))
    aio.mark_dirty(flushable)
    aio.mark_dirty(flushable)
    aio.call_soon(order.append, "callback")
    turns(aio)
    assert order == ["flush", "callback"]
    turns(aio)
    assert flushable.n_flushes == 1
    assert aio.n_dirty == 0


def test_flushable_marked_by_a_flush_waits_for_the_next_turn(aio):
    from drivers.core import RecordingFlushable

    second = RecordingFlushable()
    first = RecordingFlushable(lambda: aio.mark_dirty(second))
    aio.mark_dirty(first)
    turns(aio)
    assert (first.n_flushes, second.n_flushes) == (1, 0)
    turns(aio)
    assert (first.n_flushes, second.n_flushes) == (1, 1)


def test_flush_that_fails_does_not_flush_the_others_twice(request, aio):
    """Nor drop their references twice, which would free memory that is in use."""
    import sys

    from drivers.core import RecordingFlushable

    def fail():
        failing.callback = None
        raise OSError("no memory")

    first, failing, last = RecordingFlushable(), RecordingFlushable(fail), RecordingFlushable()
    keep = [first] * 10  # otherwise the double release would free it
    references = sys.getrefcount(first)
    for flushable in (first, failing, last):
        aio.mark_dirty(flushable)
    with pytest.raises(OSError):
        aio.poll(False)
    turns(aio, 2)
    assert (first.n_flushes, last.n_flushes) == (1, 1)
    assert sys.getrefcount(first) == references
    assert len(keep) == 10


# Without asyncio


def test_first_turn_of_a_context_needs_no_other_call(fdmon_name):
    from support.monitors import make_monitor

    context = ContextDriver(make_monitor(fdmon_name))
    try:
        calls = []
        context.call_soon(calls.append, 1)
        context.poll(True)
        assert calls == [1]
    finally:
        context.close()
