"""Closing a loop that has raw requests; threads and forks."""

import asyncio
import errno
import gc
import os
import threading
import weakref

import pytest
from support.helpers import make_loop

from uringloop.liburing import ffi, lib

from .common import NOP, Buffer, poll_of

# -- closing the loop --------------------------------------------------------------------------------------


def test_close_delivers_what_is_pending_as_cancelled(pipe):
    loop = make_loop("io_uring")
    seen = []
    buffer = Buffer(4)
    request = loop.add_sqe(lib.io_uring_prep_read, pipe[0], ffi.from_buffer(buffer), 4, 0)
    poll_of(loop, pipe[0], callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert request.done()
    assert request.cqe.res == -errno.ECANCELED
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]
    watched = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert watched() is None


def test_close_of_a_loop_that_never_ran_delivers_too():
    loop = make_loop("io_uring")
    seen = []
    for _ in range(600):
        loop.add_sqe(NOP, callback=seen.append)
    loop.close()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED] * 600


def test_completions_that_were_harvested_are_delivered_at_close():
    loop = make_loop("io_uring")
    seen = []
    loop.add_sqe(NOP, callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()  # submits, and has no turn left to deliver
    loop.close()
    assert [cqe.res for cqe in seen] in ([0], [-errno.ECANCELED])


def test_a_callback_that_raises_at_close_hides_no_other(pipe):
    loop = make_loop("io_uring")
    seen = []

    def interrupt(cqe):
        seen.append(cqe)
        raise KeyboardInterrupt

    poll_of(loop, pipe[0], callback=interrupt)
    poll_of(loop, pipe[0], callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert loop.is_closed()
    assert len(seen) == 2


def test_a_callback_at_close_cannot_make_requests(pipe):
    loop = make_loop("io_uring")
    errors = []

    def again(cqe):
        try:
            loop.add_sqe(NOP)
        except RuntimeError as error:
            errors.append(str(error))

    poll_of(loop, pipe[0], callback=again)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert errors == ["Event loop is closed"]


def test_close_in_another_thread_delivers(pipe):
    seen = []
    made = []

    def work():
        loop = make_loop("io_uring")
        made.append(loop)
        poll_of(loop, pipe[0], callback=seen.append)
        loop.call_soon(loop.stop)
        loop.run_forever()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    made[0].close()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_forgotten_loop_with_requests_goes(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    watched = weakref.ref(loop)
    del loop, request
    gc.collect()
    assert watched() is None


# -- threads and forks ----------------------------------------------------------------------------------------


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


def test_requests_made_in_one_thread_before_the_first_run_in_another():
    """Also when the maker's thread has a spare ring of an earlier loop, which it owns for ever."""
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


# From Python 3.15 on os.fork() counts faulthandler's watchdog as a thread, too.
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
