"""The contextvars.Context in which protocols, and the factories that make them, are called."""

import asyncio
import contextvars
import socket
import struct
import sys

import pytest
from support.helpers import client_tls, server_tls

place = contextvars.ContextVar("place", default="the loop's")


class Recording(asyncio.Protocol):
    """Records the value of `place` in each method."""

    def __init__(self):
        self.places = {"factory": place.get()}
        self.transport = None
        self.paused = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport
        self.places["connection_made"] = place.get()

    def data_received(self, data):
        self.places["data_received"] = place.get()

    def eof_received(self):
        self.places["eof_received"] = place.get()

    def pause_writing(self):
        self.paused.set()

    def resume_writing(self):
        self.places["resume_writing"] = place.get()

    def connection_lost(self, exc):
        self.places["connection_lost"] = place.get()
        self.lost.set()


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def connected(factory=Recording):
    """(protocol, its blocking peer)"""
    ours, peer = socket.socketpair()
    _, protocol = await asyncio.get_running_loop().create_connection(factory, sock=ours)
    return protocol, peer


# The loop of each test runs outside the test's task, in a context where `place` has its default value.


async def test_a_server_calls_in_the_context_that_created_it():
    place.set("created")
    loop, protocols = asyncio.get_running_loop(), []
    server = await loop.create_server(lambda: protocols.append(Recording()) or protocols[-1], "127.0.0.1", 0)
    place.set("later")
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    writer.write_eof()
    assert await reader.read() == b""
    await protocols[0].lost.wait()
    called = ("factory", "connection_made", "data_received", "eof_received", "connection_lost")
    assert protocols[0].places == dict.fromkeys(called, "created")
    writer.close()
    await writer.wait_closed()
    server.close()


async def test_the_end_is_reported_in_the_context_of_the_connection():
    place.set("connected")
    protocol, peer = await connected()
    place.set("later")
    peer.close()
    await protocol.lost.wait()
    called = ("factory", "connection_made", "eof_received", "connection_lost")
    assert protocol.places == dict.fromkeys(called, "connected")


async def test_a_reset_is_reported_in_the_context_of_the_connection():
    listener = socket.create_server(("127.0.0.1", 0))
    place.set("connected")
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(Recording, *listener.getsockname())
    place.set("later")
    peer, _ = listener.accept()
    listener.close()
    reset(peer)
    await protocol.lost.wait()
    assert protocol.places == dict.fromkeys(("factory", "connection_made", "connection_lost"), "connected")


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
async def test_a_finished_write_is_not_reported_in_the_loops_context(is_closed):
    """asyncio calls the protocol in the writer's context, uringloop in the connection's: here they are the same."""
    place.set("connected")
    protocol, peer = await connected()
    transport = protocol.transport
    transport.write(b"x" * (1 << 20))
    assert protocol.paused.is_set()
    if is_closed:
        transport.close()
    with peer:
        peer.setblocking(False)
        called = "connection_lost" if is_closed else "resume_writing"
        while called not in protocol.places:
            try:
                peer.recv(1 << 20)
            except BlockingIOError:
                await asyncio.sleep(0)
    assert protocol.places[called] == "connected"
    if not is_closed:
        transport.abort()
        await protocol.lost.wait()


# Since Python 3.15: one context for each connection

since_3_15 = pytest.mark.skipif(
    sys.version_info < (3, 15), reason="asyncio copied contexts for each callback"
)


class Growing(Recording):
    """Records the value of `place` and changes it in each call."""

    def record(self, name):
        self.places[name] = place.get()
        place.set(name)

    def connection_made(self, transport):
        self.transport = transport
        self.record("connection_made")

    def data_received(self, data):
        self.record("data_received")

    def eof_received(self):
        self.record("eof_received")

    def connection_lost(self, exc):
        self.record("connection_lost")
        self.lost.set()


GROWN = {
    "connection_made": "made",
    "data_received": "connection_made",
    "eof_received": "data_received",
    "connection_lost": "eof_received",
}


@since_3_15
async def test_the_callbacks_of_a_client_share_one_context():
    place.set("made")
    protocol, peer = await connected(Growing)
    assert place.get() == "made"
    peer.send(b"x")
    peer.close()
    await protocol.lost.wait()
    assert protocol.places == {"factory": "made"} | GROWN
    assert place.get() == "made"


@since_3_15
async def test_each_connection_of_a_server_has_a_copy_of_the_servers_context():
    place.set("made")
    loop, protocols = asyncio.get_running_loop(), []

    def factory():
        protocols.append(Growing())
        place.set("made")  # of this connection only
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    place.set("later")
    for _ in range(2):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        writer.write_eof()
        assert await reader.read() == b""
        await protocols[-1].lost.wait()
        assert protocols[-1].places == {"factory": "made"} | GROWN
        writer.close()
        await writer.wait_closed()
    assert place.get() == "later"
    server.close()


@since_3_15
@pytest.mark.parametrize("way", ["close", "abort"])
async def test_the_end_is_reported_in_the_connections_context_when_our_side_closes(way):
    place.set("connected")
    protocol, peer = await connected()
    place.set("closer's")
    with peer:
        getattr(protocol.transport, way)()
        await protocol.lost.wait()
    assert protocol.places["connection_lost"] == "connected"


@since_3_15
async def test_a_server_with_tls_calls_in_a_copy_of_its_context():
    place.set("made")
    loop, protocols = asyncio.get_running_loop(), []
    server = await loop.create_server(
        lambda: protocols.append(Growing()) or protocols[-1], "127.0.0.1", 0, ssl=server_tls()
    )
    place.set("later")
    for _ in range(2):
        _reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=client_tls(), server_hostname="localhost"
        )
        writer.write(b"x")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await protocols[-1].lost.wait()
        assert protocols[-1].places == {"factory": "made"} | GROWN
    server.close()
