"""run_nested(): cancellation of the waiting tasks, and of the tasks that they wait for."""

import asyncio

import pytest
from support.helpers import run
from support.nested_tools import answer, fail


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


def test_a_cancellation_can_be_caught(any_task):
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
    """As with `await`: run_nested() returns its result."""

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


def test_cancellation_right_after_the_inner_awaitable_is_done_wins(any_task):
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
