"""Transports that were forgotten and not closed: a finalizer in the same garbage may run later and use them."""

import asyncio
import contextlib
import gc
import socket
import sys

import pytest
from support.helpers import Datagrams, Recorder, turns, until

ACTIONS = {
    "write": lambda transport: transport.write(b"secret"),
    "write much": lambda transport: transport.write(b"secret" * 100_000),
    "writelines": lambda transport: transport.writelines([b"sec", b"ret"]),
    "write and close": lambda transport: (transport.write(b"secret"), transport.close()),
    "close": lambda transport: transport.close(),
    "close twice": lambda transport: (transport.close(), transport.close()),
    "abort": lambda transport: transport.abort(),
    "resume": lambda transport: transport.resume_reading(),
    "resume and close": lambda transport: (transport.resume_reading(), transport.close()),
    "inspect": lambda transport: (
        repr(transport),
        transport.get_extra_info("socket"),
        transport.is_reading(),
    ),
}
ENDS = {
    "write",
    "write much",
    "writelines",
    "write and close",
    "close",
    "close twice",
    "abort",
    "resume and close",
}


class LateUser:
    """Part of the same garbage as its transport; made later, so finalized later, when the socket is already closed."""

    def __init__(self, transport, use):
        self.transport, self.use = transport, use
        transport.late_user = self

    def __del__(self):
        self.use(self.transport)


class Forgotten(Recorder):
    """Pauses reading, so that the loop does not watch the connection, and nothing refers to it."""

    def __init__(self, use):
        super().__init__()
        self.use = use

    def connection_made(self, transport):
        super().connection_made(transport)
        transport.pause_reading()
        LateUser(transport, self.use)


class NextSocket:
    """Takes the fd number of the socket that was closed last; what is sent through it arrives at `peer`."""

    def __init__(self, kind):
        self.kind = kind
        self.socket = self.peer = None

    def take(self):
        if self.kind == "datagram":
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("127.0.0.1", 0))
        else:
            self.socket, self.peer = socket.socketpair()
            self.peer.setblocking(False)

    def close(self):
        for sock in (self.socket, self.peer):
            if sock is not None:
                sock.close()


@contextlib.contextmanager
def collected_at_once():
    """Garbage is collected only when the test does so."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("action", list(ACTIONS))
async def test_a_finalizer_that_uses_a_forgotten_connection_reaches_no_other_socket(action):
    following = NextSocket("stream")
    ends = []

    class Protocol(Forgotten):
        def connection_lost(self, error):
            ends.append(error)

    def use(transport):
        following.take()
        ACTIONS[action](transport)

    near, far = socket.socketpair()
    near.setblocking(False)
    number = near.fileno()
    try:
        with collected_at_once():
            await asyncio.get_running_loop().create_connection(lambda: Protocol(use), sock=near)
            del near
            await turns(3)
            gc.collect()
            if "free-threading" in sys.version and following.socket.fileno() != number:
                pytest.skip("this collector called the other finalizer first")
            assert following.socket.fileno() == number
            await turns(5)
            with pytest.raises(BlockingIOError):
                following.peer.recv(1)
            assert following.peer.send(b"x") == 1
            assert following.socket.recv(1) == b"x"  # nothing was received from it, and it is not shut down
            assert len(ends) == 1 if action in ENDS else len(ends) <= 1
            assert not ends or ends[0] is None or ends[0].errno == 9
    finally:
        far.close()
        following.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("action", [name for name in ACTIONS if "resume" not in name])
async def test_a_forgotten_connection_is_detached_from_its_server_once(action):
    loop = asyncio.get_running_loop()
    protocols = []
    used = []

    def use(transport):
        used.append(action)
        ACTIONS[action](transport)

    def factory():
        if protocols:
            protocols.append(Recorder())
            return protocols[-1]
        protocols.append(None)
        return Forgotten(use)

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with collected_at_once(), socket.create_connection(address), socket.create_connection(address) as second:
        await until(lambda: len(protocols) == 2 and protocols[1].transport is not None)
        await turns(3)
        gc.collect()
        await turns(5)
        assert used == [action]
        second.close()
        await until(protocols[1].lost.is_set)
        await turns(3)  # the exception handler was not called
    server.close()
    await server.wait_closed()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("action", ["send", "send and close", "close", "abort", "resume", "inspect"])
@pytest.mark.parametrize("is_connected", [False, True], ids=["local", "connected"])
async def test_a_finalizer_that_uses_a_forgotten_endpoint_reaches_no_other_socket(action, is_connected):
    loop = asyncio.get_running_loop()
    following = NextSocket("datagram")
    ends = []
    errors = []
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    sink.setblocking(False)
    address = None if is_connected else sink.getsockname()

    def use(transport):
        following.take()
        if action.startswith("send"):
            transport.sendto(b"secret", address)
        elif action == "inspect":
            repr(transport)
            transport.get_extra_info("socket")
        elif action == "resume":
            transport.resume_reading()
        if action.endswith("close"):
            transport.close()
        elif action == "abort":
            transport.abort()

    class Protocol(Datagrams):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()
            LateUser(transport, use)

        def connection_lost(self, error):
            ends.append(error)

        def error_received(self, error):
            errors.append(error.errno)

    try:
        with collected_at_once():
            where = {"remote_addr": sink.getsockname()} if is_connected else {"local_addr": ("127.0.0.1", 0)}
            await loop.create_datagram_endpoint(Protocol, **where)
            await turns(3)
            gc.collect()
            await turns(5)
            assert following.socket is not None
            with pytest.raises(BlockingIOError):
                sink.recv(100)
            assert errors == ([9] if action.startswith("send") else [])
            assert ends == ([None] if action.endswith(("close", "abort")) else [])
    finally:
        sink.close()
        following.close()
