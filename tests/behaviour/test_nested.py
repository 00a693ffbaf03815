"""run_nested(): the loop inside one of its own callbacks and tasks."""

import asyncio
import contextvars
import os
import signal
import sys
import threading

import pytest
from helpers import (
    BufferedRecorder,
    Recorder,
    abort,
    client_tls,
    one_turn,
    open_pair,
    open_transport,
    pattern,
    run,
    run_script,
    server_tls,
    turn_until,
    turns,
)

TASKS = [asyncio.Task, asyncio.tasks._PyTask]
var = contextvars.ContextVar("var", default="unset")


def look_at_tasks_of(kind, monkeypatch):
    """Since Python 3.14 each module has a current task and tasks of its own."""
    if sys.version_info >= (3, 14) and kind is not asyncio.Task:
        for owner in (asyncio, asyncio.tasks):
            monkeypatch.setattr(owner, "current_task", asyncio.tasks._py_current_task)
            monkeypatch.setattr(owner, "all_tasks", asyncio.tasks._py_all_tasks)


@pytest.fixture(params=TASKS, ids=["C", "Python"])
def any_task(request, loop, monkeypatch):
    """A loop whose tasks are those of the C module, or those of the Python module."""
    look_at_tasks_of(request.param, monkeypatch)
    loop.set_task_factory(lambda loop, coro, **kwargs: request.param(coro, loop=loop, **kwargs))
    return loop


async def answer(value=42, count=3):
    await turns(count)
    return value


async def fail(error):
    await turns(2)
    raise error


# -- results -----------------------------------------------------------------------------------------------


def test_run_nested_in_a_task_gives_the_result(any_task):
    async def main():
        return any_task.run_nested(answer(1)), any_task.run_nested(answer(2)), await answer(3)

    assert run(any_task, main()) == (1, 2, 3)


@pytest.mark.parametrize("kind", ["call_soon", "timer", "reader", "threadsafe", "done callback"])
def test_run_nested_in_a_callback_gives_the_result(loop, kind):
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
        return [loop.run_nested(one) for one in (future, done, task, Awaitable(), gathered)]

    assert run(loop, main()) == ["future", "done", "task", "awaited", [1, 2]]


def test_exceptions_pass(any_task):
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


def test_everything_else_goes_on_meanwhile(loop):
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
def test_levels(any_task, depth):
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
def test_too_many_levels_end_in_recursion_error_and_the_loop_goes_on(loop):
    async def level():
        await asyncio.sleep(0)
        return loop.run_nested(level())

    with pytest.raises(RecursionError):
        run(loop, level())
    turn_until(loop, lambda: not asyncio.all_tasks(loop))
    assert run(loop, answer()) == 42


# -- the current task --------------------------------------------------------------------------------------


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
    """Without the current task set aside they fail with "Cannot enter into task while another task is executed"."""

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
    look_at_tasks_of(factory, monkeypatch)
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


# -- context variables -------------------------------------------------------------------------------------


def test_context_variables(loop):
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
def test_an_exception_of_such_a_callback_is_reported(loop, loop_errors):
    shared = contextvars.copy_context()

    async def outer():
        loop.call_soon(lambda: 1 / 0, context=shared)
        loop.run_nested(loop.create_task(answer()))

    loop.run_until_complete(loop.create_task(outer(), context=shared))
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]
    assert loop_errors[0]["exception"].__context__ is None


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


# -- wrong uses --------------------------------------------------------------------------------------------


def refused(loop, match, awaitable=None):
    coroutine = answer() if awaitable is None else awaitable
    with pytest.raises((RuntimeError, ValueError), match=match):
        loop.run_nested(coroutine)
    if awaitable is None:
        coroutine.close()


def test_a_loop_that_does_not_run_is_refused(loop):
    refused(loop, "needs an event loop that runs; use run_until_complete")


def test_a_closed_loop_is_refused(loop):
    loop.close()
    refused(loop, "Event loop is closed")


def test_another_thread_is_refused(loop):
    def other_thread():
        refused(loop, "outside of the event loop's thread; use asyncio.run_coroutine_threadsafe")

    run(loop, asyncio.to_thread(other_thread))


def test_another_loop_is_refused(new_loop, loop):
    other = new_loop()

    async def main():
        refused(other, "needs an event loop that runs")
        future = other.create_future()
        refused(loop, "different loop", future)

    run(loop, main())


def test_a_loop_of_another_thread_is_refused(new_loop, loop):
    other = new_loop()
    started = threading.Event()
    other.call_soon(started.set)
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    started.wait()

    async def main():
        refused(other, "outside of the event loop's thread")

    try:
        run(loop, main())
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()


def test_the_loop_cannot_be_closed_in_a_nested_run(loop):
    async def inner():
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    async def main():
        loop.run_nested(inner())

    run(loop, main())


def test_a_fork_child_leaves_its_nested_run(monitor):
    printed = run_script(
        """
        import asyncio, os, sys, uringloop, warnings
        warnings.simplefilter("ignore")
        loop = uringloop.new_event_loop(MONITOR)

        async def inner():
            await asyncio.sleep(0)
            if os.fork() == 0:
                return
            os.wait()
            print("parent", flush=True)

        async def main():
            try:
                loop.run_nested(inner())
            except RuntimeError as error:
                print(error, flush=True)
                os._exit(0)

        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )
    assert printed.splitlines() == [
        "Event loop is closed: this process is a fork of the one that runs it",
        "parent",
    ]


# -- I/O ---------------------------------------------------------------------------------------------------


def test_what_was_written_before_goes_out_in_the_nested_run(loop):
    async def main():
        async with open_pair() as (near, far):
            near.transport.write(b"request")
            assert loop.run_nested(far.received(7)) == b"request"
            far.transport.write(b"answer")
            near.transport.write(b"more")
            assert loop.run_nested(asyncio.gather(near.received(6), far.received(11))) == [
                b"answer",
                b"requestmore",
            ]

    run(loop, main())


def test_a_protocol_may_wait_in_its_callbacks(loop):
    """The rest is delivered to it meanwhile, in order."""

    class Nesting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.chunks) == 1:
                self.transport.write(b"more, please")
                loop.run_nested(self.received(14))
                self.calls.append("waited")

        def connection_made(self, transport):
            super().connection_made(transport)
            loop.run_nested(answer())

        def connection_lost(self, error):
            loop.run_nested(answer())
            super().connection_lost(error)

    async def main():
        async with open_pair(Nesting()) as (near, far):
            far.transport.write(b"first")
            await far.received(12)
            far.transport.write(b" and more")
            await near.received(14)
            await turns(3)
            assert bytes(near.data) == b"first and more"
            assert near.calls[-1] == "waited"

    run(loop, main())


@pytest.mark.parametrize("size", [3, 4, 64])
def test_a_buffered_protocol_may_wait_in_its_callbacks(loop, size):
    """What its buffer had no room for comes first, and then what arrives meanwhile."""

    class Nesting(BufferedRecorder):
        async def have(self, count):
            while len(self.data) < count:
                await asyncio.sleep(0)

        def buffer_updated(self, count):
            first = not self.data
            super().buffer_updated(count)
            if first:
                loop.run_nested(self.have(8))
                peer.send(b"ijkl")
                loop.run_nested(self.have(12))

    async def main():
        nonlocal peer
        async with open_transport(Nesting(size)) as (_, protocol, peer):
            peer.send(b"abcdefgh")
            await protocol.have(12)
            peer.send(b"mnopqrst")
            await protocol.have(20)
            assert bytes(protocol.data) == b"abcdefghijklmnopqrst"

    peer = None
    run(loop, main())


def test_tls_in_nested_runs(loop):
    class Nesting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.chunks) == 1:
                loop.run_nested(self.received(200_008))

    async def main():
        accepted = loop.create_future()

        def accept():
            protocol = Nesting()
            accepted.set_result(protocol)
            return protocol

        server = await loop.create_server(accept, "127.0.0.1", 0, ssl=server_tls())
        port = server.sockets[0].getsockname()[1]
        transport, client = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=client_tls(), server_hostname="localhost"
        )
        transport.write(b"abcdefgh")
        transport.write(pattern(100_000))
        protocol = await accepted
        await protocol.received(8)
        transport.write(pattern(100_000))
        assert await protocol.received(200_008) == b"abcdefgh" + 2 * pattern(100_000)
        for one in (client, protocol):
            await abort(one)
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_a_watched_fd_is_armed_in_a_nested_run_of_its_own_callback(loop):
    fd = os.eventfd(1)
    seen = []

    def on_readable():
        seen.append(os.eventfd_read(fd))
        if len(seen) == 1:
            loop.call_soon(os.eventfd_write, fd, 7)
            loop.run_nested(second)
            seen.append("nested run over")
        else:
            second.set_result(None)

    second = loop.create_future()
    loop.add_reader(fd, on_readable)
    turn_until(loop, lambda: len(seen) == 3)
    loop.remove_reader(fd)
    os.close(fd)
    assert seen == [1, 7, "nested run over"]


def test_executors_and_threads_wake_a_nested_run(loop):
    async def main():
        assert loop.run_nested(asyncio.to_thread(lambda: 1)) == 1
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 2))
        loop.call_soon(thread.start)
        assert loop.run_nested(future) == 2
        thread.join()

    run(loop, main())


def test_asynchronous_generators_are_finalized_in_nested_runs(loop):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def inner():
        async for _ in numbers():
            break

    async def main():
        loop.run_nested(inner())
        loop.run_nested(answer())

    run(loop, main())
    assert closed == [True]


def test_debug_mode(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10

    async def main():
        assert loop.run_nested(answer()) == 42
        return await answer()

    assert run(loop, main()) == 42
    one_turn(loop)
