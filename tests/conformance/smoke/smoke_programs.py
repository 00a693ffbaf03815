"""Programs with loops: notebooks, threads, forks, signals, many children, many loops."""

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time

import conformance_loop
import pytest


@contextlib.contextmanager
def kernel():
    """A Jupyter kernel, as a function that runs a cell and returns its output or the name of its exception."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=50)

    def ask(code):
        texts = []

        def on_output(message):
            texts.append(message["content"].get("text", "") or message["content"].get("ename", ""))

        client.execute_interactive(code, timeout=30, output_hook=on_output)
        return "".join(texts).strip()

    try:
        yield ask
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_jupyter_kernel():
    """It runs code, supports await at top level, and runs on the loop under test."""
    with kernel() as ask:
        assert ask("print(6 * 7)") == "42"
        code = "import asyncio\nawait asyncio.sleep(0.05)\nprint(type(asyncio.get_running_loop()).__module__)"
        assert ask(code) == conformance_loop.target()[1].__module__


CELL = """
import asyncio
async def nested(level):
    await asyncio.sleep(0.01)
    return level if level == 0 else 1 + loop.run_until_complete(nested(level - 1))
async def tick():
    while True:
        ticks.append(len(ticks))
        await asyncio.sleep(0.001)
loop, ticks = asyncio.get_running_loop(), []
ticking = loop.create_task(tick())
print(loop.run_until_complete(nested(3)), len(ticks) > 3)
ticking.cancel()
"""


def test_cells_run_the_loop_of_their_kernel():
    """asyncio's loop has to be patched for this; uringloop's has a setting."""
    with kernel() as ask:
        assert "RuntimeError" in ask(CELL.replace("nested(3)", "asyncio.sleep(0)"))
        if conformance_loop.NAME != "asyncio":
            assert ask("loop.nested = True") == ""
            assert ask(CELL) == "3 True"
            assert ask("loop.nested = False") == ""
            assert ask("import uringloop\nuringloop.allow_nested()\nprint(asyncio.run(nested(2)))") == "2"
            assert ask("uringloop.disallow_nested()") == ""
        assert ask("import nest_asyncio2\nnest_asyncio2.apply()") == ""
        assert ask(CELL) == "3 True"
        assert ask("await asyncio.sleep(0.01)\nprint(await nested(1))") == "1"
        if conformance_loop.NAME != "asyncio":
            assert (
                ask("print(loop.nested, type(loop).run_forever is uringloop.Loop.run_forever)") == "True True"
            )


def test_a_loop_in_each_thread():
    loops = [asyncio.new_event_loop() for _ in range(4)]
    threads = [threading.Thread(target=loop.run_forever) for loop in loops]
    for thread in threads:
        thread.start()

    async def work(number):
        await asyncio.sleep(0.001)
        return number

    for number in range(400):
        assert asyncio.run_coroutine_threadsafe(work(number), loops[number % 4]).result(10) == number
    for loop, thread in zip(loops, threads, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert not thread.is_alive()
        loop.close()


def child(queue):
    async def main():
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('x')", stdout=pipe)
        return (await process.communicate())[0]

    queue.put(asyncio.run(main()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_its_own_loop():
    asyncio.run(asyncio.sleep(0.01))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=child, args=(queue,)) for _ in range(3)]
    for process in children:
        process.start()
    assert [queue.get(timeout=30) for _ in children] == [b"x\n"] * 3
    for process in children:
        process.join(10)
        assert process.exitcode == 0


def test_ctrl_c_cancels_the_main_task():
    seen = []

    async def main():
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert seen == ["cancelled"]
    assert time.monotonic() - started < 5


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_executors():
    async def main():
        loop, fork = asyncio.get_running_loop(), multiprocessing.get_context("fork")
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
            got = await asyncio.gather(*(loop.run_in_executor(pool, pow, 2, n) for n in range(20)))
        assert got == [2**n for n in range(20)]
        assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()

    asyncio.run(main())


def test_many_children():
    async def one():
        pipe, data = asyncio.subprocess.PIPE, os.urandom(200_000)
        process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
        assert (await process.communicate(data))[0] == data
        assert process.returncode == 0

    async def main():
        await asyncio.gather(*(one() for _ in range(25)))

    asyncio.run(main())


def test_many_loops_one_after_another_leave_no_file_descriptors():
    asyncio.run(asyncio.sleep(0))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(400):
        asyncio.run(asyncio.sleep(0))
    assert len(os.listdir("/proc/self/fd")) <= before + 3
