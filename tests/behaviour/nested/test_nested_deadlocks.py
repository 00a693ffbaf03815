"""run_nested(): a task that waits for itself, which would never end, is refused."""

import asyncio

import pytest
from support.helpers import run, turn_until
from support.nested_tools import answer


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


def test_waiting_for_the_current_task_is_refused_in_a_busy_loop(loop):
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


def test_waits_that_end_in_another_way_are_not_refused(loop):
    async def main():
        me = asyncio.current_task()
        done, pending = loop.run_nested(asyncio.wait([me], timeout=0.001))
        assert (done, pending) == (set(), {me})
        other = loop.create_task(answer())
        done, pending = loop.run_nested(asyncio.wait([me, other], return_when=asyncio.FIRST_COMPLETED))
        assert (done, pending) == ({other}, {me})

    run(loop, main())
