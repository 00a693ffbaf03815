"""Nested mode: run_until_complete() and asyncio.run() while the loop runs."""

import asyncio
import contextvars
import sys

import pytest
from support.helpers import run, run_script, turn_until, turns

import uringloop

var = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def nested_loop(loop):
    loop.nested = True
    return loop


@pytest.fixture
def allowed(loop):
    uringloop.allow_nested()
    yield loop
    uringloop.disallow_nested()


async def answer(value=42, count=3):
    await turns(count)
    return value


def refused(call, coroutine, match="running event loop|already running"):
    with pytest.raises(RuntimeError, match=match):
        call(coroutine)
    coroutine.close()


# run_until_complete, run_forever


def test_asyncio_refuses_unless_it_is_enabled(loop):
    async def main():
        assert not loop.nested
        refused(loop.run_until_complete, answer())
        refused(asyncio.run, answer())
        refused(uringloop.run, answer())
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()
        refused(asyncio.Runner().run, answer())

    run(loop, main())


def test_new_event_loop_makes_a_nested_loop(monitor):
    loop = uringloop.new_event_loop(monitor, nested=True)
    assert loop.nested

    async def main():
        assert loop.run_until_complete(answer()) == 42
        refused(asyncio.run, answer())  # that requires allow_nested()

    run(loop, main())
    assert loop.run_until_complete(answer(1)) == 1
    loop.close()


def test_run_until_complete_in_nested_mode(nested_loop):
    loop = nested_loop

    async def level(number):
        if number == 0:
            return await answer(0)
        return loop.run_until_complete(level(number - 1)) + 1

    async def main():
        with pytest.raises(ZeroDivisionError):
            loop.run_until_complete(asyncio.wait_for(fail(), 10))
        task = loop.create_task(answer("task"))
        assert loop.run_until_complete(task) == "task"
        return await level(20)

    async def fail():
        return 1 / 0

    assert run(loop, main()) == 20


def test_another_thread_is_refused_in_nested_mode(nested_loop):
    def other_thread():
        refused(nested_loop.run_until_complete, answer(), "already running")
        with pytest.raises(RuntimeError, match="already running"):
            nested_loop.run_forever()

    run(nested_loop, asyncio.to_thread(other_thread))


def test_stop_ends_the_innermost_run_forever(nested_loop):
    loop = nested_loop
    log = []

    async def main():
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        log.append("inner run over")
        await asyncio.sleep(0)
        log.append("main")
        return await answer()

    assert run(loop, main()) == 42
    assert log == ["inner run over", "main"]


def test_cancelling_a_task_in_a_nested_run_forever(nested_loop):
    async def main():
        nested_loop.call_soon(asyncio.current_task().cancel)
        with pytest.raises(asyncio.CancelledError):
            nested_loop.run_forever()
        return await answer()

    assert nested_loop.run_until_complete(main()) == 42


def test_nested_mode_can_be_left(nested_loop):
    nested_loop.nested = False

    async def main():
        refused(nested_loop.run_until_complete, answer())

    run(nested_loop, main())


# asyncio.run


def test_asyncio_run_inside_of_a_running_loop(allowed):
    loop = allowed

    async def inner():
        assert asyncio.get_running_loop() is loop
        return await answer()

    async def main():
        me = asyncio.current_task()
        assert asyncio.run(inner()) == 42
        assert uringloop.run(inner()) == 42
        assert loop.run_until_complete(inner()) == 42
        assert asyncio.current_task() is me
        assert not loop.is_closed()
        with pytest.raises(ZeroDivisionError):
            asyncio.run(fail())
        return await answer()

    async def fail():
        await turns(2)
        return 1 / 0

    assert run(loop, main()) == 42
    assert run(loop, main()) == 42


def test_runner_run_inside_of_a_running_loop(allowed):
    loop = allowed

    async def setting(value):
        before = var.get()
        var.set(value)
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), before

    async def main():
        with asyncio.Runner() as runner:
            assert runner.run(setting(1)) == (loop, "unset")
            assert runner.run(setting(2)) == (loop, 1)
        assert var.get() == "unset"
        context = contextvars.copy_context()
        with asyncio.Runner() as runner:
            runner.run(setting(3), context=context)
        assert context[var] == 3
        return await answer()

    assert run(loop, main()) == 42


def test_an_inner_runner_may_run_in_an_empty_context(allowed):
    async def setting(value):
        before = var.get()
        var.set(value)
        return before

    async def main():
        context = contextvars.Context()
        with asyncio.Runner() as runner:
            assert runner.run(setting(1)) == "unset"
            assert runner.run(setting(2), context=context) == "unset"
            assert runner.run(setting(3)) == 1
        assert context[var] == 2

    run(allowed, main())


def test_a_runner_may_run_inside_of_its_own_run(monitor):
    uringloop.allow_nested()
    try:
        with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(monitor)) as runner:

            async def main():
                return runner.run(answer())

            assert runner.run(main()) == 42
    finally:
        uringloop.disallow_nested()


def test_debug_mode_of_an_inner_run_ends_with_it(allowed):
    loop = allowed

    async def debugs():
        return loop.get_debug()

    async def main():
        return asyncio.run(debugs()), asyncio.run(debugs(), debug=True), loop.get_debug()

    assert run(loop, main()) == (False, True, False)


def test_asyncio_run_refuses_objects_that_are_not_awaitable(allowed):
    async def main():
        for wrong in (42, None):
            with pytest.raises((ValueError, TypeError)):
                asyncio.run(wrong)
        awaitable = asyncio.sleep(0, "slept")
        assert asyncio.run(awaitable) == "slept"
        future = allowed.create_future()
        allowed.call_soon(future.set_result, "future")
        if sys.version_info >= (3, 14):
            assert asyncio.run(future) == "future"
        else:
            with pytest.raises(ValueError, match="a coroutine was expected"):
                asyncio.run(future)

    run(allowed, main())


def test_disallow_nested_undoes_everything(loop):
    names = [(asyncio, "run"), (asyncio.runners, "run"), (asyncio.Runner, "run")]
    before = [getattr(owner, name) for owner, name in names]
    uringloop.allow_nested()
    uringloop.allow_nested()
    assert all(getattr(owner, name) is not old for (owner, name), old in zip(names, before, strict=True))
    assert asyncio.run.__name__ == "run"
    assert asyncio.run.__doc__ == before[0].__doc__
    assert loop.nested
    uringloop.disallow_nested()
    uringloop.disallow_nested()
    assert [getattr(owner, name) for owner, name in names] == before
    assert not loop.nested


def test_disallow_nested_keeps_functions_that_others_patched(loop, monkeypatch):
    uringloop.allow_nested()
    ours = asyncio.run
    monkeypatch.setattr(asyncio, "run", lambda *args, **kwargs: ours(*args, **kwargs))
    theirs = asyncio.run
    uringloop.disallow_nested()
    assert asyncio.run is theirs

    async def main():
        refused(asyncio.run, answer())

    run(loop, main())


def test_other_loops_are_not_changed(allowed):
    async def main():
        refused(asyncio.run, answer())
        return await answer()

    stock = asyncio.SelectorEventLoop()
    assert stock.run_until_complete(main()) == 42
    stock.close()
    assert asyncio.run(answer()) == 42


def test_install_nested(monitor):
    if sys.version_info >= (3, 16):
        pytest.skip("Python 3.16 has no policies")
    printed = run_script(
        """
        import asyncio, uringloop, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        uringloop.install(nested=True)

        async def inner():
            return asyncio.get_running_loop().fdmon

        async def main():
            return asyncio.run(inner())

        print(asyncio.run(main()))
        uringloop.disallow_nested()
        """,
        monitor,
        env={"URINGLOOP_FDMON": monitor},
    )
    assert printed.strip() == monitor


# nest_asyncio


def _patch_loop(loop):
    """The first check of nest_asyncio's function of this name."""
    return hasattr(loop, "_nest_patched")


def test_nest_asyncio_turns_on_nested_mode(loop):
    assert not hasattr(loop, "_nest_patched")
    assert not loop.nested
    assert _patch_loop(loop)
    assert loop.nested
    assert hasattr(loop, "_nest_patched")

    async def main():
        return loop.run_until_complete(answer())

    assert run(loop, main()) == 42
    turn_until(loop, lambda: True)
