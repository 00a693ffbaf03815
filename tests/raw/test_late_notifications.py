"""Zero-copy sends in chains: their notifications may be late, after the chain has failed or the loop is closed."""

import asyncio
import errno
import gc
import weakref

import pytest
from support.helpers import turns

from uringloop.liburing import ffi, lib

from .common import NOP, Buffer


def failing_chain(loop, sock, position=1):
    """A zero-copy send after a read that fails; the kernel completes it, and still sends a notification."""
    send = (lib.io_uring_prep_send_zc, sock.fileno(), ffi.from_buffer(Buffer(4)), 4, 0, 0)
    read = (lib.io_uring_prep_read, -1, ffi.from_buffer(Buffer(4)), 4, 0)
    return loop.add_sqes([read, *[(NOP,)] * (position - 1), send])


@pytest.mark.parametrize("position", [1, 2, 5])
async def test_a_zero_copy_send_after_a_failed_link_completes_once(sockets, position):
    loop = asyncio.get_running_loop()
    before = loop.statistics()["in_flight"]
    for _ in range(20):
        ends = await asyncio.gather(*failing_chain(loop, sockets[1], position), return_exceptions=True)
        assert [error.errno for error in ends] == [errno.EBADF, *[errno.ECANCELED] * position]
    await turns(3)
    assert loop.statistics()["in_flight"] == before


async def test_memory_of_such_a_send_is_released_at_its_end(sockets):
    loop = asyncio.get_running_loop()
    memory = Buffer(4)
    watched = weakref.ref(memory)
    send = (lib.io_uring_prep_send_zc, sockets[1].fileno(), ffi.from_buffer(memory), 4, 0, 0)
    requests = loop.add_sqes([(lib.io_uring_prep_read, -1, ffi.NULL, 0, 0), send])
    del memory, send
    await asyncio.gather(*requests, return_exceptions=True)
    del requests
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("how", ["before the first run", "after its end"])
def test_a_loop_may_close_before_the_notification(new_loop, sockets, how):
    """The next loop, which may get the same ring, does not get it."""
    loop = new_loop()
    if how == "before the first run":
        requests = failing_chain(loop, sockets[1])
    else:

        async def make():
            requests = failing_chain(loop, sockets[1])
            await asyncio.gather(requests[0], return_exceptions=True)
            return requests

        requests = loop.run_until_complete(make())
    loop.close()
    assert all(request.done() and request.cqe.res < 0 for request in requests)
    for _ in range(3):
        loop = new_loop()

        async def nops(loop=loop):
            await asyncio.gather(*[loop.add_sqe(NOP) for _ in range(50)])

        loop.run_until_complete(nops())
        loop.close()


async def test_a_zero_copy_send_may_succeed_in_a_chain(sockets):
    loop = asyncio.get_running_loop()
    data = ffi.from_buffer(b"data")
    requests = loop.add_sqes(
        [(NOP,), (lib.io_uring_prep_send_zc, sockets[1].fileno(), data, 4, 0, 0), (NOP,)]
    )
    ends = await asyncio.gather(*requests, return_exceptions=True)
    if isinstance(ends[1], OSError):
        assert ends[1].errno == errno.EOPNOTSUPP  # UNIX sockets have none
    else:
        assert ends == [0, 4, 0]
