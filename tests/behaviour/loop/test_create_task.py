"""loop.create_task(), which makes the task without asyncio's Python method, but as that does."""

import asyncio
import contextvars
import inspect

import pytest

variable = contextvars.ContextVar("variable", default="outside")


async def value():
    return variable.get()


def test_name_and_context_are_the_tasks(loop):
    context = contextvars.copy_context()
    context.run(variable.set, "inside")

    async def main():
        tasks = [
            loop.create_task(value()),
            loop.create_task(value(), name="first"),
            loop.create_task(value(), context=context),
            loop.create_task(value(), name="second", context=context),
            loop.create_task(value(), context=context, name="third"),
            loop.create_task(value(), name=None, context=None),
            loop.create_task(coro=value(), name="fourth"),
        ]
        return [task.get_name() for task in tasks], await asyncio.gather(*tasks)

    names, values = loop.run_until_complete(main())
    assert [names[at] for at in (1, 3, 4, 6)] == ["first", "second", "third", "fourth"]
    assert all(names[at].startswith("Task-") for at in (0, 2, 5))
    assert values == ["outside", "outside", "inside", "inside", "inside", "outside", "outside"]


def test_a_name_that_is_no_text_is_made_one(loop):
    task = loop.create_task(value(), name=5)
    assert task.get_name() == "5"
    loop.run_until_complete(task)


def test_wrong_arguments(loop):
    with pytest.raises(TypeError, match="a coroutine was expected, got 5"):
        loop.create_task(5)
    with pytest.raises(TypeError):
        loop.create_task()
    coroutine = value()
    for arguments, keywords in (
        ((1,), {}),
        ((), {"no_such": 1}),
        ((), {"name": "a", "no_such": 1}),
        ((), {"loop": loop}),
    ):
        with pytest.raises(TypeError):
            loop.create_task(coroutine, *arguments, **keywords)
    loop.run_until_complete(coroutine)


def test_a_closed_loop_makes_no_task(loop):
    loop.close()
    coroutine = value()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.create_task(coroutine)
    coroutine.close()


def test_a_task_factory_is_used_as_long_as_it_is_set(loop):
    made = []

    def factory(loop, coroutine, **keywords):
        made.append(keywords)
        return asyncio.Task(coroutine, loop=loop, **keywords)

    loop.set_task_factory(factory)
    task = loop.create_task(value(), name="named")
    assert task.get_name() == "named"
    loop.run_until_complete(task)
    loop.set_task_factory(None)
    loop.run_until_complete(loop.create_task(value()))
    assert len(made) == 1


def test_the_class_that_a_program_puts_into_asyncio_is_used(loop, monkeypatch):
    class Task(asyncio.Task):
        pass

    loop.run_until_complete(loop.create_task(value()))
    monkeypatch.setattr(asyncio.tasks, "Task", Task)
    task = loop.create_task(value())
    assert type(task) is Task
    loop.run_until_complete(task)
    monkeypatch.undo()
    task = loop.create_task(value())
    assert type(task) is asyncio.Task
    loop.run_until_complete(task)


def test_a_method_that_a_program_puts_into_asyncios_class_is_used(loop, monkeypatch):
    """Tracers do that."""
    original = asyncio.BaseEventLoop.create_task
    seen = []

    def traced(self, coro, **keywords):
        seen.append(coro)
        return original(self, coro, **keywords)

    loop.run_until_complete(loop.create_task(value()))
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_task", traced)
    loop.run_until_complete(loop.create_task(value(), name="traced"))
    assert len(seen) == 1
    monkeypatch.undo()
    loop.run_until_complete(loop.create_task(value()))
    assert len(seen) == 1


def test_a_subclass_may_have_its_own(loop):
    names = []

    class Own(type(loop)):
        def create_task(self, coro, **keywords):
            names.append(keywords)
            return super().create_task(coro, **keywords)

    async def main():
        return await asyncio.create_task(value()), await loop.create_task(value(), name="own")

    loop.__class__ = Own
    assert loop.run_until_complete(main()) == ("outside", "outside")
    assert names[-1] == {"name": "own"}
    assert len(names) == 3


def test_in_debug_mode_the_trace_ends_at_the_caller(loop):
    loop.set_debug(True)
    task = loop.create_task(value())
    assert task._source_traceback[-1].name == "test_in_debug_mode_the_trace_ends_at_the_caller"
    loop.run_until_complete(task)


def test_its_signature_is_asyncios(loop):
    own, stock = inspect.signature(loop.create_task), inspect.signature(asyncio.BaseEventLoop.create_task)
    assert [*own.parameters.values()] == [*stock.parameters.values()][1:]


def test_it_can_be_called_with_names_that_were_made_at_run_time(loop):
    keywords = {"".join(("na", "me")): "built"}
    task = loop.create_task(value(), **keywords)
    assert task.get_name() == "built"
    loop.run_until_complete(task)
