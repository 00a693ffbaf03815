"""run_nested(): the loop inside one of its own callbacks and tasks."""

import asyncio
import contextvars
import os
import sys

import pytest
from support.helpers import (
    run,
    turn_until,
)
from support.nested_tools import TASKS, answer, fail, use_tasks_of, var

# Results


def test_run_nested_in_a_task_returns_the_result(any_task):
    async def main():
        return any_task.run_nested(answer(1)), any_task.run_nested(answer(2)), await answer(3)

    assert run(any_task, main()) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["call_soon", "timer", "reader", "threadsafe", "done callback"])
def test_run_nested_in_a_callback_returns_the_result(loop, kind):
    got = []

    def nest(*_):
        if kind == "reader":
            loop.remove_reader(fd)
        assert asyncio.current_task() is None
        got.append(loop.run_nested(answer()))
        assert asyncio.current_task() is None

    fd = os.eventfd(1)
    if kind == "call_soon":
        loop.call_soon(nest)
    elif kind == "timer":
        loop.call_later(0, nest)
    elif kind == "reader":
        loop.add_reader(fd, nest)
    elif kind == "threadsafe":
        loop.call_soon_threadsafe(nest)
    else:
        done = loop.create_future()
        done.add_done_callback(nest)
        done.set_result(None)
    turn_until(loop, lambda: got)
    os.close(fd)
    assert got == [42]


def test_run_nested_takes_futures_tasks_and_awaitables(loop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    async def main():
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        done = loop.create_future()
        done.set_result("done")
        task = loop.create_task(answer("task"))
        gathered = asyncio.gather(answer(1), answer(2))
        return [loop.run_nested(awaitable) for awaitable in (future, done, task, Awaitable(), gathered)]

    assert run(loop, main()) == ["future", "done", "task", "awaited", [1, 2]]


def test_exceptions_are_raised_by_run_nested(any_task):
    async def main():
        with pytest.raises(ZeroDivisionError, match="inner"):
            any_task.run_nested(fail(ZeroDivisionError("inner")))
        failed = any_task.create_future()
        failed.set_exception(KeyError("future"))
        with pytest.raises(KeyError):
            any_task.run_nested(failed)
        with pytest.raises(TypeError):
            any_task.run_nested(42)
        return await answer()

    assert run(any_task, main()) == 42


def test_other_tasks_and_timers_run_meanwhile(loop):
    ticks = []

    async def ticking():
        for number in range(5):
            ticks.append(number)
            await asyncio.sleep(0)

    async def main():
        task = loop.create_task(ticking())
        loop.call_later(0.001, ticks.append, "timer")
        loop.run_nested(asyncio.sleep(0.002))
        assert task.done()

    run(loop, main())
    assert ticks == [0, 1, 2, 3, 4, "timer"]


def test_callbacks_of_the_completion_have_run_when_it_returns(loop):
    ran = []

    async def main():
        task = loop.create_task(answer())
        task.add_done_callback(lambda _: ran.append("callback"))
        loop.run_nested(task)
        assert ran == ["callback"]

    run(loop, main())


@pytest.mark.parametrize("depth", [2, 100])
def test_nested_runs_can_be_nested(any_task, depth):
    entered = []

    async def level(number):
        entered.append(number)
        me = asyncio.current_task()
        await asyncio.sleep(0)
        result = any_task.run_nested(level(number + 1)) if number < depth else 0
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        return result + 1

    assert run(any_task, level(1)) == depth
    assert entered == list(range(1, depth + 1))


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.expects_loop_errors  # at some depths the limit is reached where asyncio steps a coroutine twice
def test_too_many_levels_raise_recursion_error_and_the_loop_goes_on(loop, monkeypatch):
    # pytest's own needs more levels than are left when a coroutine is dropped there
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)

    async def level():
        await asyncio.sleep(0)
        return loop.run_nested(level())

    with pytest.raises(RecursionError):
        run(loop, level())
    turn_until(loop, lambda: not asyncio.all_tasks(loop))
    assert run(loop, answer()) == 42


# The current task


def test_current_task_is_right_inside_and_outside(any_task):
    seen = []

    async def inner():
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def main():
        me = asyncio.current_task()
        any_task.call_soon(lambda: seen.append(asyncio.current_task()))
        task = any_task.create_task(inner())
        any_task.run_nested(task)
        assert asyncio.current_task() is me
        assert seen == [None, task, task]
        with pytest.raises(ZeroDivisionError):
            any_task.run_nested(fail(ZeroDivisionError()))
        assert asyncio.current_task() is me
        async with asyncio.timeout(10):
            await asyncio.sleep(0)

    run(any_task, main())


def test_c_and_python_tasks_in_each_other(loop):
    current = (asyncio.current_task, getattr(asyncio.tasks, "_py_current_task", asyncio.current_task))

    async def level(number):
        me = current[number % 2]()
        await asyncio.sleep(0)
        if number < 6:
            task = TASKS[(number + 1) % 2](level(number + 1), loop=loop)
            loop.run_nested(task)
        assert current[number % 2]() is me
        await asyncio.sleep(0)

    run(loop, level(0))


def test_steps_of_other_tasks_are_not_lost(any_task):
    """If the current task is not set aside, they fail: "Cannot enter into task while another task is executed"."""

    async def main():
        others = [any_task.create_task(answer(number)) for number in range(10)]
        any_task.run_nested(asyncio.sleep(0))
        return await asyncio.gather(*others)

    assert run(any_task, main()) == list(range(10))


def test_turns_of_the_context_set_the_current_task_aside(any_task):
    async def main():
        me = asyncio.current_task()
        other = any_task.create_task(answer())
        while not other.done():
            any_task.aio_context.poll()
            assert asyncio.current_task() is me
        return await other

    assert run(any_task, main()) == 42


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
@pytest.mark.parametrize("factory", [asyncio.Task, asyncio.tasks._PyTask], ids=["C", "Python"])
def test_a_nested_run_in_the_first_step_of_an_eager_task(loop, factory, monkeypatch):
    use_tasks_of(factory, monkeypatch)
    loop.set_task_factory(asyncio.create_eager_task_factory(factory))

    async def eager():
        me = asyncio.current_task()
        assert loop.run_nested(answer(1)) == 1
        assert loop.run_nested(asyncio.sleep(0, 2)) == 2
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        assert asyncio.current_task() is me
        return 3

    async def main():
        me = asyncio.current_task()
        task = loop.create_task(eager())
        assert asyncio.current_task() is me
        return await task

    assert run(loop, main()) == 3


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_waiting_for_the_parent_of_an_eager_task_is_refused(loop):
    async def main():
        me = asyncio.current_task()

        async def waiting():
            await me

        async def eager():
            with pytest.raises(RuntimeError, match="below on the stack"):
                loop.run_nested(loop.create_task(waiting()))

        await asyncio.Task(eager(), loop=loop, eager_start=True)

    run(loop, main())


# Context variables


def test_the_inner_task_gets_a_copy_of_the_context(loop):
    async def inner():
        seen = var.get()
        var.set("inner")
        await asyncio.sleep(0)
        return seen, var.get()

    async def main():
        var.set("outer")
        assert loop.run_nested(inner()) == ("outer", "inner")
        assert var.get() == "outer"
        await asyncio.sleep(0)
        assert var.get() == "outer"

    run(loop, main())


@pytest.mark.parametrize("levels", [1, 3])
def test_callbacks_of_a_context_that_is_entered_below_on_the_stack_run_in_it(loop, levels):
    shared = contextvars.copy_context()
    seen = []

    async def inner():
        seen.append(var.get())
        await asyncio.sleep(0)
        var.set("inner")

    async def main(left):
        if left:
            return loop.run_nested(main(left - 1))
        assert var.get() == "outer"
        var.set("in between")
        loop.run_nested(loop.create_task(inner(), context=shared))
        assert var.get() == "in between"

    async def outer():
        var.set("outer")
        # copies, so that the shared context is not the innermost one
        main_task = loop.create_task(main(levels))
        loop.run_nested(main_task)
        assert var.get() == "inner"

    loop.run_until_complete(loop.create_task(outer(), context=shared))
    assert seen == ["outer"]


@pytest.mark.expects_loop_errors
def test_an_exception_in_a_callback_whose_context_is_entered_below_is_reported(loop, loop_errors):
    shared = contextvars.copy_context()

    async def outer():
        loop.call_soon(lambda: 1 / 0, context=shared)
        loop.run_nested(loop.create_task(answer()))

    loop.run_until_complete(loop.create_task(outer(), context=shared))
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]
    assert loop_errors[0]["exception"].__context__ is None
