"""The kernel ends a read early at urgent data and at passed fds; nothing stays undelivered."""

import array
import os
import socket

import pytest
from support.helpers import (
    BufferedRecorder,
    Recorder,
    open_transport,
    pattern,
    reset_on_close,
    run,
    turns,
    until,
)

SIZES = [100, 13_000, 20_000, 60_000]


async def warm_up(protocol, peer, size):
    """Large chunks in a row change how an io_uring loop reads."""
    for count in range(1, 9):
        await send_all(peer, bytes(size))
        await until(lambda count=count: len(protocol.data) == count * size)
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
def test_urgent_data_does_not_delay_the_data_that_follows(loop, size, make):
    async def main():
        async with open_transport(make()) as (_, protocol, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * size)
            await warm_up(protocol, peer, size)
            for _ in range(6):
                protocol.data.clear()
                # without a turn in between: the loop reads after all of it has arrived
                peer.send(pattern(size))
                peer.send(b"!", socket.MSG_OOB)
                peer.send(pattern(size))
                await until(lambda: len(protocol.data) >= 2 * size)
                assert bytes(protocol.data) == 2 * pattern(size)

    run(loop, main())


@pytest.mark.parametrize("size", SIZES)
def test_two_urgent_bytes_in_a_row_delay_nothing(loop, size):
    """An io_uring loop finds data after the first byte late, in its sweep; from then on it checks after each read."""

    async def main():
        async with open_transport() as (_, protocol, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * size)
            await warm_up(protocol, peer, size)
            for _ in range(2):
                peer.send(pattern(size))
                peer.send(b"!", socket.MSG_OOB)
            peer.send(pattern(size))
            # by then the first urgent byte is ordinary data, unless it was already skipped
            expected = (3 * pattern(size), pattern(size) + b"!" + 2 * pattern(size))
            await until(lambda: bytes(protocol.data) in expected)
            n_late = 0
            for _ in range(4):
                protocol.data.clear()
                peer.send(pattern(size))
                peer.send(b"!", socket.MSG_OOB)
                peer.send(pattern(size))
                await turns(20)  # no time for a sweep
                n_late += bytes(protocol.data) != 2 * pattern(size)
                await until(lambda: bytes(protocol.data) == 2 * pattern(size))
            # not always before: with the small buffers of Linux before 6.12 the data of one turn took several reads
            assert n_late <= 1

    run(loop, main())


@pytest.mark.parametrize("size", SIZES)
def test_passed_fds_do_not_delay_the_data_that_follows(loop, size):
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


def test_a_programs_own_recvmsg_returns_only_data(loop):
    """However the loop has read from the socket before, recvmsg(2) returns no ancillary data to the program."""

    async def main():
        async with open_transport() as (transport, protocol, peer):
            await warm_up(protocol, peer, 13_000)
            transport.pause_reading()
            with transport.get_extra_info("socket").dup() as duplicate:
                await turns(3)
                peer.send(b"hello")
                assert duplicate.recvmsg(100, 100)[:3] == (b"hello", [], 0)
            transport.resume_reading()
            await send_all(peer, pattern(60_000))
            await until(lambda: len(protocol.data) == 60_000)
            assert bytes(protocol.data) == pattern(60_000)

    run(loop, main())


@pytest.mark.parametrize("ends", ["eof", "urgent and eof", "reset"])
@pytest.mark.parametrize("size", SIZES)
def test_an_end_in_the_callback_of_the_last_data_is_seen(loop, size, ends):
    class Ended(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.data) == size and self.armed:
                if ends == "urgent and eof":
                    peer.send(b"!", socket.MSG_OOB)
                if ends == "reset":
                    reset_on_close(peer)
                peer.close()

        armed = False

    async def main():
        nonlocal peer
        async with open_transport(Ended()) as (_, protocol, peer):
            await warm_up(protocol, peer, size)
            protocol.armed = True
            await send_all(peer, pattern(size))
            await until(protocol.lost.is_set)
            assert bytes(protocol.data) == pattern(size)

    peer = None
    run(loop, main())
