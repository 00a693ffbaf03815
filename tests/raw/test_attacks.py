"""Regressions that attempts to break raw requests found."""

import asyncio
import contextlib
import errno
import gc
import os
import random
import socket
import threading

import pytest
from support.helpers import make_loop, turns, until

from uringloop.liburing import ffi, lib

from .common import NOP, accepts_of, open_fds, poll_of


def test_the_final_completion_may_arrive_in_a_nested_turn_of_the_same_requests_callback(loop, pipe):
    """Otherwise it crashes: the outer call uses the loop that the end has released."""
    seen = []

    def nest(cqe):
        seen.append(cqe.more)
        if cqe.more:
            request.cancel()
            while len(seen) < 2:
                loop.aio_context.poll(True)
            loop.stop()

    request = loop.add_sqe(lib.io_uring_prep_poll_multishot, pipe[0], 1, callback=nest, multishot=True)
    os.write(pipe[1], b"x")
    loop.run_forever()
    assert seen == [True, False]


def test_a_closed_context_refuses_requests():
    """Otherwise it crashes: the loop itself is not closed yet."""
    loop = make_loop("io_uring")
    loop.aio_context.close()
    for use in (lambda: loop.add_sqe(NOP), lambda: loop.add_sqes([(NOP,)]), lambda: loop.register_files(1)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            use()
    loop.close()


def test_close_ends_requests_that_a_hard_link_starts_meanwhile(pipe):
    """Otherwise close() waits for ten seconds and gives up."""
    loop = make_loop("io_uring")
    memory = bytearray(4)

    def read_hard(sqe):
        lib.io_uring_prep_read(sqe, pipe[0], ffi.from_buffer(memory), 4, 0)
        sqe.flags |= lib.IOSQE_IO_HARDLINK

    requests = loop.add_sqes([(read_hard,)] * 3, keepalive=memory)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert [request.cqe.res for request in requests] == [-errno.ECANCELED] * 3
    assert loop.statistics().leaked == 0


@pytest.mark.slow
def test_close_waits_for_any_number_of_requests(pipe):
    """The kernel completes about twenty at a time; with a fixed limit more than 20,000 would be leaked."""
    loop = make_loop("io_uring")
    requests = [poll_of(loop, pipe[0]) for _ in range(25_000)]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert {request.cqe.res for request in requests} == {-errno.ECANCELED}
    assert loop.statistics().leaked == 0


async def test_cancel_is_repeated_until_the_request_is_done(pipe):
    """The kernel does not find a request that a worker is taking over; a lost cancel would leave its task hanging."""
    loop = asyncio.get_running_loop()
    memory = bytearray(4)

    def read_by_worker(sqe):
        lib.io_uring_prep_read(sqe, pipe[0], ffi.from_buffer(memory), 4, 0)
        sqe.flags |= lib.IOSQE_ASYNC

    for _ in range(300):
        task = asyncio.ensure_future(loop.add_sqe(read_by_worker, keepalive=memory))
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)


async def test_throwing_into_a_second_await_does_not_affect_the_first(pipe):
    loop = asyncio.get_running_loop()
    request = poll_of(loop, pipe[0])
    first = asyncio.ensure_future(request)
    await turns(2)
    with pytest.raises(asyncio.CancelledError):
        request.__await__().throw(asyncio.CancelledError())
    os.write(pipe[1], b"x")
    assert await asyncio.wait_for(first, 10) == 1


def test_a_loop_with_closed_tables_can_move_to_another_thread():
    loop = make_loop("io_uring")
    loop.register_buffers([bytearray(4)]).close()
    loop.register_files(1).close()
    with pytest.raises(ValueError, match="no slots"):
        loop.register_files(0)
    loop.run_until_complete(asyncio.sleep(0))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.sleep(0)))
    thread.start()
    thread.join()
    loop.close()


def test_before_the_first_run_any_thread_may_make_requests():
    """Even if the loop has got a spare ring of the thread that made it."""
    warm = make_loop("io_uring")
    warm.run_until_complete(asyncio.sleep(0))
    warm.close()
    loop = make_loop("io_uring")
    requests = []
    thread = threading.Thread(target=lambda: requests.append(loop.add_sqe(NOP)))
    thread.start()
    thread.join()

    async def finish():
        return await requests[0]

    assert loop.run_until_complete(finish()) == 0
    loop.close()


async def test_a_message_to_a_duplicate_of_a_loops_ring_fd_is_refused():
    loop = asyncio.get_running_loop()
    copy = os.dup(loop._ring_pointer().ring_fd)
    try:
        with pytest.raises(ValueError, match="data 0"):
            loop.add_sqe(lib.io_uring_prep_msg_ring, copy, 0, 1234, 0)
    finally:
        os.close(copy)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed <RawRequest:ResourceWarning")
@pytest.mark.parametrize("seed", range(3))
async def test_accepts_end_however_they_are_abandoned(seed):
    """They are forgotten, cancelled, closed elsewhere, or all of it, while connections arrive: nothing is left."""
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    before, in_flight = open_fds(), loop.statistics()["in_flight"]
    listener = socket.create_server(("127.0.0.1", 0), backlog=500)

    async def accept(request):
        async for cqe in request:
            if cqe.res >= 0:
                os.close(cqe.res)
            await turns(1)

    async def abandon_one():
        request = accepts_of(loop, listener)
        how = chance.randrange(6)
        task = asyncio.create_task(accept(request)) if how else None
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            await turns(chance.randrange(4))
            if how in (1, 4):
                task.cancel()
            if how in (2, 4):
                await request.aclose()
            if how == 3:
                request.cancel()
            if how == 5:
                closing = asyncio.create_task(request.aclose())
                task.cancel()
                await closing
        request = None
        if task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    for _ in range(25):
        await asyncio.gather(*[abandon_one() for _ in range(40)])
    gc.collect()
    await until(lambda: loop.statistics()["in_flight"] <= in_flight)
    listener.close()
    await until(lambda: open_fds() == before)
