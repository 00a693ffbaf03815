"""run_forever, run_until_complete, stop and close."""

import asyncio
import contextlib
import gc
import os
import socket
import weakref

import pytest
from support.helpers import STOCK, one_turn, run


def test_stop_before_run_forever_runs_exactly_one_turn(loop):
    ran = []

    def again():
        ran.append(len(ran))
        loop.call_soon(again)

    loop.call_soon(again)
    loop.stop()
    loop.run_forever()
    assert ran == [0]
    loop.stop()
    loop.run_forever()
    assert ran == [0, 1]


def test_stop_before_run_forever_does_not_sleep(loop):
    handle = loop.call_later(1000, print)
    loop.stop()
    loop.run_forever()
    handle.cancel()


def test_stop_lets_the_turn_finish(loop):
    ran = []
    loop.call_soon(loop.stop)
    loop.call_soon(ran.append, 1)
    loop.run_forever()
    assert ran == [1]


def test_stop_is_forgotten_after_the_run(loop):
    one_turn(loop)
    assert run(loop, asyncio.sleep(0, "done")) == "done"


def test_stop_from_a_timer_and_from_a_task(loop):
    loop.call_later(0.001, loop.stop)
    loop.run_forever()

    async def stop():
        loop.stop()

    task = loop.create_task(stop())
    loop.run_forever()
    assert task.done()


def test_run_until_complete_returns_the_result_or_raises(loop):
    async def good():
        return 5

    async def bad():
        raise ZeroDivisionError

    assert loop.run_until_complete(good()) == 5
    with pytest.raises(ZeroDivisionError):
        loop.run_until_complete(bad())
    future = loop.create_future()
    future.set_result(6)
    assert loop.run_until_complete(future) == 6


def test_run_until_complete_raises_if_the_loop_was_stopped(loop):
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match="before Future completed"):
        loop.run_until_complete(future)


def test_run_until_complete_refuses_what_is_not_awaitable(loop):
    with pytest.raises(TypeError):
        loop.run_until_complete(5)


def test_run_until_complete_refuses_another_loops_future(loop, new_loop):
    future = new_loop().create_future()
    with pytest.raises(ValueError, match="different"):
        loop.run_until_complete(future)


def test_is_running_and_get_running_loop_report_the_run(loop):
    seen = []
    assert not loop.is_running()
    loop.call_soon(lambda: seen.append((loop.is_running(), asyncio.get_running_loop() is loop)))
    one_turn(loop)
    assert seen == [(True, True)]
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_a_running_loop_cannot_be_run_again_or_closed(loop, new_loop):
    other = new_loop()

    async def main():
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(coroutine)
        with pytest.raises(RuntimeError, match="another loop"):
            other.run_until_complete(coroutine)
        coroutine.close()
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    run(loop, main())


def test_run_forever_refuses_a_running_loop(loop):
    """Python versions differ in what a refused run_forever leaves behind; that is not checked."""
    seen = []

    def again():
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()
        seen.append(True)
        loop.stop()

    loop.call_soon(again)
    loop.run_forever()
    assert seen == [True]


def test_close_is_idempotent_and_is_closed_reports_it(loop):
    assert not loop.is_closed()
    assert "closed=False" in repr(loop)
    loop.close()
    loop.close()
    assert loop.is_closed()
    assert "closed=True" in repr(loop)


def test_a_closed_loop_refuses_work(loop):
    loop.close()
    for attempt in (
        lambda: loop.call_soon(print),
        lambda: loop.call_soon_threadsafe(print),
        lambda: loop.call_later(0, print),
        lambda: loop.call_at(0, print),
        lambda: loop.run_forever(),
        lambda: loop.run_in_executor(None, print),
        lambda: loop.add_reader(0, print),
        lambda: loop.add_writer(0, print),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            attempt()
    for attempt in (loop.create_task, loop.run_until_complete):
        coroutine = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            attempt(coroutine)
        coroutine.close()


def test_close_drops_callbacks_and_timers_that_never_ran(loop):
    class Thing:
        pass

    thing = Thing()
    watch = weakref.ref(thing)
    loop.call_soon(print, thing)
    loop.call_later(1000, print, thing)
    del thing
    loop.close()
    gc.collect()
    assert watch() is None


def test_a_loop_that_never_ran_can_be_closed(new_loop):
    for _ in range(5):
        new_loop().close()


def test_a_loop_forgotten_without_close_warns(new_loop, monitor):
    from support.helpers import make_loop

    loop = make_loop(monitor)
    with pytest.warns(ResourceWarning, match="unclosed event loop"):  # noqa: PT031
        del loop
        gc.collect()


@pytest.mark.parametrize("debug", [False, True])
def test_a_loop_forgotten_without_close_is_freed_with_its_last_reference(monitor, debug):
    """Without the garbage collector; in debug mode, too, where users expect the warning."""
    from support.helpers import make_loop

    if monitor == STOCK:
        pytest.skip("stock asyncio's loop and its self-pipe's reader hold each other")
    loop = make_loop(monitor)
    loop.set_debug(debug)
    gc.collect()
    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match="unclosed event loop"):
            del loop
    finally:
        gc.enable()


def test_a_closed_loop_is_collected(monitor):
    from support.helpers import make_loop

    loop = make_loop(monitor)
    loop.run_until_complete(asyncio.sleep(0))
    watch = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert watch() is None


def test_loops_are_abstract_event_loops(loop):
    assert isinstance(loop, asyncio.AbstractEventLoop)
    assert isinstance(loop, asyncio.BaseEventLoop)


def test_attributes_can_be_set_on_a_loop(loop):
    loop.mine = 5
    assert loop.mine == 5


# Shutting down


def test_shutdown_asyncgens_closes_generators(loop):
    closed = []

    async def numbers():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    async def main():
        generator = numbers()
        await anext(generator)
        return generator

    generator = run(loop, main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert closed == [True]
    del generator


def test_a_runner_runs_on_this_loop(new_loop):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        loop = runner.get_loop()

        async def main():
            assert asyncio.get_running_loop() is loop
            return 5

        assert runner.run(main()) == 5
        assert runner.run(main()) == 5
    assert loop.is_closed()


def test_a_runner_cancels_what_is_left(new_loop):
    cancelled = []

    async def forever():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.append(True)

    async def main():
        tasks.append(asyncio.ensure_future(forever()))
        await asyncio.sleep(0)

    tasks = []
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
    assert cancelled == [True]
    tasks.clear()


@pytest.mark.parametrize("is_taken", [False, True], ids=["closed", "taken"])
def test_loops_are_made_after_the_program_closed_every_descriptor(new_loop, is_taken):
    """Daemons close all descriptors when they start; a closed loop must not keep one that by then is another file."""
    first = new_loop()
    run(first, asyncio.sleep(0))
    first.close()
    numbers = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the directory itself
            if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
                numbers.append(int(name))
    near, far = socket.socketpair()
    with near, far:
        for number in numbers:
            if is_taken:
                os.dup2(far.fileno(), number)
            else:
                os.close(number)
        for _ in range(2):
            loop = new_loop()
            assert run(loop, loop.run_in_executor(None, int)) == 0
            loop.close()
        gc.collect()
        if is_taken:
            for number in numbers:
                near.send(b"x")
                assert os.read(number, 10) == b"x"  # still open, and still the same
                os.close(number)
