"""The kernel ends a read before everything is read: at urgent data, and at passed fds.  Nothing stays undelivered."""

import array
import os
import socket

import pytest
from helpers import BufferedRecorder, Recorder, open_transport, pattern, run, turns, until

SIZES = [100, 20_000, 60_000]


async def warm_up(protocol, peer, size):
    """Large chunks in a row change the way in which an io_uring loop reads."""
    for _ in range(8):
        await send_all(peer, bytes(size))
    await until(lambda: len(protocol.data) == 8 * size)
    await turns(3)
    protocol.data.clear()


async def send_all(peer, data):
    view = memoryview(data)

    def is_sent():
        nonlocal view
        try:
            view = view[peer.send(view) :]
        except BlockingIOError:
            return False
        return not view

    await until(is_sent)


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("size", SIZES)
def test_urgent_data_does_not_hold_up_what_follows(loop, size, make):
    async def main():
        async with open_transport(make()) as (_, protocol, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * size)
            await warm_up(protocol, peer, size)
            for _ in range(6):
                protocol.data.clear()
                # in one go: the loop reads when all of it is there
                peer.send(pattern(size))
                peer.send(b"!", socket.MSG_OOB)
                peer.send(pattern(size))
                await until(lambda: len(protocol.data) >= 2 * size)
                assert bytes(protocol.data) == 2 * pattern(size)

    run(loop, main())


@pytest.mark.parametrize("size", SIZES)
def test_passed_fds_do_not_hold_up_what_follows(loop, size):
    async def main():
        async with open_transport(kind="unix") as (_, protocol, peer):
            await warm_up(protocol, peer, size)
            fd = os.open("/dev/null", os.O_RDONLY)
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            try:
                for _ in range(6):
                    protocol.data.clear()
                    peer.send(pattern(size))
                    peer.sendmsg([pattern(size)], passed)
                    peer.send(pattern(size))
                    await until(lambda: len(protocol.data) >= 3 * size)
                    assert bytes(protocol.data) == 3 * pattern(size)
            finally:
                os.close(fd)

    run(loop, main())
