"""The three steps with which a foreign main loop drives a context, on each monitor, without GLib."""

import contextlib
import os
import select
import sys
import threading
import time

import pytest
from drivers.core import ContextDriver, ForeignLoop, RecordingHandler
from support.helpers import wait_until, wchan
from support.monitors import make_monitor

POLLIN = select.POLLIN
MS = 1_000_000


@pytest.fixture
def context(real_fdmon_name):
    driver = ContextDriver(make_monitor(real_fdmon_name))
    yield driver
    driver.aio_context.close()


@pytest.fixture
def foreign(context):
    loop = ForeignLoop(context.aio_context)
    settle(loop)
    return loop


def sleep(foreign, timeout_ms):
    """Wait like the other loop between prepare and check; return whether an fd was ready."""
    poll = select.poll()
    for fd, events in foreign.watched_fds().items():
        poll.register(fd, events)
    return bool(poll.poll(timeout_ms))


def iteration(foreign, timeout_ms=0):
    """Run one iteration of a main loop without other ready sources; return whether something was dispatched."""
    is_ready = foreign.prepare()
    if not is_ready:
        own_ms = -(-foreign.timeout_ns // MS) if foreign.timeout_ns >= 0 else timeout_ms
        is_ready = foreign.check(sleep(foreign, min(timeout_ms, own_ms)))
    if is_ready:
        foreign.dispatch()
    return is_ready


def settle(foreign):
    """Until two iterations in a row dispatch nothing: every few milliseconds one is left to others in any case."""
    was_busy = True
    for _ in range(20):
        is_busy = iteration(foreign)
        if not (is_busy or was_busy):
            return
        was_busy = is_busy
    raise AssertionError("busy without work")


def test_an_idle_context_lets_the_other_loop_sleep_forever(foreign):
    assert not foreign.prepare()
    assert foreign.timeout_ns == -1
    assert foreign.notify_me
    assert not sleep(foreign, 20)
    assert not foreign.check(False)
    assert not foreign.notify_me


def test_other_threads_are_refused_while_it_dispatches(context, foreign):
    """As during poll(), or while a loop runs."""
    aio_context, errors = context.aio_context, []

    def elsewhere():
        for use in (lambda: aio_context.poll(False), foreign.prepare, foreign.dispatch):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))

    def callback():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    aio_context.schedule_one_shot(callback)
    settle(foreign)
    assert errors == ["another thread makes turns of this AioContext"] * 3
    aio_context.poll(False)  # and afterwards none is refused
    thread = threading.Thread(target=aio_context.poll, args=(False,))
    thread.start()
    thread.join()


def test_the_thread_that_drives_it_is_the_contexts_thread(context):
    """Another thread ran the last turn before."""
    aio_context = context.aio_context
    thread = threading.Thread(target=aio_context.poll, args=(False,))
    thread.start()
    thread.join()
    foreign, ran = ForeignLoop(aio_context), []

    def callback():
        ran.append(aio_context.call_at_ns(0, ran.append, "timer"))

    aio_context.schedule_one_shot(callback)
    settle(foreign)
    assert ran[1:] == ["timer"]


def test_a_callback_is_dispatched_without_a_sleep(context, foreign):
    ran = []
    context.call_soon(ran.append, 1)
    assert foreign.prepare()
    assert foreign.timeout_ns == 0
    foreign.dispatch()
    assert ran == [1]


def test_a_ready_fd_ends_the_sleep_and_is_level_triggered(context, foreign):
    reader, writer = os.pipe()
    handler = RecordingHandler(reader, POLLIN)
    context.set_handler(None, handler)
    try:
        settle(foreign)
        os.write(writer, b"ab")
        assert iteration(foreign, 1000)
        assert handler.calls == [POLLIN]
        assert iteration(foreign, 1000)  # unread: again
        assert handler.calls == [POLLIN, POLLIN]
        os.read(reader, 2)
        settle(foreign)
    finally:
        context.set_handler(handler, None)
        settle(foreign)
        os.close(reader)
        os.close(writer)


def test_another_thread_ends_the_sleep(context, foreign):
    ran = []
    assert not foreign.prepare()
    thread = threading.Thread(target=context.call_soon_threadsafe, args=(ran.append, 1))
    thread.start()
    assert foreign.check(sleep(foreign, 20_000))
    thread.join()
    foreign.dispatch()
    assert ran == [1]
    settle(foreign)


def asleep_in_poll():
    """A function that waits until the calling thread sleeps in poll(2)."""
    sleeper = threading.get_native_id()
    return lambda: wait_until(lambda: "poll" in wchan(sleeper), seconds=10)


def test_another_thread_ends_each_sleep(context, foreign):
    """Not only the first: a ring's registered eventfd misses events that a write to another eventfd causes."""
    ran = []
    wait_for_sleep = asleep_in_poll()

    def publish():
        wait_for_sleep()
        context.call_soon_threadsafe(ran.append, 1)

    for count in range(1, 6):
        assert not foreign.prepare()
        thread = threading.Thread(target=publish)
        thread.start()
        assert sleep(foreign, 20_000)
        assert foreign.check(True)
        thread.join()
        foreign.dispatch()
        assert len(ran) == count
        settle(foreign)


@pytest.mark.parametrize("kind", ["pipe", "eventfd", "epoll"])
def test_an_fd_that_another_thread_makes_ready_ends_the_sleep(context, foreign, kind):
    """This thread sleeps in the foreign loop's poll; a ring's own fd would not wake it."""
    wait_for_sleep = asleep_in_poll()
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            reader, writer = os.pipe()
            stack.callback(os.close, reader)
        else:
            reader = writer = os.eventfd(0, os.EFD_NONBLOCK)
        stack.callback(os.close, writer)
        watched = reader
        if kind == "epoll":
            epoll = stack.enter_context(select.epoll())
            epoll.register(reader, select.EPOLLIN)
            watched = epoll.fileno()
        handler = RecordingHandler(watched, POLLIN)
        context.set_handler(None, handler)
        stack.callback(settle, foreign)
        stack.callback(context.set_handler, handler, None)
        settle(foreign)

        def write():
            wait_for_sleep()
            os.write(writer, (1).to_bytes(8, sys.byteorder))

        for count in range(1, 6):
            assert not foreign.prepare()
            thread = threading.Thread(target=write)
            thread.start()
            assert sleep(foreign, 20_000)
            assert foreign.check(True)
            thread.join()
            foreign.dispatch()
            assert handler.calls == [POLLIN] * count
            os.read(reader, 8)
            settle(foreign)


def test_a_timer_limits_the_sleep(context, foreign):
    ran = []
    begun = time.monotonic_ns()
    context.call_at_ns(begun + 30 * MS, ran.append, 1)
    assert not foreign.prepare()
    assert 0 < foreign.timeout_ns <= 30 * MS
    assert not foreign.check(False)
    while not ran:
        iteration(foreign, 1000)
    assert time.monotonic_ns() - begun >= 30 * MS
    settle(foreign)


def test_prepare_without_check_loses_nothing(context, foreign):
    """GLib skips check if a source of higher priority was ready."""
    ran = []
    assert not foreign.prepare()
    assert not foreign.prepare()
    context.call_soon_threadsafe(ran.append, 1)
    assert foreign.notify_me
    assert foreign.prepare()
    foreign.dispatch()
    assert ran == [1]
    assert not foreign.notify_me
    settle(foreign)


def test_check_and_dispatch_without_prepare_are_harmless(context, foreign):
    ran = []
    assert not foreign.check(False)
    foreign.dispatch()
    context.call_soon(ran.append, 1)
    assert foreign.check(False)
    foreign.dispatch()
    foreign.dispatch()
    assert ran == [1]
    settle(foreign)


def test_all_steps_may_run_inside_a_dispatch(context, foreign):
    """A modal dialog in a callback: the inner iterations run the pending callbacks of the outer one, each once."""
    ran = []

    def dialog():
        ran.append("in")
        context.call_soon(ran.append, "later")
        context.call_at_ns(time.monotonic_ns() + MS, ran.append, "timer")
        while "timer" not in ran:
            iteration(foreign, 100)
        ran.append("out")

    context.call_soon(dialog)
    context.call_soon(ran.append, "pending")
    iteration(foreign)
    assert ran == ["in", "pending", "later", "timer", "out"]
    assert foreign.turns.depth == 0
    settle(foreign)


def test_a_dispatch_ends_although_callbacks_schedule_callbacks(context, foreign):
    stopped = []

    def again():
        if not stopped:
            context.call_soon(again)

    context.call_soon(again)
    n_before = context.aio_context.statistics().turns
    for _ in range(3):
        assert iteration(foreign)
    assert 3 <= context.aio_context.statistics().turns - n_before <= 48
    stopped.append(1)
    settle(foreign)


def test_a_busy_context_leaves_iterations_to_others(context, foreign):
    """Every few milliseconds one iteration is neither ready nor asleep, so that sources of lower priority can run."""
    stopped = []

    def again():
        if not stopped:
            context.call_soon(again)

    context.call_soon(again)
    deadline = time.monotonic() + 5
    dispatched = 0
    while time.monotonic() < deadline:
        if not foreign.prepare():
            assert foreign.timeout_ns == 0
            assert not foreign.check(True)
            break
        foreign.dispatch()
        dispatched += 1
    assert dispatched > 1
    assert foreign.prepare()
    stopped.append(1)
    foreign.dispatch()
    settle(foreign)


def test_a_failing_dispatch_leaves_everything_usable(context, foreign):
    def interrupt():
        raise KeyboardInterrupt

    ran = []
    context.call_soon(interrupt)
    context.call_soon(ran.append, 1)
    with pytest.raises(KeyboardInterrupt):
        iteration(foreign)
    assert foreign.turns.depth == 0
    settle(foreign)
    assert ran == [1]


def test_a_context_is_attached_once(context, foreign):
    with pytest.raises(RuntimeError, match="attached"):
        ForeignLoop(context.aio_context)
    foreign.detach()
    again = ForeignLoop(context.aio_context)
    settle(again)


def test_a_closed_context_cannot_be_attached(real_fdmon_name):
    driver = ContextDriver(make_monitor(real_fdmon_name))
    driver.aio_context.close()
    with pytest.raises(RuntimeError, match="closed"):
        ForeignLoop(driver.aio_context)


def test_a_detached_context_runs_by_itself(context, foreign):
    ran = []
    assert not foreign.prepare()
    foreign.detach()
    assert not foreign.notify_me
    context.call_soon(ran.append, 1)
    context.poll()
    assert ran == [1]


def test_handlers_without_an_fd_are_polled_after_each_sleep(context, foreign):
    polls, ran = [], []
    handler = context.aio_context.add_poll_handler(
        lambda: polls.append(1) or len(polls) == 3, lambda: ran.append(len(polls))
    )
    foreign.prepare()
    foreign.dispatch()
    for _ in range(10):
        if ran:
            break
        assert not foreign.prepare()
        assert 0 < foreign.timeout_ns <= 10 * MS
        assert foreign.check(False)
        foreign.dispatch()
    assert ran == [3]
    handler.remove()
    settle(foreign)
    assert not foreign.prepare()
    assert foreign.timeout_ns == -1
    foreign.check(False)


def test_idle_bottom_halves_run_after_each_sleep(context, foreign):
    ran = []
    half = context.aio_context.new_bottom_half(ran.append, 1)
    half.schedule_idle()
    assert not foreign.prepare()
    assert 0 < foreign.timeout_ns <= 10 * MS
    assert foreign.check(False)
    foreign.dispatch()
    assert ran == [1]
    half.delete()
