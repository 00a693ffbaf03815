"""Accepted connections: their socket, their names, and what happens when they are never closed."""

import asyncio
import gc
import os
import socket
import sys
import warnings

import pytest
from support.helpers import STOCK, Recorder, monitor_of, server_tls, turns, until

HOSTS = [
    pytest.param("127.0.0.1", socket.AF_INET, id="IPv4"),
    pytest.param("::1", socket.AF_INET6, id="IPv6"),
    pytest.param("0.0.0.0", socket.AF_INET, id="any-IPv4"),
    pytest.param("::", socket.AF_INET6, id="any-IPv6"),
]


class Accepted:
    """A server with one client, which is a plain socket."""

    def __init__(self, protocol=None):
        self.protocol = Recorder() if protocol is None else protocol

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: self.protocol, "127.0.0.1", 0)
        self.client = socket.create_connection(self.server.sockets[0].getsockname())
        await until(lambda: self.protocol.transport)
        self.transport = self.protocol.transport
        return self

    async def __aexit__(self, *error):
        self.client.close()
        self.protocol = self.transport = None
        self.server.close()
        await self.server.wait_closed()


@pytest.mark.parametrize(("host", "family"), HOSTS)
async def test_names_are_those_of_the_connection(host, family):
    protocol = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, host, 0, family=family)
    port = server.sockets[0].getsockname()[1]
    address = ("127.0.0.1", port) if family == socket.AF_INET else ("::1", port, 0, 0)
    with socket.socket(family) as client:
        client.connect(address)
        await until(lambda: protocol.transport)
        assert protocol.transport.get_extra_info("peername") == client.getsockname()
        assert protocol.transport.get_extra_info("sockname") == client.getpeername() == address
        sock = protocol.transport.get_extra_info("socket")
        assert (sock.family, sock.type, sock.proto) == (family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        assert sock.getsockname() == address
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        protocol.transport.close()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


def listening(kind, tmp_path):
    """(listener, address to connect to, a client that has a name)."""
    if kind == "unix":
        listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "longer than fourteen"))
        client.bind(str(tmp_path / "client"))
        address = listener.getsockname()
    else:
        family = socket.AF_INET6 if kind == "tcp6" else socket.AF_INET
        listener, client = socket.socket(family), socket.socket(family)
        listener.bind(({"tcp": "127.0.0.1", "tcp6": "::1", "wildcard": ""}[kind], 0))
        address = ("::1" if kind == "tcp6" else "127.0.0.1", listener.getsockname()[1])
    listener.listen()
    return listener, address, client


@pytest.mark.parametrize("is_debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("tcp", socket.AF_UNIX),
        ("wildcard", socket.AF_UNIX),
        ("tcp6", socket.AF_UNIX),
        ("tcp6", socket.AF_INET),
        ("unix", socket.AF_INET),
    ],
)
async def test_names_do_not_depend_on_the_family_of_the_socket_object(tmp_path, kind, family, is_debug):
    """uvicorn and gunicorn wrap any fd that they are given as AF_UNIX; asyncio still returns the right names."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK and family == socket.AF_INET:
        pytest.skip("socket.socket truncates names that are longer than those of its own family")
    loop.set_debug(is_debug)
    protocol = Recorder()
    listener, address, client = listening(kind, tmp_path)
    wrapped = socket.fromfd(listener.fileno(), family, socket.SOCK_STREAM)
    listener.close()
    server = await loop.create_server(lambda: protocol, sock=wrapped)
    with client:
        client.connect(address)
        await until(lambda: protocol.transport)
        transport = protocol.transport
        assert transport.get_extra_info("peername") == client.getsockname()
        assert transport.get_extra_info("sockname") == client.getpeername()
        assert transport.get_extra_info("socket").family == family
        transport.close()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


async def test_names_of_unix_connections(tmp_path):
    protocol = Recorder()
    path = str(tmp_path / "socket")
    server = await asyncio.get_running_loop().create_unix_server(lambda: protocol, path)
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(str(tmp_path / "client"))
        client.connect(path)
        await until(lambda: protocol.transport)
        assert protocol.transport.get_extra_info("peername") == str(tmp_path / "client")
        assert protocol.transport.get_extra_info("sockname") == path
        assert protocol.transport.get_extra_info("socket").family == socket.AF_UNIX
        protocol.transport.close()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("requests_socket", [False, True])
async def test_names_stay_known_after_the_end(requests_socket):
    async with Accepted() as accepted:
        transport, protocol = accepted.transport, accepted.protocol
        if requests_socket:
            assert transport.get_extra_info("socket").fileno() >= 0
        names = accepted.client.getsockname(), accepted.client.getpeername()
        transport.close()
        await protocol.lost.wait()
        await turns(2)
        assert (transport.get_extra_info("peername"), transport.get_extra_info("sockname")) == names
        assert transport.get_extra_info("socket").fileno() == -1
        assert transport.get_extra_info("nothing", 42) == 42


async def test_the_socket_is_one_object_and_dies_with_the_connection():
    async with Accepted() as accepted:
        sock = accepted.transport.get_extra_info("socket")
        assert accepted.transport.get_extra_info("socket") is sock
        protocol, fd = accepted.protocol, sock.fileno()
        accepted.transport.close()
        await protocol.lost.wait()
        await turns(2)
        assert sock.fileno() == -1
        taken = os.open(os.devnull, os.O_RDONLY)  # most likely the number that became free
        try:
            accepted.transport = protocol = None
            gc.collect()
            os.fstat(taken)
            assert taken <= fd
        finally:
            os.close(taken)


def skip_where_stock_waits_for_forgotten_connections():
    if monitor_of(asyncio.get_running_loop()) == STOCK and sys.version_info < (3, 13):
        pytest.skip("stock asyncio's server waits forever for a forgotten connection")


async def test_a_closed_server_does_not_wait_for_a_connection_that_is_forgotten():
    skip_where_stock_waits_for_forgotten_connections()

    class Forgetful(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()  # only the loop keeps it

    async with Accepted(Forgetful()) as accepted:
        await turns(2)
        accepted.server.close()
        waiting = asyncio.ensure_future(accepted.server.wait_closed())
        await turns(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accepted.protocol.transport = None
            accepted.protocol = accepted.transport = None
            gc.collect()
            await turns(3)
            gc.collect()
        await waiting


@pytest.mark.parametrize("requests_socket", [False, True])
async def test_a_connection_that_is_never_closed_warns_and_is_closed(requests_socket):
    skip_where_stock_waits_for_forgotten_connections()

    class Forgetful(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()  # only the loop keeps it

    async with Accepted(Forgetful()) as accepted:
        if requests_socket:
            accepted.transport.get_extra_info("socket")
        await turns(2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            accepted.protocol.transport = None
            accepted.protocol = accepted.transport = None
            gc.collect()
            await turns(2)
            gc.collect()
        assert any("unclosed transport" in str(warning.message) for warning in caught)
        caught.clear()
        accepted.client.settimeout(10)
        assert accepted.client.recv(10) == b""


async def test_a_reused_fd_number_may_have_a_transport_again():
    """The table of transports by fd forgets closed ones."""
    async with Accepted() as first:
        fd = first.transport.get_extra_info("socket").fileno()
        protocol = first.protocol
        first.transport.close()
        await protocol.lost.wait()
        await turns(2)
    near, far = socket.socketpair()
    if near.fileno() != fd:
        os.dup2(near.fileno(), fd, inheritable=False)
        near.close()
        near = socket.socket(fileno=fd)
    near.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    with pytest.raises(RuntimeError, match="is used by transport"):
        asyncio.get_running_loop().add_reader(fd, print)
    transport.close()
    await protocol.lost.wait()
    far.close()


# In Python 3.13 asyncio's transport tries to wake the waiters of its server once more.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored .*function _SelectorTransport.__del__:pytest.PytestUnraisableExceptionWarning"
)
async def test_the_fd_number_of_a_refused_connection_is_free():
    """The protocol factory of a TLS server closes the server, which accepts no further connections."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def factory():
        server.close()
        closed.set()
        return asyncio.Protocol()

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls())
    gc.disable()  # the remains of the refused transport stay
    try:
        client = socket.create_connection(server.sockets[0].getsockname())
        await asyncio.wait_for(closed.wait(), 10)
        await turns(3)
        socks = [socket.socket() for _ in range(10)]
        for sock in socks:
            loop.add_reader(sock, print)
            loop.remove_reader(sock)
            sock.close()
    finally:
        gc.enable()
        client.close()
        with warnings.catch_warnings():
            # as with asyncio, for the TLS transport
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


async def test_what_the_factory_schedules_runs_before_connection_made():
    loop = asyncio.get_running_loop()
    seen = []

    class Noting(Recorder):
        def connection_made(self, transport):
            seen.append("made")
            super().connection_made(transport)

    def factory():
        loop.call_soon(seen.append, "scheduled by the factory")
        return protocol

    protocol = Noting()
    server = await loop.create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await until(lambda: protocol.transport)
        protocol.transport.close()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()
    assert seen == ["scheduled by the factory", "made"]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close_clients is new in Python 3.13")
async def test_a_factory_that_closes_the_clients_does_not_close_its_own():
    protocol = Recorder()
    server = None

    def factory():
        server.close_clients()
        server.abort_clients()
        return protocol

    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        await until(lambda: protocol.transport)
        assert not protocol.transport.is_closing()
        protocol.transport.write(b"served")
        protocol.transport.close()
        await protocol.lost.wait()
        client.settimeout(5)
        assert client.recv(10) == b"served"
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close_clients is new in Python 3.13")
@pytest.mark.parametrize("n_turns", range(5))
async def test_close_clients_twice_while_a_client_is_accepted_is_harmless(n_turns):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await turns(n_turns)
        for _ in range(2):
            server.close_clients()
            server.abort_clients()
        await turns(10)
        server.close()
        server.abort_clients()
        await server.wait_closed()
