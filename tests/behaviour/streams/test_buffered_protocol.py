"""BufferedProtocol: the protocol owns the buffer."""

import asyncio
import os

import pytest
from support.connections import KINDS
from support.helpers import BufferedRecorder, Recorder, open_transport, pattern, turns


@KINDS
async def test_data_arrives_in_the_protocols_buffer(kind):
    async with open_transport(BufferedRecorder(), kind=kind) as (_transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.received(5) == b"hello"
        assert protocol.calls == ["connection_made", "buffer_updated"]


@KINDS
async def test_a_buffer_of_one_byte_works(kind):
    async with open_transport(BufferedRecorder(1), kind=kind) as (_transport, protocol, peer):
        peer.send(b"hello")
        assert await protocol.received(5) == b"hello"
        assert protocol.calls.count("buffer_updated") == 5


@KINDS
@pytest.mark.parametrize("size", [1000, 65_536, 1 << 20])
async def test_large_data_arrives_whole_whatever_the_buffers_size(kind, size):
    data = pattern(1_000_000)
    async with open_transport(BufferedRecorder(size), kind=kind) as (_transport, protocol, peer):
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(peer, data))
        assert await protocol.received(len(data)) == data
        await sending


async def test_end_of_stream_is_reported():
    async with open_transport(BufferedRecorder()) as (_transport, protocol, peer):
        peer.send(b"x")
        peer.close()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "buffer_updated", "eof_received", "connection_lost"]
        assert protocol.error is None


async def test_a_buffer_may_be_a_different_one_each_time():
    class Changing(BufferedRecorder):
        def get_buffer(self, size_hint):
            self.buffer = bytearray(os.urandom(1)[0] + 1)
            return memoryview(self.buffer)

    async with open_transport(Changing()) as (_transport, protocol, peer):
        data = pattern(50_000)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(peer, data))
        assert await protocol.received(len(data)) == data
        await sending


class WithAClass:
    """A proxy: all it has in common with BufferedProtocol is what `__class__` says."""

    def __init__(self, protocol):
        self.protocol = protocol

    @property
    def __class__(self):
        return asyncio.BufferedProtocol

    def __getattr__(self, name):
        return getattr(self.protocol, name)


class Answering(WithAClass):
    __class__ = object

    def __getattribute__(self, name):
        return asyncio.BufferedProtocol if name == "__class__" else super().__getattribute__(name)


@KINDS
@pytest.mark.parametrize("proxy", [WithAClass, Answering])
async def test_a_proxy_that_says_it_is_one_is_one(kind, proxy):
    recorder = BufferedRecorder()
    async with open_transport(proxy(recorder), kind=kind) as (_transport, _, peer):
        peer.send(b"hello")
        assert await recorder.received(5) == b"hello"
        assert recorder.calls == ["connection_made", "buffer_updated"]


@pytest.mark.parametrize("buffer", [b"", bytearray(), None, 5])
async def test_a_bad_buffer_closes_the_connection_and_is_reported(buffer):
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(type(context["exception"])))

    class Bad(BufferedRecorder):
        def get_buffer(self, size_hint):
            return buffer

    async with open_transport(Bad()) as (_transport, protocol, peer):
        peer.send(b"x")
        await protocol.lost.wait()
        assert len(seen) == 1
        assert isinstance(protocol.error, seen[0])
        assert "buffer_updated" not in protocol.calls


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
async def test_exceptions_in_the_protocol_close_the_connection_and_are_reported(method):
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(type(context["exception"])))

    def fail(*_args):
        raise ZeroDivisionError

    protocol = BufferedRecorder()
    setattr(protocol, method, fail)
    async with open_transport(protocol) as (_transport, protocol, peer):
        peer.send(b"x")
        await protocol.lost.wait()
        assert seen == [ZeroDivisionError]
        assert isinstance(protocol.error, ZeroDivisionError)


async def test_get_buffer_is_not_called_while_paused():
    async with open_transport(BufferedRecorder()) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"x")
        await turns(5)
        assert protocol.data == b""
        assert "buffer_updated" not in protocol.calls
        transport.resume_reading()
        assert await protocol.received(1) == b"x"


async def test_the_protocol_can_change_from_plain_to_buffered_and_back():
    first = Recorder()
    async with open_transport(first) as (transport, _, peer):
        peer.send(b"plain")
        await first.received(5)
        second = BufferedRecorder()
        transport.set_protocol(second)
        peer.send(b"buffered")
        assert await second.received(8) == b"buffered"
        third = Recorder()
        transport.set_protocol(third)
        peer.send(b"plain again")
        assert await third.received(11) == b"plain again"
        transport.set_protocol(first)


async def test_the_protocols_buffer_is_not_held_when_nothing_is_read():
    """bytearray.extend raises BufferError while the transport, or the kernel, holds the buffer."""
    async with open_transport(BufferedRecorder(100)) as (_transport, protocol, peer):
        peer.send(b"x")
        await protocol.received(1)
        await turns(3)
        protocol.buffer.extend(b"larger")
        peer.send(b"y")
        assert await protocol.received(2) == b"xy"


async def test_pause_inside_buffer_updated_stops_the_next_delivery():
    class Pausing(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()

    async with open_transport(Pausing(10)) as (transport, protocol, peer):
        peer.send(b"0123456789" * 3)
        await protocol.received(10)
        for expected in (10, 20, 30):
            await turns(5)
            assert len(protocol.data) == expected
            transport.resume_reading()
            await protocol.received(min(expected + 10, 30))
        assert protocol.data == b"0123456789" * 3
