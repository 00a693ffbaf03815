"""What a connection costs, and what stays when it is closed: sizes of structs and traced allocations, not RSS."""

import asyncio
import gc
import socket
import sysconfig
import tracemalloc

import pytest

from uringloop.transports.stream import wire
from uringloop.transports.stream.classes import _SelectorSocketTransport

N = 200
is_for_pymalloc = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="without a GIL objects have another header"
)
BOUND = 1000  # bytes per connection, with the protocol's own
STAYS = 100


class Silent(asyncio.Protocol):
    n_open = 0

    def connection_made(self, transport):
        Silent.n_open += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, exc):
        Silent.n_open -= 1


@is_for_pymalloc
def test_fields_of_each_connection_are_packed():
    # with the collector's header and the two pointers of the subclass: the size classes of pymalloc are 16 bytes
    assert _SelectorSocketTransport.__basicsize__ + 32 <= 288
    assert wire.ReadinessWire.__basicsize__ + 16 <= 96
    assert wire.WireHandler.__basicsize__ + 16 <= 96


@is_for_pymalloc
def test_requests_of_each_connection_are_packed():
    ring_wire = pytest.importorskip("uringloop.transports.stream.ring_wire")
    assert ring_wire.RingWire.__basicsize__ + 16 <= 144
    assert ring_wire.ReceiveRequest.__basicsize__ + 16 <= 128


async def _turns_until(condition):
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the connections did not come")


async def _echo(clients):
    """A message on each; they are blocking, and the server's answers fit into their buffers."""
    for client in clients:
        client.sendall(b"x")
    answered = set()

    def all_answered():
        for client in clients:
            if client not in answered:
                try:
                    client.recv(1, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return False
                answered.add(client)
        return True

    await _turns_until(all_answered)


async def _measure(loop):
    """Traced bytes per connection while all are idle, and when all are closed."""
    server = await loop.create_server(Silent, "127.0.0.1", 0, backlog=2 * N)
    address = server.sockets[0].getsockname()

    async def connect(clients):
        for client in clients:
            client.connect(address)
        await _turns_until(lambda: Silent.n_open == len(clients))
        await _echo(clients)

    async def close(clients):
        for client in clients:
            client.close()
        await _turns_until(lambda: Silent.n_open == 0)
        await asyncio.sleep(0)
        gc.collect()

    first, clients = ([socket.socket() for _ in range(N)] for _ in range(2))
    await connect(first)  # what is made once, and the pools
    await close(first)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await connect(clients)
        gc.collect()
        idle = tracemalloc.get_traced_memory()[0] - before
        n_found = sum(fd is not None for fd in loop._transports)
        await close(clients)
        stays = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    server.close()
    await server.wait_closed()
    return idle / N, stays / N, n_found


def test_idle_and_closed_connections_cost_little(loop):
    idle, stays, n_found = loop.run_until_complete(_measure(loop))
    assert n_found == N
    assert 300 < idle <= BOUND  # the lower bound: it is traced
    assert stays <= STAYS
    assert list(loop._transports) == []  # nothing of a connection that is closed


def test_an_info_that_no_socket_has_makes_nothing(loop):
    """asyncio.streams asks each new connection for "sslcontext"."""

    async def info():
        made = loop.create_future()

        class Asked(asyncio.Protocol):
            def connection_made(self, transport):
                made.set_result(transport)

        server = await loop.create_server(Asked, "127.0.0.1", 0)
        near = socket.create_connection(server.sockets[0].getsockname())
        transport = await made
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            assert transport.get_extra_info("sslcontext") is None
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert transport.get_extra_info("sslcontext", 7) == 7
        assert transport.get_extra_info("peername") == near.getsockname()
        assert transport.get_extra_info("sockname") == near.getpeername()
        assert transport.get_extra_info("socket").getpeername() == near.getsockname()
        transport.close()
        near.close()
        server.close()
        await server.wait_closed()
        assert transport.get_extra_info("peername") is not None  # stays known
        return grown

    assert loop.run_until_complete(info()) < 200


def test_names_stay_known_after_the_end(loop):
    """Also those that were not read while the socket was open."""

    async def names():
        lost = loop.create_future()

        class Asked(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport

            def connection_lost(self, exc):
                lost.set_result(self.transport)

        server = await loop.create_server(Asked, "127.0.0.1", 0)
        near = socket.create_connection(server.sockets[0].getsockname())
        expected = near.getpeername(), near.getsockname()
        near.close()
        transport = await lost
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        return transport.get_extra_info("sockname"), transport.get_extra_info("peername"), expected

    sockname, peername, expected = loop.run_until_complete(names())
    assert (sockname, peername) == expected


def test_a_transport_is_found_by_its_number_until_it_is_closed(loop):
    async def find():
        near, far = socket.socketpair()
        fd = near.fileno()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        assert loop._transports.get(fd) is transport
        assert loop._transports[fd] is transport
        assert list(loop._transports) == [fd]
        assert loop._transports.get(2**40) is None
        assert loop._transports.get(-1) is None
        with pytest.raises(KeyError):
            loop._transports[10_000_000]
        transport.abort()
        await asyncio.sleep(0)
        assert loop._transports.get(fd) is None
        far.close()

    loop.run_until_complete(find())


def test_a_transport_that_is_forgotten_is_not_found(loop):
    def forget_all(held):
        held.clear()
        gc.collect()

    async def forget():
        near, far = socket.socketpair()
        fd = near.fileno()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        transport.pause_reading()  # the wire holds it while it reads
        await asyncio.sleep(0)
        held = [transport]
        del transport, _
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            forget_all(held)
        assert loop._transports.get(fd) is None
        far.close()

    loop.run_until_complete(forget())
