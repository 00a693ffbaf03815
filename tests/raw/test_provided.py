"""Provided buffers: their memory lives as long as the kernel may write to it."""

import asyncio
import errno
import gc
import os
import weakref

import pytest
from support.helpers import make_loop, until

from uringloop.liburing import ffi, lib

from .common import Buffer

SIZE = 16


def provide(loop, group, count, first_id=0, keepalive=None):
    """(the request, a weak reference to the memory), which nothing here keeps alive."""
    memory = Buffer(SIZE * count)
    request = loop.add_sqe(
        lib.io_uring_prep_provide_buffers,
        ffi.from_buffer(memory),
        SIZE,
        count,
        group,
        first_id,
        keepalive=keepalive,
    )
    return request, weakref.ref(memory)


def receive(loop, sock, group, **kwargs):
    def prep(sqe):
        lib.io_uring_prep_recv(sqe, sock.fileno(), ffi.NULL, SIZE, 0)
        sqe.flags |= lib.IOSQE_BUFFER_SELECT
        sqe.buf_group = group

    return loop.add_sqe(prep, **kwargs)


async def test_provided_memory_outlives_its_request(sockets):
    """The kernel writes to it when it selects it, even if the program has released it meanwhile."""
    loop = asyncio.get_running_loop()
    request, memory = provide(loop, 3, 1)
    assert await request == 0
    del request
    gc.collect()
    assert memory() is not None
    sockets[1].send(b"x")
    request = receive(loop, sockets[0], 3)
    kept = memory()
    assert await request == 1
    assert request.cqe.buffer_id == 0
    assert kept[:1] == b"x"
    del kept
    gc.collect()
    assert memory() is None  # its only buffer was used


async def test_each_buffer_keeps_all_of_its_memory(sockets):
    loop = asyncio.get_running_loop()
    request, memory = provide(loop, 3, 3, first_id=7)
    await request
    del request
    for number in range(3):
        gc.collect()
        assert memory() is not None
        sockets[1].send(b"x")
        request = receive(loop, sockets[0], 3)
        assert await request == 1
        assert request.cqe.buffer_id == 7 + number
    gc.collect()
    assert memory() is None


async def test_a_keepalive_lives_as_long_as_the_buffers(sockets):
    loop = asyncio.get_running_loop()
    more = Buffer(1)
    watched = weakref.ref(more)
    request, _ = provide(loop, 3, 1, keepalive=more)
    await request
    del request, more
    gc.collect()
    assert watched() is not None
    assert await loop.add_sqe(lib.io_uring_prep_remove_buffers, 1, 3) == 1
    gc.collect()
    assert watched() is None


async def test_memory_is_released_when_its_group_is_empty():
    loop = asyncio.get_running_loop()
    first, first_memory = provide(loop, 3, 2)
    second, second_memory = provide(loop, 3, 2, first_id=2)
    other, other_memory = provide(loop, 4, 1)
    await asyncio.gather(first, second, other)
    del first, second, other
    assert await loop.add_sqe(lib.io_uring_prep_remove_buffers, 3, 3) == 3
    gc.collect()
    assert second_memory() is not None  # the kernel has one of its buffers
    assert await loop.add_sqe(lib.io_uring_prep_remove_buffers, 100, 3) == 1
    gc.collect()
    assert (first_memory(), second_memory()) == (None, None)
    assert other_memory() is not None


async def test_the_same_id_provided_twice_is_two_buffers(sockets):
    loop = asyncio.get_running_loop()
    first, first_memory = provide(loop, 3, 1)
    second, second_memory = provide(loop, 3, 1)
    await asyncio.gather(first, second)
    del first, second
    for left in (1, 0):
        sockets[1].send(b"x")
        request = receive(loop, sockets[0], 3)
        assert await request == 1
        del request
        gc.collect()
        assert (first_memory() is not None, second_memory() is not None) == (left, left)


async def test_a_refused_provide_keeps_nothing():
    loop = asyncio.get_running_loop()
    memory = Buffer(2 * SIZE)
    watched = weakref.ref(memory)
    with pytest.raises(OSError):
        await loop.add_sqe(
            lib.io_uring_prep_provide_buffers, ffi.from_buffer(memory), SIZE, 2, 3, 65535
        )  # ids end at 65535
    del memory
    gc.collect()
    assert watched() is None


async def test_a_multishot_receive_uses_up_the_buffers(sockets):
    loop = asyncio.get_running_loop()
    request, memory = provide(loop, 3, 2)
    await request
    del request

    def prep(sqe):
        lib.io_uring_prep_recv_multishot(sqe, sockets[0].fileno(), ffi.NULL, 0, 0)
        sqe.flags |= lib.IOSQE_BUFFER_SELECT
        sqe.buf_group = 3

    seen = []
    receives = loop.add_sqe(prep, multishot=True, callback=seen.append)
    for count in (1, 2):
        gc.collect()
        assert memory() is not None
        sockets[1].send(b"x")
        # before Linux 6.10 or so the want of a third buffer is reported with the second message already
        await until(lambda count=count: sum(one.res == 1 for one in seen) == count)
    gc.collect()
    assert memory() is None
    sockets[1].send(b"x")
    await until(receives.done)
    assert seen[-1].res == -errno.ENOBUFS


def test_buffers_do_not_reach_the_next_loop(new_loop, sockets):
    """A ring is passed on to the next loop, with everything that is registered there."""
    loop = new_loop()

    async def lend():
        request, memory = provide(loop, 3, 4)
        await request
        return memory

    memory = loop.run_until_complete(lend())
    assert memory() is not None
    loop.close()
    gc.collect()
    assert memory() is None
    loop = new_loop()
    sockets[1].send(b"x")

    async def receive_one():
        return await asyncio.gather(receive(loop, sockets[0], 3), return_exceptions=True)

    (error,) = loop.run_until_complete(receive_one())
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOBUFS


def test_provided_memory_is_released_when_the_loop_closes(new_loop):
    """Their request is harvested, and the ring closed, before the completion is delivered."""
    loop = new_loop()
    request, memory = provide(loop, 3, 4)
    loop.close()
    assert request.done()
    del request
    gc.collect()
    assert memory() is None


def test_closed_loops_with_provided_buffers_leave_no_fd(new_loop, sockets):
    """Rings with provided buffers are closed, and not kept for later loops."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        loop = make_loop("io_uring")
        request, _ = provide(loop, 3, 1)
        loop.close()
        assert request.done()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
