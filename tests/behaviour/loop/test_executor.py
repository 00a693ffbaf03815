"""run_in_executor, and the default executor with its shutdown."""

import asyncio
import concurrent.futures
import sys
import threading
import warnings

import pytest
from support.helpers import run, turns, until


async def test_arguments_and_result_are_passed_on():
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, divmod, 17, 5) == (3, 2)


async def test_function_runs_in_another_thread():
    assert (
        await asyncio.get_running_loop().run_in_executor(None, threading.get_ident) != threading.get_ident()
    )


async def test_exceptions_are_passed_on():
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(None, divmod, 1, 0)


async def test_the_callers_own_executor_can_be_used():
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        name = await asyncio.get_running_loop().run_in_executor(
            executor, lambda: threading.current_thread().name
        )
    assert name.startswith("mine")


async def test_to_thread_carries_context_variables():
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)
    variable.set(5)
    assert await asyncio.to_thread(variable.get) == 5


async def test_many_calls_at_once_all_return():
    loop = asyncio.get_running_loop()
    answers = await asyncio.gather(*(loop.run_in_executor(None, abs, -number) for number in range(300)))
    assert answers == list(range(300))


async def test_cancelling_the_future_leaves_the_loop_usable():
    release = threading.Event()
    loop = asyncio.get_running_loop()
    future = loop.run_in_executor(None, release.wait, 10)
    await turns(2)
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future
    release.set()
    assert await loop.run_in_executor(None, abs, -1) == 1


def test_shutdown_default_executor_joins_its_threads(loop):
    threads = []
    run(loop, loop.run_in_executor(None, lambda: threads.append(threading.current_thread())))
    run(loop, loop.shutdown_default_executor())
    assert not threads[0].is_alive()
    with pytest.raises(RuntimeError, match="shut"):
        run(loop, _use_executor(loop))


async def _use_executor(loop):
    return await loop.run_in_executor(None, abs, 1)


def test_close_shuts_the_default_executor_down(loop):
    executor = concurrent.futures.ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    run(loop, _use_executor(loop))
    loop.close()
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)


def test_the_default_executor_must_be_a_thread_pool(loop):
    with pytest.raises(TypeError):
        loop.set_default_executor(object())


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the timeout is new, and in early 3.12 without effect")
def test_shutdown_warns_when_its_timeout_expires(loop):
    release = threading.Event()

    async def main():
        waiting = loop.run_in_executor(None, release.wait, 10)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            await loop.shutdown_default_executor(timeout=0.01)
        release.set()
        assert [entry.category for entry in seen] == [RuntimeWarning]
        await waiting
        await until(
            lambda: threading.active_count() == 1
        )  # the thread that shuts down still has a call to make
        await turns(2)

    run(loop, main())


async def test_coroutine_functions_are_refused_in_debug_mode():
    loop = asyncio.get_running_loop()

    async def coroutine():
        pass

    loop.set_debug(True)
    try:
        with pytest.raises(TypeError):
            await loop.run_in_executor(None, coroutine)
    finally:
        loop.set_debug(False)
