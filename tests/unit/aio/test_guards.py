"""What another thread calls by mistake waits for the loop's thread; with a GIL it has the same effect."""

import gc
import sys
import sysconfig
import threading

import pytest
from support.helpers import run

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and not sys._is_gil_enabled()


def test_a_callback_may_wait_for_a_thread_that_uses_the_loop(loop):
    seen = []

    def use():
        loop.call_soon(seen.append, "soon")
        loop.call_later(0, seen.append, "later").cancel()
        seen.append(repr(loop.call_at(0, print)))

    def wait_for_it():
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        seen.append("waited")

    loop.call_soon(wait_for_it)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert "TimerHandle" in seen[0]
    assert seen[1:] == ["waited"]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen[2:] == ["soon"]


@pytest.mark.skipif(not IS_FREE_THREADED, reason="the GIL changes hands in the middle of a callback")
def test_a_thread_does_not_get_into_a_callback_that_runs(loop):
    """Unless all threads are stopped meanwhile, which a collection does."""
    gc.disable()
    begun, done = threading.Event(), threading.Event()
    seen = []

    def use():
        begun.set()
        loop.call_soon(seen.append, 1)
        done.set()

    def work():
        thread = threading.Thread(target=use)
        thread.start()
        while not begun.is_set():
            pass
        for _ in range(200_000):
            assert not done.is_set()

    async def main():
        loop.call_soon(work)
        await loop.run_in_executor(None, done.wait)

    try:
        run(loop, main())
    finally:
        gc.enable()
    assert done.is_set()


@pytest.mark.skipif(not IS_FREE_THREADED, reason="the GIL changes hands in the middle of a callback")
def test_a_loop_that_never_waits_lets_others_in(loop):
    done = threading.Event()

    def use():
        loop.call_soon(int)
        done.set()

    def again():
        if not done.is_set():
            loop.call_soon(again)  # the next turn begins at once
        else:
            loop.stop()

    thread = threading.Thread(target=use)
    loop.call_soon(again)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


def test_callbacks_of_other_threads_keep_their_order_with_ones_own(loop):
    """What a thread has scheduled comes before what the loop's thread schedules when it knows that."""
    seen = []

    def schedule():
        loop.call_soon_threadsafe(seen.append, "theirs")

    def work():
        thread = threading.Thread(target=schedule)
        thread.start()
        thread.join()
        loop.call_soon(seen.append, "own")
        loop.call_soon(loop.stop)

    loop.call_soon(work)
    loop.run_forever()
    assert seen == ["theirs", "own"]
