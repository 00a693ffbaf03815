"""Raw requests of loops that move between threads, or whose process forks."""

import asyncio
import gc
import os
import threading

import pytest
from support.helpers import make_loop

from .common import NOP, poll_of


def test_a_loop_with_requests_in_flight_stays_in_its_thread(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    errors = []

    def run():
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "RawRequest" in errors[0]
    gc.collect()
    os.write(pipe[1], b"x")

    async def finish():
        return await request

    assert loop.run_until_complete(finish()) == 1
    loop.close()


def test_requests_made_in_one_thread_complete_in_the_first_run_in_another():
    """Even if the thread that makes them has a spare ring of an earlier loop, which it owns forever."""
    make_loop("io_uring").close()
    warm = make_loop("io_uring")
    warm.run_until_complete(asyncio.sleep(0))
    warm.close()
    loop = make_loop("io_uring")
    requests = [loop.add_sqe(NOP) for _ in range(600)]
    results = []

    async def finish():
        for request in requests:
            results.append(await request)

    thread = threading.Thread(target=lambda: loop.run_until_complete(finish()))
    thread.start()
    thread.join()
    assert results == [0] * 600
    loop.close()


def test_requests_survive_between_runs_in_a_worker_thread(pipe):
    results = []

    def work():
        loop = make_loop("io_uring")
        request = poll_of(loop, pipe[0])
        loop.run_until_complete(asyncio.sleep(0))
        os.write(pipe[1], b"x")

        async def finish():
            results.append(await request)

        loop.run_until_complete(finish())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [1]


# Since Python 3.15 os.fork() counts faulthandler's watchdog as a thread, too.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_child_leaves_the_requests_to_the_parent(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.run_until_complete(asyncio.sleep(0))
    pid = os.fork()
    if pid == 0:
        try:
            request.cancel()
            loop.add_sqe(NOP)
        except RuntimeError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(pipe[1], b"x")

    async def finish():
        return await request

    assert loop.run_until_complete(finish()) == 1
    loop.close()
