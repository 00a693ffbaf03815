"""Protocols whose methods change while the connection is open: each call looks up the current method."""

import asyncio

import pytest
from support.connections import KINDS
from support.helpers import BufferedRecorder, Recorder, open_transport, turns, until

from ..tls.test_tls_by_hand import secured


def spy(protocol, name):
    """Replace one method of this protocol by one that records the call as "new" and calls the original."""
    was = getattr(protocol, name)

    def new(*arguments):
        protocol.calls.append(f"new {name}")
        return was(*arguments)

    setattr(protocol, name, new)


@KINDS
async def test_a_replaced_data_received_gets_the_next_data(kind):
    async with open_transport(kind=kind) as (_transport, protocol, peer):
        peer.send(b"a")
        await protocol.received(1)
        spy(protocol, "data_received")
        peer.send(b"b")
        assert await protocol.received(2) == b"ab"
        del protocol.data_received
        peer.send(b"c")
        assert await protocol.received(3) == b"abc"
        assert protocol.calls == [
            "connection_made",
            "data_received",
            "new data_received",
            "data_received",
            "data_received",
        ]


@KINDS
async def test_a_data_received_replaced_on_the_class_gets_the_next_data(kind):
    class Changing(Recorder):
        pass

    async with open_transport(Changing(), kind=kind) as (_transport, protocol, peer):
        peer.send(b"a")
        await protocol.received(1)

        def new(self, data):
            self.calls.append("new")
            Recorder.data_received(self, data)

        Changing.data_received = new
        peer.send(b"b")
        assert await protocol.received(2) == b"ab"
        assert protocol.calls == ["connection_made", "data_received", "new", "data_received"]


@pytest.mark.parametrize("name", ["get_buffer", "buffer_updated"])
async def test_replaced_methods_of_a_buffered_protocol_get_the_next_data(name):
    async with open_transport(BufferedRecorder()) as (_transport, protocol, peer):
        peer.send(b"a")
        await protocol.received(1)
        assert f"new {name}" not in protocol.calls
        spy(protocol, name)
        peer.send(b"b")
        assert await protocol.received(2) == b"ab"
        assert f"new {name}" in protocol.calls


@pytest.mark.parametrize("name", ["eof_received", "connection_lost"])
async def test_replaced_methods_are_called_at_the_end(name):
    async with open_transport() as (_transport, protocol, peer):
        spy(protocol, name)
        peer.close()
        await protocol.lost.wait()
        assert protocol.calls.count(f"new {name}") == 1


@pytest.mark.expects_loop_errors
async def test_a_protocol_without_data_received_loses_the_connection_when_data_arrives(loop_errors):
    class WithoutDataReceived(asyncio.BaseProtocol):
        def connection_made(self, transport):
            self.lost = asyncio.Event()
            self.transport = transport

        def connection_lost(self, error):
            self.error = error
            self.lost.set()

    async with open_transport(WithoutDataReceived()) as (_transport, protocol, peer):
        peer.send(b"a")
        await protocol.lost.wait()
        assert isinstance(protocol.error, AttributeError)
        assert [context["message"] for context in loop_errors] == [
            "Fatal error: protocol.data_received() call failed."
        ]


async def test_a_replaced_data_received_gets_the_next_plaintext():
    async with secured(Recorder()) as (_transport, protocol, peer):
        await peer.write(b"a")
        await protocol.received(1)
        spy(protocol, "data_received")
        await peer.write(b"b")
        assert await protocol.received(2) == b"ab"
        assert protocol.calls == ["connection_made", "data_received", "new data_received", "data_received"]


async def test_a_protocol_that_is_replaced_while_reading_is_paused_gets_no_plaintext_before_it_resumes():
    """The rest of the decrypted data waits, whatever kind of protocol will get it."""
    successor = Recorder()

    class Replaced(BufferedRecorder):
        def get_buffer(self, size_hint):
            return memoryview(super().get_buffer(size_hint))

        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.pause_reading()
            self.transport.set_protocol(successor)

    replaced = Replaced(4)
    replaced.lost = successor.lost
    async with secured(replaced) as (transport, _protocol, peer):
        replaced.transport = transport
        await peer.write(b"0123456789")
        await until(lambda: replaced.data == b"0123")
        await turns(3)
        assert successor.calls == []
        transport.resume_reading()
        assert await successor.received(6) == b"456789"
