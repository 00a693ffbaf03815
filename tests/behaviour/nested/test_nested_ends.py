"""run_nested(): cancellation, waiting for oneself, stop and Ctrl-C."""

import asyncio
import os
import signal

import pytest
from support.helpers import (
    run,
    run_script,
    turn_until,
)
from support.nested_tools import answer, fail

# -- cancellation ------------------------------------------------------------------------------------------


def test_cancelling_the_outer_task_cancels_the_inner_awaitable(any_task):
    loop = any_task
    ran = []

    async def inner():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError as error:
            ran.append(("inner", error.args))
            raise

    async def outer():
        try:
            loop.run_nested(inner())
        except asyncio.CancelledError:
            ran.append("outer")
            await asyncio.sleep(0)  # cancelled once, not twice
            ran.append("cleaned up")
            raise

    task = loop.create_task(outer())
    loop.call_later(0.001, task.cancel, "message")
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    assert ran == [("inner", ("message",)), "outer", "cleaned up"]
    assert task.cancelling() == 1


def test_a_cancellation_that_was_caught_is_over(any_task):
    async def outer():
        me = asyncio.current_task()
        any_task.call_soon(me.cancel)
        with pytest.raises(asyncio.CancelledError):
            any_task.run_nested(asyncio.sleep(1000))
        assert me.cancelling() == 1
        me.uncancel()
        return await answer()

    assert run(any_task, outer()) == 42


def test_an_inner_task_may_refuse_to_be_cancelled(any_task):
    """As with `await`: run_nested() gives what it returns."""

    async def stubborn():
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return "no"

    async def outer():
        any_task.call_later(0.001, asyncio.current_task().cancel)
        result = any_task.run_nested(stubborn())
        await asyncio.sleep(0)
        return result

    assert any_task.run_until_complete(outer()) == "no"


def test_cancelled_when_the_inner_awaitable_has_just_been_done(any_task):
    """As with `await`."""

    async def outer():
        me = asyncio.current_task()
        future = any_task.create_future()
        any_task.call_soon(lambda: (future.set_result("lost"), me.cancel("late")))
        with pytest.raises(asyncio.CancelledError, match="late"):
            any_task.run_nested(future)
        await asyncio.sleep(0)
        return "here"

    assert any_task.run_until_complete(outer()) == "here"


def test_a_cancelled_inner_task_raises_in_the_outer_one(any_task):
    async def outer():
        task = any_task.create_task(asyncio.sleep(1000))
        any_task.call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            any_task.run_nested(task)
        assert asyncio.current_task().cancelling() == 0
        return await answer()

    assert run(any_task, outer()) == 42


def test_cancelling_a_task_under_several_levels(any_task):
    loop = any_task
    log = []

    async def level(number):
        try:
            if number == 5:
                first.cancel()
                await asyncio.sleep(1000)
            else:
                loop.run_nested(level(number + 1))
        finally:
            log.append(number)
            await asyncio.sleep(0)

    first = loop.create_task(level(1))
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(first)
    assert log == [5, 4, 3, 2, 1]


def test_timeouts_and_task_groups_end_a_nested_run(any_task):
    loop = any_task

    async def nested():
        loop.run_nested(asyncio.sleep(1000))

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                loop.run_nested(asyncio.sleep(1000))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(nested(), 0.001)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(nested())
                group.create_task(fail(KeyError()))
        assert caught.group_contains(KeyError)
        return await answer()

    assert run(loop, main()) == 42


# -- waiting for oneself -----------------------------------------------------------------------------------


async def await_it(task):
    return await task


async def in_a_group(task):
    async with asyncio.TaskGroup() as group:
        group.create_task(await_it(task))


WAYS = {
    "itself": lambda task: task,
    "await": await_it,
    "await await": lambda task: await_it(asyncio.ensure_future(await_it(task))),
    "gather": lambda task: asyncio.gather(task, asyncio.sleep(0)),
    "gather in a coroutine": lambda task: await_it(asyncio.gather(await_it(task))),
    "shield": asyncio.shield,
    "wait": lambda task: asyncio.wait([task]),
    "task group": in_a_group,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("levels", [0, 2])
def test_waiting_for_a_task_below_on_the_stack_is_refused(any_task, way, levels):
    loop = any_task

    async def main(level, task):
        if level:
            return loop.run_nested(main(level - 1, task))
        with pytest.raises(RuntimeError, match="below on the stack"):
            loop.run_nested(WAYS[way](task))
        return await answer()

    async def first():
        return await main(levels, asyncio.current_task())

    assert run(loop, first()) == 42
    turn_until(loop, lambda: not asyncio.all_tasks(loop))


def test_waiting_for_oneself_is_refused_in_a_busy_loop(loop):
    def busy():
        nonlocal handle
        handle = loop.call_soon(busy)

    handle = loop.call_soon(busy)

    async def main():
        with pytest.raises(RuntimeError, match="below on the stack"):
            loop.run_nested(await_it(asyncio.current_task()))
        handle.cancel()

    run(loop, main())
    turn_until(loop, lambda: not asyncio.all_tasks(loop))


def test_waits_that_end_otherwise_are_not_refused(loop):
    async def main():
        me = asyncio.current_task()
        done, pending = loop.run_nested(asyncio.wait([me], timeout=0.001))
        assert (done, pending) == (set(), {me})
        other = loop.create_task(answer())
        done, pending = loop.run_nested(asyncio.wait([me, other], return_when=asyncio.FIRST_COMPLETED))
        assert (done, pending) == ({other}, {me})

    run(loop, main())


# -- stop, Ctrl-C ------------------------------------------------------------------------------------------


def test_stop_ends_the_run_below_after_the_nested_one(loop):
    log = []

    async def main():
        loop.call_soon(loop.stop)
        log.append(loop.run_nested(answer()))
        await asyncio.sleep(0)
        log.append("next turn")

    task = loop.create_task(main())
    loop.run_forever()
    assert log == [42]
    loop.run_until_complete(task)
    assert log == [42, "next turn"]


def test_a_stopped_loop_sleeps_in_its_nested_run(loop):
    async def main():
        loop.stop()
        turns_before = loop.statistics()["turns"]
        loop.run_nested(asyncio.sleep(0.02))
        assert loop.statistics()["turns"] - turns_before < 8

    task = loop.create_task(main())
    loop.run_forever()
    loop.run_until_complete(task)


def test_the_end_of_the_main_task_ends_no_nested_run_of_others(loop):
    main = loop.create_task(answer())
    other = []
    loop.call_soon(lambda: other.append(loop.run_nested(answer("other", 10))))
    assert run(loop, main) == 42
    assert other == ["other"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("levels", [1, 5])
def test_keyboard_interrupt_unwinds(any_task, error, levels):
    loop = any_task
    unwound = []
    cancelled = []

    def interrupt():
        raise error

    async def level(number):
        me = asyncio.current_task()
        try:
            if number:
                loop.run_nested(level(number - 1))
            loop.call_soon(interrupt)
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        except error:
            unwound.append(number)
            assert asyncio.current_task() is me
            raise

    task = loop.create_task(level(levels))
    with pytest.raises(error):
        loop.run_until_complete(task)
    assert unwound == list(range(1, levels + 1))
    assert (
        asyncio.tasks._current_tasks.get(loop) is None if hasattr(asyncio.tasks, "_current_tasks") else True
    )
    turn_until(loop, lambda: not asyncio.all_tasks(loop))
    assert cancelled == [0]
    assert loop.run_until_complete(answer()) == 42


def test_ctrl_c_in_a_runner_cancels_the_main_task_through_nested_runs(monitor):
    printed = run_script(
        """
        import asyncio, os, signal, uringloop
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

        async def inner():
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(1000)
            finally:
                print("inner")

        async def main():
            try:
                asyncio.get_running_loop().run_nested(inner())
            finally:
                print("main")

        try:
            with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(MONITOR)) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        monitor,
    )
    assert printed.split() == ["inner", "main", "interrupted"]


@pytest.mark.parametrize("who", ["task", "tasks", "callback", "cleaning up", "not cancellable"])
def test_the_first_ctrl_c_ends_nested_runs_that_the_main_task_does_not_wait_for(monitor, who):
    """They stand on the stack above it, so that the Runner could not go on before they end."""
    printed = run_script(
        """
        import asyncio, os, signal, sys, uringloop
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        WHO = sys.argv[1]

        async def inner(loop):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                print("inner")
                if WHO == "cleaning up":
                    loop.run_nested(asyncio.sleep(0.001))
                    print("cleaned")
                if WHO == "not cancellable":
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.sleep(1000)
                raise

        async def nest(loop):
            loop.run_nested(inner(loop))

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, details: print("reported"))
            if WHO == "callback":
                loop.call_soon(lambda: loop.run_nested(inner(loop)))
            else:
                tasks = [loop.create_task(nest(loop)) for _ in range(2 if WHO == "tasks" else 1)]
            loop.call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(1000)
            finally:
                print("main")

        try:
            with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(MONITOR)) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        monitor,
        arguments=(who,),
    )
    expected = {
        "task": "main inner interrupted",
        "tasks": "main inner inner interrupted",
        "callback": "main inner reported interrupted",
        "cleaning up": "main inner cleaned interrupted",
        "not cancellable": "main inner interrupted reported",  # by the second; nobody asks for the task's
    }
    assert printed.split() == expected[who].split()


def test_signal_handlers_run_in_a_nested_run(loop):
    async def main():
        called = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, called.set_result, "called")
        loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        try:
            return loop.run_nested(called)
        finally:
            loop.remove_signal_handler(signal.SIGUSR1)

    assert run(loop, main()) == "called"
