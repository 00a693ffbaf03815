"""Sockets with record boundaries (SOCK_SEQPACKET): one write is one record, one record is one data_received."""

import asyncio
import contextlib
import socket

import pytest
from support.helpers import STOCK, Recorder, abort, connect_unshared, fill, monitor_of, pattern, turns, until


class Pieces(Recorder):
    def __init__(self):
        super().__init__()
        self.pieces = []

    def data_received(self, data):
        self.pieces.append(data)


@contextlib.asynccontextmanager
async def records():
    near, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.setblocking(False)
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Pieces, near)
    try:
        yield transport, protocol, peer
    finally:
        peer.close()
        await abort(protocol)


def received(peer):
    got = []
    with contextlib.suppress(BlockingIOError):
        while True:
            got.append(peer.recv(1 << 20))
    return got


async def test_writes_of_one_turn_are_separate_records():
    async with records() as (transport, _protocol, peer):
        for number in range(5):
            transport.write(b"%d" % number)
        await turns(2)
        assert received(peer) == [b"0", b"1", b"2", b"3", b"4"]


async def test_writelines_is_one_record():
    async with records() as (transport, _protocol, peer):
        transport.write(b"before")
        transport.writelines([b"one", b"", bytearray(b"two"), memoryview(b"three")])
        transport.write(b"after")
        await turns(2)
        assert received(peer) == [b"before", b"onetwothree", b"after"]


async def test_writelines_of_more_pieces_than_iov_max_is_one_record():
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("since Python 3.12 stock asyncio sends a record for every 1024 pieces")
    async with records() as (transport, _protocol, peer):
        transport.writelines([b"%04d" % number for number in range(3000)])
        await turns(2)
        assert received(peer) == [b"".join(b"%04d" % number for number in range(3000))]


async def test_records_that_wait_for_room_stay_separate():
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("stock asyncio joins what it cannot send at once")
    async with records() as (transport, _protocol, peer):
        fill(transport.get_extra_info("socket")._sock)
        expected = [pattern(1000 + number) for number in range(100)]
        for record in expected:
            transport.write(record)
        assert transport.get_write_buffer_size()
        got = []

        def have_all_arrived():
            got.extend(received(peer))
            return got[-1:] == expected[-1:]

        await until(have_all_arrived)
        assert got[-100:] == expected


async def test_a_record_too_long_for_the_socket_ends_the_connection_as_in_asyncio():
    async with records() as (transport, protocol, _peer):
        transport.write(bytes(10_000_000))
        await protocol.lost.wait()
        assert isinstance(protocol.error, OSError)


async def test_each_record_is_received_separately_and_whole():
    """Records of all sizes follow each other: no read is smaller because the previous one was."""
    async with records() as (_transport, protocol, peer):
        sent = [
            b"a",
            pattern(100_000),
            b"b" * 9000,
            pattern(120_000),
            b"c",
            pattern(65_537),
            pattern(150_000),
        ]
        for one in sent:
            peer.send(one)
            await until(lambda: len(protocol.pieces) and protocol.pieces[-1] == one)  # noqa: B023
        peer.send(b"x")
        peer.send(b"y")
        await until(lambda: len(protocol.pieces) == len(sent) + 2)
        assert protocol.pieces == [*sent, b"x", b"y"]


async def test_records_stay_separate_after_a_pause():
    async with records() as (transport, protocol, peer):
        transport.pause_reading()
        for number in range(10):
            peer.send(b"%d" % number)
        await turns(3)
        transport.resume_reading()
        await until(lambda: len(protocol.pieces) == 10)
        assert protocol.pieces == [b"%d" % number for number in range(10)]
