"""Tasks on this loop: factories, eager tasks, all_tasks, contexts."""

import asyncio
import contextvars
import os
import sys
from asyncio.subprocess import PIPE

import pytest
from support.helpers import run, turns

variable = contextvars.ContextVar("variable", default=0)


async def test_gathered_tasks_take_turns():
    order = []

    async def count(name):
        for _ in range(3):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(count("a"), count("b"))
    assert order == ["a", "b"] * 3


async def test_gather_wait_and_queues_work():
    queue = asyncio.Queue(2)

    async def produce():
        for number in range(100):
            await queue.put(number)

    async def consume():
        return [await queue.get() for _ in range(100)]

    _, got = await asyncio.gather(produce(), consume())
    assert got == list(range(100))
    done, pending = await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0))], timeout=10)
    assert len(done) == 1
    assert not pending


async def test_wait_for_times_out():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.get_running_loop().create_future(), 0.001)


async def test_tasks_and_futures_are_asyncios_own():
    loop = asyncio.get_running_loop()
    task = loop.create_task(asyncio.sleep(0), name="mine")
    assert isinstance(task, asyncio.Task)
    assert task.get_name() == "mine"
    assert isinstance(loop.create_future(), asyncio.Future)
    assert task in asyncio.all_tasks()
    assert asyncio.current_task() is not task
    await task


async def test_create_task_uses_the_given_context():
    context = contextvars.Context()

    async def change():
        variable.set(variable.get() + 1)

    loop = asyncio.get_running_loop()
    await loop.create_task(change(), context=context)
    await loop.create_task(change(), context=context)
    assert context[variable] == 2
    assert variable.get() == 0


def test_a_task_factory_is_called_and_can_be_removed(loop):
    made = []

    def factory(loop, coroutine, **kwargs):
        made.append(kwargs)
        return asyncio.Task(coroutine, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    run(loop, asyncio.sleep(0))
    assert len(made) == 1
    loop.set_task_factory(None)
    run(loop, asyncio.sleep(0))
    assert len(made) == 1
    with pytest.raises(TypeError):
        loop.set_task_factory(1)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_eager_task_factory_starts_tasks_at_once(loop):
    loop.set_task_factory(asyncio.eager_task_factory)

    async def main():
        steps = []

        async def quick():
            steps.append("quick")
            return 5

        async def slow():
            steps.append("slow")
            await asyncio.sleep(0)
            steps.append("end")

        task = asyncio.create_task(quick())
        assert task.done()
        assert await task == 5
        task = asyncio.create_task(slow())
        assert steps == ["quick", "slow"]
        await task
        assert steps == ["quick", "slow", "end"]

    run(loop, main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
def test_eager_tasks_can_do_io(loop):
    loop.set_task_factory(asyncio.eager_task_factory)

    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"eager\n")
        assert await reader.readline() == b"eager\n"
        writer.close()
        await writer.wait_closed()
        await turns(5)
        server.close()
        await server.wait_closed()

    run(loop, main())


@pytest.mark.skipif(sys.version_info < (3, 14), reason="eager_start= is new in Python 3.14")
async def test_eager_start_can_be_enabled_for_one_task():
    async def quick():
        return 5

    assert asyncio.create_task(quick(), eager_start=True).done()


@pytest.mark.expects_loop_errors
def test_an_exception_that_is_never_retrieved_is_reported(loop, loop_errors):
    import gc

    async def bad():
        raise ZeroDivisionError

    async def main():
        asyncio.ensure_future(bad())  # noqa: RUF006
        await turns(3)

    run(loop, main())
    gc.collect()
    assert [context["message"] for context in loop_errors] == ["Task exception was never retrieved"]


async def test_task_group_cancels_its_other_tasks():
    loop = asyncio.get_running_loop()

    async def bad():
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.wait_for(loop.create_future(), 100))
            group.create_task(bad())
    assert waiting.cancelled()


since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")


@since_3_14
def test_a_task_factory_gets_every_keyword(loop):
    seen = []

    def factory(loop, coroutine, **keywords):
        seen.append(keywords)
        return asyncio.Task(coroutine, loop=loop)

    async def main():
        await asyncio.get_running_loop().create_task(asyncio.sleep(0), name="named", mine=5)

    async def with_factory():
        loop.set_task_factory(factory)
        try:
            await main()
        finally:
            loop.set_task_factory(None)

    run(loop, with_factory())
    assert {"name": "named", "mine": 5} in [
        {name: keywords[name] for name in keywords if name != "context"} for keywords in seen
    ]


@since_3_14
async def test_the_call_graph_names_the_awaiting_task():
    async def leaf():
        return asyncio.format_call_graph()

    async def middle():
        return await leaf()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(middle(), name="walker")
    text = task.result()
    assert "walker" in text
    assert text.index("leaf()") < text.index("middle()") < text.index("Awaited by")


@since_3_14
async def test_another_process_can_list_the_tasks():
    """python -m asyncio ps"""

    async def list_tasks():
        command = (sys.executable, "-m", "asyncio", "ps", str(os.getpid()))
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        return process, await process.communicate()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(list_tasks(), name="listing tasks")
    process, (printed, errors) = task.result()
    if b"ermission" in errors:
        pytest.skip("reading another process's memory is forbidden here")
    assert process.returncode == 0, errors
    assert b"listing tasks" in printed


@pytest.mark.expects_loop_errors
def test_tasks_of_foreign_classes_are_left_alone_after_a_memory_error(loop, loop_errors):
    """Their memory layout differs from that of asyncio's tasks."""

    class Task:
        def __init__(self, future):
            self._fut_waiter = future

        def get_loop(self):
            return loop

        def done(self):
            return False

    def fail():
        raise MemoryError

    async def main():
        future = loop.create_future()
        future.set_result(None)
        task = Task(future)
        asyncio.tasks._register_task(task)
        try:
            loop.call_soon(fail)
            await turns(5)
        finally:
            asyncio.tasks._unregister_task(task)

    run(loop, main())
    assert [type(context["exception"]) for context in loop_errors] == [MemoryError]
