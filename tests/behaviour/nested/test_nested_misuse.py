"""run_nested() where it is refused: in other threads, on other loops, on loops that do not run."""

import asyncio
import threading

import pytest
from support.helpers import run, run_script
from support.nested_tools import answer


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
