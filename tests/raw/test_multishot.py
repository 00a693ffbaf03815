"""Multishot requests: iterated, reported to a callback, closed, forgotten."""

import asyncio
import contextlib
import errno
import gc
import os
import socket
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.helpers import LINUX, make_loop, turns, until

from uringloop.liburing import ffi, lib

from .common import NOP, Buffer, accepts_of, open_fds, poll_of, polls_of

HAS_MULTISHOT_TIMEOUT = pytest.mark.skipif(LINUX < (6, 4), reason="multishot timeouts since Linux 6.4")


async def test_multishot_is_iterated_and_its_last_completion_has_no_more(pipe):
    loop = asyncio.get_running_loop()
    request = polls_of(loop, pipe[0])
    seen = []

    async def follow():
        async for cqe in request:
            seen.append(cqe)

    follower = asyncio.create_task(follow())
    await turns(2)
    for n in range(1, 4):
        os.write(pipe[1], b"x")
        await until(lambda n=n: len(seen) == n)
    assert request.cancel()
    await follower
    assert [cqe.more for cqe in seen] == [True, True, True, False]
    assert seen[-1].res == -errno.ECANCELED
    assert request.done()
    assert not request.cancel()


async def test_multishot_calls_its_callback_each_time():
    loop = asyncio.get_running_loop()
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        request = accepts_of(loop, listener, callback=seen.append)
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        await until(lambda: len(seen) == 3)
        request.cancel()
        await until(lambda: len(seen) == 4)
    assert [cqe.more for cqe in seen] == [True, True, True, False]
    for cqe in seen[:3]:
        os.close(cqe.res)


async def test_cancelling_the_iterating_task_cancels_the_request(pipe):
    loop = asyncio.get_running_loop()
    request = polls_of(loop, pipe[0])

    async def follow():
        async for _ in request:
            pass

    follower = asyncio.create_task(follow())
    await turns(2)
    follower.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower
    assert request.done()


@HAS_MULTISHOT_TIMEOUT
@pytest.mark.parametrize("every_ns", [1, 1_000, 10_000, 100_000])
async def test_aclose_ends_a_timeout_of_any_interval(pipe, every_ns):
    """The kernel can cancel it only between two ticks, some of them very short; other requests are not affected."""
    loop = asyncio.get_running_loop()
    other = polls_of(loop, pipe[0])
    every = ffi.new("struct __kernel_timespec *", {"tv_nsec": every_ns})
    ticks = loop.add_sqe(
        lib.io_uring_prep_timeout, every, 0, lib.IORING_TIMEOUT_MULTISHOT, multishot=True, keepalive=every
    )
    async with contextlib.aclosing(ticks):
        for _ in range(3):
            assert (await anext(ticks)).res == -errno.ETIME
    assert ticks.done()
    os.write(pipe[1], b"x")
    assert (await anext(other)).more
    await other.aclose()


@HAS_MULTISHOT_TIMEOUT
def test_a_short_timeout_does_not_outlive_its_loop(monitor):
    loop = make_loop(monitor)
    every = ffi.new("struct __kernel_timespec *", {"tv_nsec": 1})
    seen = []

    def report(cqe):
        seen.append(cqe)
        loop.stop()

    loop.add_sqe(
        lib.io_uring_prep_timeout, every, 0, lib.IORING_TIMEOUT_MULTISHOT, multishot=True, callback=report
    )
    loop.run_forever()
    loop.close()
    assert seen[0].more
    assert not seen[-1].more
    assert loop.statistics()["in_flight"] == 0


async def test_aclose_ends_a_multishot_request(pipe):
    loop = asyncio.get_running_loop()
    request = polls_of(loop, pipe[0])
    os.write(pipe[1], b"x")
    async with contextlib.aclosing(request):
        assert (await anext(request)).more
    assert request.done()


async def test_multishot_requests_are_iterated_and_others_awaited(pipe):
    loop = asyncio.get_running_loop()
    once = loop.add_sqe(NOP)
    with pytest.raises(TypeError, match="multishot=True"):
        async for _ in once:
            pass
    await once
    several = polls_of(loop, pipe[0])
    with pytest.raises(TypeError, match="async for"):
        await several
    await several.aclose()


async def test_aclose_ends_the_iteration_of_a_task(pipe):
    """Otherwise aclose() raises RuntimeError: "awaited already"."""
    loop = asyncio.get_running_loop()
    request = polls_of(loop, pipe[0])
    seen = []

    async def follow():
        async for cqe in request:
            seen.append(cqe)
        assert request.done()
        return "ended"

    follower = asyncio.create_task(follow())
    os.write(pipe[1], b"x")
    await until(lambda: len(seen) == 1)
    await request.aclose()
    assert request.done()
    assert await follower == "ended"
    assert len(seen) == 1
    await request.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(request)


async def test_aclose_closes_connections_that_the_task_has_not_retrieved():
    loop = asyncio.get_running_loop()
    before = open_fds()
    taken = []
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        request = accepts_of(loop, listener)

        async def accept():
            async for cqe in request:
                taken.append(cqe.res)
                await turns(20)

        acceptor = asyncio.create_task(accept())
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        await until(lambda: len(open_fds()) >= len(before) + 1 + 6 and taken)
        await request.aclose()
        await acceptor
        for fd in taken:
            os.close(fd)
    assert len(taken) == 1
    assert open_fds() == before


async def test_two_tasks_may_call_aclose_and_one_may_be_cancelled(pipe):
    loop = asyncio.get_running_loop()
    request = polls_of(loop, pipe[0])
    first = asyncio.create_task(request.aclose())
    second = asyncio.create_task(request.aclose())
    await turns(1)
    second.cancel()
    await turns(1)
    second.cancel()
    await first
    assert request.done()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_aclose_of_other_requests_cancels_and_waits(pipe):
    loop = asyncio.get_running_loop()
    seen = []
    reporting = poll_of(loop, pipe[0], callback=seen.append)
    await reporting.aclose()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]
    awaited = poll_of(loop, pipe[0])
    waiting = asyncio.ensure_future(awaited)
    await turns(2)
    await awaited.aclose()
    with pytest.raises(OSError) as caught:
        await waiting
    assert caught.value.errno == errno.ECANCELED


# Forgotten requests


async def test_an_accept_that_is_forgotten_after_break_stops_and_warns():
    """Otherwise it keeps accepting connections that nothing owns."""
    loop = asyncio.get_running_loop()
    before, in_flight = open_fds(), loop.statistics()["in_flight"]
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        stack.enter_context(socket.create_connection(listener.getsockname()))
        stack.enter_context(socket.create_connection(listener.getsockname()))

        async def take_one():
            async for cqe in accepts_of(loop, listener):
                return cqe.res

        with pytest.warns(ResourceWarning, match=r"unclosed <RawRequest ACCEPT.*aclosing"):
            os.close(await take_one())
        await until(lambda: loop.statistics()["in_flight"] == in_flight)
        with socket.create_connection(listener.getsockname()) as later:
            await turns(5)
            later.settimeout(0)
            with pytest.raises(BlockingIOError):
                later.recv(1)
            listener.settimeout(5)
            listener.accept()[0].close()  # it was in the backlog and had not been accepted
    assert open_fds() == before


async def test_memory_of_a_forgotten_request_is_kept_until_the_kernel_has_finished(pipe):
    loop = asyncio.get_running_loop()
    memory = Buffer(4)
    request = polls_of(loop, pipe[0], keepalive=memory)
    watched, watched_request = weakref.ref(memory), weakref.ref(request)
    await turns(2)
    held = [memory, request]
    del memory, request
    with pytest.warns(ResourceWarning):
        held.clear()
    gc.collect()
    assert watched() is not None
    await until(lambda: watched() is None)
    assert watched_request() is None


async def test_closed_or_cancelled_requests_are_forgotten_without_a_warning(pipe):
    loop = asyncio.get_running_loop()
    in_flight = loop.statistics()["in_flight"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        request = polls_of(loop, pipe[0])
        await request.aclose()
        request = polls_of(loop, pipe[0])
        request.cancel()
        request = None
        gc.collect()
        polls_of(loop, pipe[0], callback=lambda cqe: None).cancel()
        await until(lambda: loop.statistics()["in_flight"] == in_flight)
    assert caught == []


async def test_a_task_that_iterates_lives_without_other_references(pipe):
    """The request in flight holds the waiting task, as a watched socket does."""
    loop = asyncio.get_running_loop()
    seen = []

    async def follow():
        async for cqe in polls_of(loop, pipe[0]):
            seen.append(cqe)
            return

    loop.call_soon(loop.create_task, follow())
    await turns(3)
    gc.collect()
    os.write(pipe[1], b"x")
    with pytest.warns(ResourceWarning):
        await until(lambda: seen)
    await turns(3)


async def test_a_request_may_be_forgotten_in_another_thread(pipe):
    loop = asyncio.get_running_loop()
    in_flight = loop.statistics()["in_flight"]
    held = [polls_of(loop, pipe[0])]
    await turns(2)
    with ThreadPoolExecutor(1) as pool, pytest.warns(ResourceWarning):
        pool.submit(held.clear).result()
    await until(lambda: loop.statistics()["in_flight"] == in_flight)


async def test_a_request_may_be_forgotten_while_its_last_completion_is_queued(pipe):
    """Between harvest and dispatch only the queue refers to it."""
    loop = asyncio.get_running_loop()
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = [accepts_of(loop, listener)]
        await turns(2)
        with socket.create_connection(listener.getsockname()):
            held[0].cancel()
            # the first callback of a turn runs before the turn's completions are delivered
            loop.call_soon(held.clear)
            await turns(5)
            gc.collect()
    await until(lambda: open_fds() == before)


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed <RawRequest:ResourceWarning")
@pytest.mark.parametrize("has_run", [False, True])
def test_a_forgotten_loop_with_an_iterated_request_is_collected(pipe, has_run):
    loop = make_loop("io_uring")
    request = polls_of(loop, pipe[0])
    if has_run:
        loop.call_soon(loop.stop)
        loop.run_forever()
    loop.own = request  # a cycle
    watched = weakref.ref(loop), weakref.ref(request)
    del loop, request
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


@pytest.mark.parametrize("how", ["dropped before", "dropped after", "iterated"])
@pytest.mark.filterwarnings("ignore:unclosed <RawRequest:ResourceWarning")
def test_close_ends_iterated_requests(pipe, how):
    loop = make_loop("io_uring")
    request = polls_of(loop, pipe[0])
    watched = weakref.ref(request)
    loop.call_soon(loop.stop)
    loop.run_forever()
    if how == "dropped before":
        del request
        gc.collect()
        loop.close()
    else:
        loop.close()
        assert request.done()
        assert request.cqe.res == -errno.ECANCELED
        del request
    gc.collect()
    assert watched() is None
