"""Misuse of uringloop.AioContext: closed while it runs, used by other threads, after fork, with wrong arguments."""

import asyncio
import math
import os
import signal
import threading

import pytest
from drivers.core import polling_of
from support.context_tools import settle
from support.helpers import run_script

import uringloop

LONG_NS = 5_000_000_000


def learn(context, notifier, io_poll=None, io_poll_ready=None):
    """Make the context poll for a long time before it sleeps, and call io_poll."""
    context.set_poll_params(LONG_NS, grow=LONG_NS)
    context.set_event_notifier(notifier, notifier.test_and_clear, io_poll, io_poll_ready)
    for _ in range(4):
        notifier.set()
        while not context.poll(True):
            pass


# Closed while it runs


@pytest.mark.parametrize("has_fd", [True, False])
def test_an_io_poll_may_close_the_context(context, new_notifier, has_fd):
    notifier, is_due = new_notifier(), []

    def io_poll():
        if is_due:
            context.close()
        return False

    if has_fd:
        learn(context, notifier, io_poll, print)
    else:
        context.add_poll_handler(io_poll, print)
    is_due.append(True)
    assert not context.poll(True)
    with pytest.raises(RuntimeError, match="the AioContext is closed"):
        context.poll(True)


@pytest.mark.parametrize("polls", [True, False])
def test_a_signal_handler_may_close_the_context(context, new_notifier, polls):
    if polls:
        learn(context, new_notifier())
    old = signal.signal(signal.SIGUSR1, lambda *_: context.close())
    try:
        killer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        while "closed" not in repr(context):
            context.poll(True)
        killer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)
    with pytest.raises(RuntimeError, match="closed"):
        context.poll(False)


def test_a_loop_whose_context_is_closed_ends(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    loop.call_soon(loop.aio_context.close)
    with pytest.raises(RuntimeError, match="the AioContext is closed"):
        loop.run_forever()
    loop.close()


def test_poll_parameters_of_a_closed_context_are_refused(context):
    context.close()
    with pytest.raises(RuntimeError, match="closed"):
        context.set_poll_params(1000)


def test_callbacks_made_by_a_nested_turn_in_an_io_poll_wait_for_the_next_turn(context):
    """The outer turn had counted the ready callbacks, and the inner one ran them."""
    order, is_due = [], [True]

    def io_poll():
        if is_due:
            is_due.clear()
            assert context.poll(False)
            order.append("inner turn over")
        return False

    def first():
        order.append("first")
        context.schedule_one_shot(order.append, "younger")

    context.add_poll_handler(io_poll, print)
    context.schedule_one_shot(first)
    assert context.poll(False)  # the progress of the inner turn is also its own
    assert order == ["first", "inner turn over"]
    assert context.poll(False)
    assert order == ["first", "inner turn over", "younger"]


# Exceptions that end a turn


def test_a_turn_that_an_exception_ends_updates_the_polling_times(context, new_notifier):
    """Otherwise the events of the turn would be kept forever."""
    notifier = new_notifier()

    def interrupted():
        notifier.test_and_clear()
        raise KeyboardInterrupt

    context.set_poll_params(LONG_NS, grow=LONG_NS)
    context.set_event_notifier(notifier, interrupted)
    settle(context)
    before = len(polling_of(context))
    setter = threading.Timer(0.005, notifier.set)
    setter.start()
    with pytest.raises(KeyboardInterrupt):
        while True:
            context.poll(True)
    setter.join()
    assert len(polling_of(context)) > before


# Other threads


def refused_in_a_thread(*calls):
    """Make these calls in another thread; return the texts of their RuntimeErrors."""
    errors = []

    def work():
        for call in calls:
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return errors


def test_poll_handlers_and_poll_parameters_are_refused_in_other_threads(context):
    handler = context.add_poll_handler(bool, print)
    context.poll(False)
    errors = refused_in_a_thread(handler.remove, lambda: context.set_poll_params(1000))
    assert len(errors) == 2
    assert all("this thread does not run the AioContext" in text for text in errors)
    assert not handler.removed
    handler.remove()
    handler.remove()


def test_another_thread_cannot_run_turns_of_a_running_loop_or_close_its_context(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    context, errors = loop.aio_context, []

    async def main():
        errors.extend(refused_in_a_thread(lambda: context.poll(False), context.close))
        errors.extend(refused_in_a_thread(lambda: context.poll(True)))
        await asyncio.sleep(0)
        assert await loop.run_in_executor(None, len, errors) == 3

    loop.run_until_complete(main())
    assert set(errors) == {"another thread makes turns of this AioContext"}
    assert refused_in_a_thread(lambda: context.poll(False)) == []  # while it does not run
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_a_loop_cannot_run_while_another_thread_runs_a_turn_of_its_context(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    context, errors = loop.aio_context, []
    loop.call_soon(loop.stop)
    loop.call_soon(lambda: errors.extend(refused_in_a_thread(loop.run_forever)))
    context.poll(True)
    assert errors == ["another thread makes turns of this AioContext"]
    assert not loop.is_running()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_loop_cannot_run_while_another_thread_runs_one_turn_of_it(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    errors = []
    loop.call_soon(
        lambda: errors.extend(refused_in_a_thread(loop.run_forever, lambda: loop.aio_context.poll(False)))
    )
    loop._run_once()
    assert errors == ["another thread makes turns of this AioContext"] * 2
    assert refused_in_a_thread(lambda: loop.aio_context.poll(False)) == []  # afterwards
    loop.close()


def test_the_fork_child_of_another_thread_may_close_the_context(real_fdmon_name):
    run_script(
        """
        import threading, uringloop, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        context = uringloop.AioContext(MONITOR)
        statuses = []

        def fork():
            pid = os.fork()
            if pid == 0:
                try:
                    context.close()
                except BaseException:
                    os._exit(1)
                os._exit(0)
            statuses.append(os.waitpid(pid, 0)[1])

        def in_a_turn():
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()

        context.schedule_one_shot(in_a_turn)
        assert context.poll(True)
        assert statuses == [0], statuses
        context.close()
        """,
        real_fdmon_name,
    )


# After fork


def test_a_fork_child_leaves_its_parents_context_alone(real_fdmon_name):
    """Nothing that it removes, closes or schedules there may reach the parent: both share one epoll object."""
    run_script(
        """
        import uringloop, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        context = uringloop.AioContext(MONITOR)
        notifier = uringloop.EventNotifier()
        seen = []
        context.set_event_notifier(notifier, lambda: seen.append(notifier.test_and_clear()))
        half = context.new_bottom_half(seen.append, "half")
        context.poll(False)
        pid = os.fork()
        if pid == 0:
            for call in (
                lambda: context.set_event_notifier(notifier),
                lambda: context.poll(False),
                lambda: context.schedule_one_shot(print),
                half.schedule,
            ):
                try:
                    call()
                except RuntimeError as error:
                    assert "closed" in str(error), error
                else:
                    os._exit(1)
            try:
                context.poll()
            except RuntimeError as error:
                assert "fork" in str(error), error
            context.notify()
            context.close()
            with_own = uringloop.AioContext(MONITOR)
            with_own.schedule_one_shot(seen.append, "child")
            assert with_own.poll(True)
            with_own.close()
            notifier.set()  # the eventfd is shared by both
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        while not seen:
            context.poll(True)
        assert seen == [True]
        context.close()
        notifier.close()
        """,
        real_fdmon_name,
    )


# Arguments


@pytest.mark.parametrize("number", [1.0, math.nan, None, "1"])
def test_numbers_that_are_not_integers_are_refused(context, number):
    for call in (
        lambda: context.set_fd_handler(number, print),
        lambda: context.set_fd_handler(number),
        lambda: context.call_at_ns(number, print),
        lambda: context.set_poll_params("1" if number is None else number),  # None is the default
        lambda: context.set_poll_params(1000, number),
        lambda: context.set_poll_params(1000, 2, number),
    ):
        with pytest.raises(TypeError, match="integer"):
            call()


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_numbers_that_are_too_large_are_refused(context, number):
    for call in (
        lambda: context.set_fd_handler(number, print),
        lambda: context.call_at_ns(number, print),
        lambda: context.set_poll_params(number),
        lambda: context.set_poll_params(1000, idle_ns=number),
    ):
        with pytest.raises(OverflowError):
            call()


def test_the_longest_times_are_accepted(context, new_notifier):
    longest = 2**63 - 1
    context.call_at_ns(longest, print).cancel()
    context.call_at_ns(-(2**63), print)
    context.set_poll_params(longest, longest, longest, idle_ns=longest)
    assert context.poll(True)  # runs the timer that is long overdue
    notifier = new_notifier()
    context.set_event_notifier(notifier, notifier.test_and_clear)
    for _ in range(4):  # it learns to poll for that long
        notifier.set()
        while not context.poll(True):
            pass
    before = context.statistics()["poll_hits"]
    for _ in range(100):  # on a slow machine notify() may be called before polling has started
        thread = threading.Timer(0.005, context.notify)
        thread.start()
        context.poll(True)
        thread.join()
        if context.fdmon != "io_uring" or context.statistics()["poll_hits"] > before:
            break
    else:
        raise AssertionError("it does not poll")


def test_a_closed_event_notifier_raises(context, new_notifier):
    notifier = new_notifier()
    context.set_event_notifier(notifier, print)
    context.set_event_notifier(notifier)
    notifier.close()
    for call in (
        notifier.set,
        notifier.test_and_clear,
        lambda: context.set_event_notifier(notifier, print),
        lambda: context.set_event_notifier(notifier),  # otherwise its handler would silently stay
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


async def coroutine_function():
    pass


@pytest.mark.parametrize("callback", [coroutine_function, 5, "print"])
def test_callbacks_that_cannot_be_called_are_refused(context, new_notifier, callback):
    fd = new_notifier().fileno()
    for call in (
        lambda: context.new_bottom_half(callback),
        lambda: context.schedule_one_shot(callback),
        lambda: context.call_at_ns(1, callback),
        lambda: context.set_fd_handler(fd, callback),
        lambda: context.set_fd_handler(fd, None, callback),
        lambda: context.set_fd_handler(fd, print, None, callback, print),
        lambda: context.set_fd_handler(fd, print, None, bool, callback),
        lambda: context.add_poll_handler(callback, print),
        lambda: context.add_poll_handler(bool, callback),
    ):
        with pytest.raises(TypeError, match="was expected, got"):
            call()
    assert not context.poll(False)
    assert context.statistics()["handlers"] == 1


def test_a_bottom_half_cannot_be_made_directly():
    with pytest.raises(TypeError, match="new_bottom_half"):
        uringloop.BottomHalf()


# Reprs


def test_reprs_show_kind_and_state(real_fdmon_name, new_notifier):
    context = uringloop.AioContext(real_fdmon_name)
    assert repr(context) == f"<AioContext {real_fdmon_name}, 0 fds, 0 turns>"
    notifier = new_notifier()
    assert str(notifier.fileno()) in repr(notifier)
    context.set_event_notifier(notifier, print)
    handler = context.add_poll_handler(bool, print)
    assert repr(handler) == "<PollHandler polled for>"
    half = context.new_bottom_half(len, "x")
    assert repr(half) == "<BottomHalf not scheduled <built-in function len>>"
    half.schedule()
    assert "scheduled <built" in repr(half)
    assert "1 fds" in repr(context)
    half.delete()
    handler.remove()
    context.close()
    notifier.close()
    assert repr(half) == "<BottomHalf deleted None>"
    assert [repr(closed) for closed in (handler, context, notifier)] == [
        "<PollHandler removed>",
        f"<AioContext {real_fdmon_name}, closed>",
        "<EventNotifier closed>",
    ]
