"""run_nested(): stop(), interrupts and signals."""

import asyncio
import os
import signal

import pytest
from support.helpers import run, run_script, turn_until
from support.nested_tools import answer


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


def test_the_end_of_the_main_task_ends_no_other_nested_run(loop):
    main = loop.create_task(answer())
    other = []
    loop.call_soon(lambda: other.append(loop.run_nested(answer("other", 10))))
    assert run(loop, main) == 42
    assert other == ["other"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("levels", [1, 5])
def test_an_interrupt_unwinds_all_levels(any_task, error, levels):
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


@pytest.mark.parametrize("case", ["task", "tasks", "callback", "cleaning up", "not cancellable"])
def test_the_first_ctrl_c_ends_nested_runs_that_the_main_task_does_not_wait_for(monitor, case):
    """They are above it on the stack, so that the Runner could not continue before they end."""
    printed = run_script(
        """
        import asyncio, os, signal, sys, uringloop
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        CASE = sys.argv[1]

        async def inner(loop):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                print("inner")
                if CASE == "cleaning up":
                    loop.run_nested(asyncio.sleep(0.001))
                    print("cleaned")
                if CASE == "not cancellable":
                    os.kill(os.getpid(), signal.SIGINT)
                    await asyncio.sleep(1000)
                raise

        async def nest(loop):
            loop.run_nested(inner(loop))

        async def main():
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda loop, details: print("reported"))
            if CASE == "callback":
                loop.call_soon(lambda: loop.run_nested(inner(loop)))
            else:
                tasks = [loop.create_task(nest(loop)) for _ in range(2 if CASE == "tasks" else 1)]
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
        arguments=(case,),
    )
    expected = {
        "task": "main inner interrupted",
        "tasks": "main inner inner interrupted",
        "callback": "main inner reported interrupted",
        "cleaning up": "main inner cleaned interrupted",
        "not cancellable": "main inner interrupted reported",  # the task's exception is never retrieved
    }
    assert printed.split() == expected[case].split()


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
