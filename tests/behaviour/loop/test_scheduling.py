"""call_soon, call_later, call_at: order, cancellation, precision, and exceptions in callbacks."""

import asyncio
import contextvars
import gc
import random
import sys
import time
import weakref

import pytest
from support import helpers
from support.helpers import STOCK, monitor_of, one_turn, run, turn_until


def test_callbacks_run_in_the_order_of_call_soon(loop):
    ran = []
    for number in range(1000):
        loop.call_soon(ran.append, number)
    one_turn(loop)
    assert ran == list(range(1000))


def test_callbacks_scheduled_in_a_callback_run_in_the_next_turn(loop):
    ran = []

    def first():
        ran.append("first")
        loop.call_soon(ran.append, "next turn")
        loop.stop()

    loop.call_soon(first)
    loop.call_soon(ran.append, "second")
    loop.run_forever()
    assert ran == ["first", "second"]
    one_turn(loop)
    assert ran == ["first", "second", "next turn"]


def test_callbacks_get_their_arguments(loop):
    got = []

    def callback(*args):
        got.append(args)

    for count in range(7):
        loop.call_soon(callback, *range(count))
    loop.call_later(0, callback, "later", 1)
    loop.call_at(loop.time(), callback, "at", 2)
    turn_until(loop, lambda: len(got) == 9)
    assert got[:7] == [tuple(range(count)) for count in range(7)]
    assert got[7:] == [("later", 1), ("at", 2)]


def test_cancelled_callbacks_do_not_run(loop):
    ran = []
    handles = [loop.call_soon(ran.append, number) for number in range(10)]
    for handle in handles[::2]:
        handle.cancel()
        assert handle.cancelled()
    one_turn(loop)
    assert ran == [1, 3, 5, 7, 9]


def test_a_callback_may_cancel_a_later_one_of_the_same_turn(loop):
    ran = []
    loop.call_soon(lambda: handle.cancel())
    handle = loop.call_soon(ran.append, 1)
    one_turn(loop)
    assert ran == []


def test_cancel_after_the_run_and_twice_is_harmless(loop):
    ran = []
    handle = loop.call_soon(ran.append, 1)
    one_turn(loop)
    handle.cancel()
    handle.cancel()
    assert handle.cancelled()
    assert ran == [1]


def test_a_cancelled_handle_releases_its_callback_and_arguments(loop):
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    handles = [loop.call_soon(print, thing), loop.call_later(1000, print, thing)]
    del thing
    for handle in handles:
        handle.cancel()
    one_turn(loop)
    gc.collect()
    assert watch() is None


def test_a_handle_that_was_kept_is_not_reused(loop):
    """The loop reuses handles that have no other reference; a kept one must not become another callback's."""
    ran = []

    def schedule(name):
        return loop.call_soon(ran.append, name)

    kept = [schedule(f"kept {number}") for number in range(10)]
    for _ in range(3):
        for number in range(50):
            schedule(number)
        one_turn(loop)
    ran.clear()
    later = [schedule(f"later {number}") for number in range(300)]
    assert not {id(handle) for handle in kept} & {id(handle) for handle in later}
    for handle in kept:
        handle.cancel()
    one_turn(loop)
    assert ran == [f"later {number}" for number in range(300)]


def test_a_handle_with_a_weak_reference_is_not_reused(loop):
    watched = weakref.ref(loop.call_soon(int))
    one_turn(loop)
    one_turn(loop)
    others = [loop.call_soon(int) for _ in range(300)]
    assert watched() is None
    assert len(others) == 300


def test_callback_and_arguments_are_released_as_soon_as_the_callback_has_run(loop):
    class Thing:
        def __call__(self, other):
            pass

    alive = []
    for _ in range(3):
        callback, argument = Thing(), Thing()
        things = weakref.ref(callback), weakref.ref(argument)
        loop.call_soon(callback, argument)
        del callback, argument
        loop.call_soon(lambda things=things: alive.extend(thing() for thing in things))
        one_turn(loop)
    assert alive == [None] * 6


def test_a_handle_that_a_destructor_found_is_not_reused(loop):
    """The last reference to an argument is dropped with the handle; the destructor may inspect everything."""
    found = []

    class Nosy:
        def __del__(self):
            found.extend(thing for thing in gc.get_objects() if type(thing).__name__ == "Handle")

    ran = []
    for number in range(5):
        loop.call_soon(id, Nosy())
        one_turn(loop)
        for handle in found:
            handle.cancel()
        for value in range(10):
            loop.call_soon(ran.append, (number, value))
        for handle in found:
            handle.cancel()
        found.clear()
        one_turn(loop)
    assert ran == [(number, value) for number in range(5) for value in range(10)]


def test_handles_are_instances_of_asyncios_classes(loop):
    handle = loop.call_soon(print)
    timer = loop.call_later(1000, print)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.Handle)
    assert timer.when() == pytest.approx(loop.time() + 1000, abs=5)
    for each in (handle, timer):
        assert "Handle" in repr(each)
        each.cancel()
        assert "cancelled" in repr(each)


def test_timers_run_in_the_order_of_their_deadlines(loop):
    ran = []
    begin = loop.time() + 0.01
    order = list(range(200))
    random.Random(7).shuffle(order)
    for number in order:
        loop.call_at(begin + number * 1e-5, ran.append, number)
    turn_until(loop, lambda: len(ran) == 200)
    assert ran == list(range(200))


def test_queued_callbacks_run_before_timers_that_are_due(loop):
    ran = []
    loop.call_later(0, ran.append, "timer")
    loop.call_soon(ran.append, "soon")
    turn_until(loop, lambda: len(ran) == 2)
    assert ran == ["soon", "timer"]


@pytest.mark.parametrize("delay", [0, 1e-9, 0.0001])
def test_a_timer_set_in_a_callback_does_not_overtake_what_was_scheduled_before(loop, delay):
    """As with wait_for(): the task starts before its timeout, however long the caller takes to wait for it."""
    ran = []

    def first():
        loop.call_soon(ran.append, "soon")
        loop.call_later(delay, ran.append, "timer")
        time.sleep(2 * delay)  # computes until its own timer is due

    loop.call_soon(first)
    turn_until(loop, lambda: len(ran) == 2)
    assert ran == ["soon", "timer"]


def test_a_timer_that_becomes_due_in_the_turn_of_stop_waits_for_the_next_run(loop):
    ran = []

    def last():
        loop.call_later(0, ran.append, "timer")
        loop.stop()

    loop.call_soon(last)
    loop.run_forever()
    assert ran == []
    turn_until(loop, lambda: ran)


@pytest.mark.parametrize("delay", [0.0002, 0.001, 0.0025, 0.02])
def test_timers_are_never_early(loop, delay):
    """Only half a nanosecond of rounding and the clock's resolution are allowed."""
    resolution = time.get_clock_info("monotonic").resolution
    early = []

    async def main():
        for _ in range(10):
            deadline = time.monotonic() + delay
            await asyncio.sleep(delay)
            early.append(deadline - time.monotonic())

    run(loop, main())
    assert max(early) <= resolution + 1e-9


def test_short_sleeps_are_short(loop):
    """200 us take less than a millisecond if nothing else runs; stock asyncio rounds up to milliseconds."""
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio waits in whole milliseconds")
    if helpers.inside_glib:
        pytest.skip("GLib waits in whole milliseconds")
    if monitor_of(loop) == "epoll" and helpers.LINUX < (5, 11):
        pytest.skip("epoll_pwait2 needs Linux 5.11")

    async def main():
        taken = []
        for _ in range(50):
            begun = time.perf_counter()
            await asyncio.sleep(0.0002)
            taken.append(time.perf_counter() - begun)
        return sorted(taken)

    taken = run(loop, main())
    assert taken[0] >= 0.00019
    assert taken[10] < 0.001  # a machine with other work may be late, but not always


def test_a_loop_with_nothing_to_do_sleeps(loop):
    """A busy loop would use CPU time."""
    cpu = time.thread_time()
    run(loop, asyncio.sleep(0.1))
    assert time.thread_time() - cpu < 0.05


def test_a_cancelled_timer_does_not_run_and_does_not_hold_the_others_up(loop):
    ran = []
    first = loop.call_later(0.001, ran.append, "first")
    loop.call_later(0.002, ran.append, "second")
    first.cancel()
    turn_until(loop, lambda: ran)
    assert ran == ["second"]


def test_thousands_of_cancelled_timers_are_forgotten(loop):
    class Thing:
        pass

    things = [Thing() for _ in range(5000)]
    watches = [weakref.ref(thing) for thing in things]
    for thing in things:
        loop.call_later(1000, print, thing).cancel()
    del things, thing
    one_turn(loop)
    gc.collect()
    assert not any(watch() for watch in watches)


def test_negative_and_zero_delays_run_soon(loop):
    ran = []
    loop.call_later(-5, ran.append, "negative")
    loop.call_later(0, ran.append, "zero")
    turn_until(loop, lambda: len(ran) == 2)
    assert ran == ["negative", "zero"]


def test_huge_delays_are_accepted(loop):
    for delay in (1e9, 1e12, float("inf")):
        loop.call_later(delay, print).cancel()
    handle = loop.call_later(1e10, print)
    one_turn(loop)
    handle.cancel()


def test_call_later_requires_a_delay(loop):
    with pytest.raises(TypeError):
        loop.call_later(None, print)
    with pytest.raises(TypeError):
        loop.call_at(None, print)


def test_timers_that_are_added_while_waiting_are_respected(loop):
    async def main():
        loop.call_later(100, print).cancel()
        far = loop.call_later(100, print)
        await asyncio.sleep(0.002)
        far.cancel()

    run(loop, main())


def test_loop_time_is_the_monotonic_clock(loop):
    before = time.monotonic()
    now = loop.time()
    assert before <= now <= time.monotonic()


def test_a_replaced_time_moves_the_timers(loop, monkeypatch):
    """Tests of applications travel in time by replacing loop.time."""
    ran = []
    loop.call_later(3600, ran.append, 1)
    one_turn(loop)
    assert ran == []
    monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 3700)
    one_turn(loop)
    one_turn(loop)
    assert ran == [1]


def test_with_a_replaced_time_a_timer_is_due_at_its_time(loop, monkeypatch):
    now, ran = loop.time(), []
    handle = loop.call_at(now + 75.3, ran.append, 1)
    monkeypatch.setattr(loop, "time", lambda: handle.when() - 0.001)
    one_turn(loop)
    assert ran == []
    monkeypatch.setattr(loop, "time", handle.when)
    one_turn(loop)
    one_turn(loop)
    assert ran == [1]


# Exceptions


@pytest.mark.expects_loop_errors
def test_an_exception_in_a_callback_only_reaches_the_exception_handler(loop, loop_errors):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(divmod, 1, 0)
    loop.call_soon(ran.append, 2)
    one_turn(loop)
    assert ran == [1, 2]
    (context,) = loop_errors
    assert isinstance(context["exception"], ZeroDivisionError)
    assert isinstance(context["handle"], asyncio.Handle)
    assert "divmod" in context["message"]


@pytest.mark.expects_loop_errors
def test_an_exception_in_a_timer_reaches_the_handler(loop, loop_errors):
    ran = []
    loop.call_later(0.001, divmod, 1, 0)
    loop.call_later(0.002, ran.append, 1)
    turn_until(loop, lambda: ran)
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]
    assert isinstance(loop_errors[0]["handle"], asyncio.TimerHandle)


@pytest.mark.expects_loop_errors
def test_the_default_handler_writes_to_asyncios_log(loop, caplog):
    loop.set_exception_handler(None)
    assert loop.get_exception_handler() is None
    loop.call_soon(divmod, 1, 0)
    one_turn(loop)
    (record,) = caplog.records
    assert record.name == "asyncio"
    assert record.exc_info[0] is ZeroDivisionError
    caplog.clear()


@pytest.mark.expects_loop_errors
def test_a_handler_that_fails_itself_is_logged(loop, caplog):
    loop.set_exception_handler(lambda *_: [].pop())
    loop.call_soon(divmod, 1, 0)
    one_turn(loop)
    assert "Unhandled error in exception handler" in caplog.text
    caplog.clear()
    loop.set_exception_handler(None)


def test_the_handler_must_be_callable(loop):
    with pytest.raises(TypeError):
        loop.set_exception_handler(1)


@pytest.mark.expects_loop_errors
def test_callbacks_can_raise_strange_exceptions(loop, loop_errors):
    class Strange(BaseException):
        pass

    def raise_strange():
        raise Strange

    ran = []
    loop.call_soon(raise_strange)
    loop.call_soon(ran.append, 1)
    one_turn(loop)
    assert ran == [1]
    assert [type(context["exception"]) for context in loop_errors] == [Strange]


# Contexts

variable = contextvars.ContextVar("variable", default="default")


def test_callbacks_run_in_a_copy_of_the_context_in_which_they_were_scheduled(loop):
    seen = []

    def note():
        seen.append(variable.get())
        variable.set("changed inside")

    def schedule():
        variable.set("outer")
        loop.call_soon(note)
        loop.call_later(0, note)
        loop.call_soon_threadsafe(note)
        variable.set("changed afterwards")

    context = contextvars.copy_context()
    context.run(schedule)
    turn_until(loop, lambda: len(seen) == 3)
    assert set(seen) <= {"outer", "changed afterwards", "changed inside"}
    assert context.get(variable) in ("changed afterwards", "changed inside")
    assert variable.get() == "default"


def test_an_explicit_context_is_used_and_not_copied(loop):
    context = contextvars.Context()
    for schedule in (
        lambda: loop.call_soon(variable.set, "soon", context=context),
        lambda: loop.call_soon_threadsafe(variable.set, "threadsafe", context=context),
        lambda: loop.call_later(0, variable.set, "later", context=context),
        lambda: loop.call_at(loop.time(), variable.set, "at", context=context),
    ):
        schedule()
        before = context.get(variable)
        turn_until(loop, lambda before=before: context.get(variable) != before)
    assert context.get(variable) == "at"
    assert variable.get() == "default"


def test_handles_have_get_context_from_python_3_12_on(loop):
    context = contextvars.Context()
    handle = loop.call_soon(print, context=context)
    if sys.version_info >= (3, 12):
        assert handle.get_context() is context
    handle.cancel()


@pytest.mark.expects_loop_errors
def test_an_exception_handler_runs_while_the_callbacks_exception_is_handled(loop, caplog):
    """So logging.exception() in the handler finds it, and an exception of the handler does not hide it."""
    seen = []

    def handler(_loop, context):
        seen.append(sys.exception() is context["exception"])
        raise RuntimeError("of the handler")

    loop.set_exception_handler(handler)
    loop.call_soon(lambda: 1 / 0)
    one_turn(loop)
    assert seen == [True]
    assert isinstance(caplog.records[-1].exc_info[1].__context__, ZeroDivisionError)
    caplog.clear()  # the traceback holds the handle


def test_a_delay_whose_conversion_closes_the_loop(loop):
    class Delay:
        def __add__(self, other):
            loop.close()
            return other

        __radd__ = __add__

        def __float__(self):
            loop.close()
            return 0.0

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.call_later(Delay(), print)
