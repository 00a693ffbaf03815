"""TCP connections: create_connection, create_server and what their transports report."""

import asyncio
import contextlib
import errno
import functools
import socket

import pytest
from support.helpers import Recorder, open_pair, open_transport, read_exactly, turns, until


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


async def serve(factory, **kwargs):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, **kwargs)
    return server, server.sockets[0].getsockname()


async def test_echo_server_answers_a_client():
    loop = asyncio.get_running_loop()
    echo = Echo()
    server, address = await serve(lambda: echo)
    transport, client = await loop.create_connection(Recorder, *address)
    transport.write(b"hello")
    assert await client.received(5) == b"hello"
    transport.close()
    await client.lost.wait()
    await echo.lost.wait()
    server.close()
    await server.wait_closed()
    assert client.calls == ["connection_made", "data_received", "connection_lost"]
    assert echo.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert client.error is None
    assert echo.error is None


async def test_connection_made_runs_before_create_connection_returns():
    async with open_transport() as (_transport, protocol, _peer):
        assert protocol.calls == ["connection_made"]


async def test_data_that_has_already_arrived_is_not_delivered_before_connection_made():
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as peer:
        accepted, _ = listener.accept()
        listener.close()
        peer.sendall(b"early")
        _, protocol = await loop.create_connection(Recorder, sock=accepted)
        assert await protocol.received(5) == b"early"
        assert protocol.calls[0] == "connection_made"
        protocol.transport.close()
        await protocol.lost.wait()


async def test_refused_connection_raises_with_errno():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError) as caught:
            await asyncio.get_running_loop().create_connection(Recorder, *bound.getsockname())
        assert caught.value.errno == errno.ECONNREFUSED


async def test_refused_connections_on_several_addresses_raise_one_oserror():
    loop = asyncio.get_running_loop()

    async def two_addresses(*_args, **_kwargs):
        info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*info, ("127.0.0.1", port)) for port in ports]

    with socket.socket() as first, socket.socket() as second:
        ports = []
        for sock in (first, second):
            sock.bind(("127.0.0.1", 0))
            ports.append(sock.getsockname()[1])
        loop.getaddrinfo = two_addresses
        try:
            with pytest.raises(OSError):
                await loop.create_connection(Recorder, "test.invalid", 1)
        finally:
            del loop.getaddrinfo


async def test_all_errors_raises_an_exception_group():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        try:
            await asyncio.get_running_loop().create_connection(
                Recorder, *bound.getsockname(), all_errors=True
            )
        except TypeError:
            pytest.skip("all_errors is new in Python 3.12")
        except ExceptionGroup as group:
            kinds = [type(error) for error in group.exceptions]
            assert kinds == [ConnectionRefusedError]
        else:
            pytest.fail("connected to a socket that does not listen")


async def test_happy_eyeballs_takes_the_address_that_answers():
    loop = asyncio.get_running_loop()
    server, address = await serve(Recorder)
    transport, protocol = await loop.create_connection(
        Recorder, "localhost", address[1], happy_eyeballs_delay=0.05, interleave=1
    )
    assert transport.get_extra_info("peername")[1] == address[1]
    transport.close()
    await protocol.lost.wait()
    server.close()
    await turns(3)


async def test_local_addr_is_bound():
    loop = asyncio.get_running_loop()
    server, address = await serve(Recorder)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        local = free.getsockname()
    transport, protocol = await loop.create_connection(Recorder, *address, local_addr=local)
    assert transport.get_extra_info("sockname") == local
    transport.abort()
    await protocol.lost.wait()
    server.close()
    await turns(3)


async def test_ipv6_connection():
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(Echo, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 loopback")
    host, port, *_ = server.sockets[0].getsockname()
    transport, protocol = await loop.create_connection(Recorder, host, port)
    transport.write(b"six")
    assert await protocol.received(3) == b"six"
    assert transport.get_extra_info("socket").family == socket.AF_INET6
    transport.close()
    await protocol.lost.wait()
    server.close()
    await turns(3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": "127.0.0.1", "port": 1, "sock": True},
        {},
        {"host": "127.0.0.1", "port": 1, "server_hostname": "x"},
        {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
    ],
)
async def test_create_connection_refuses_contradictory_arguments(arguments):
    with socket.socket() as sock:
        if "sock" in arguments:
            arguments = {**arguments, "sock": sock}
        with pytest.raises(ValueError):
            await asyncio.get_running_loop().create_connection(Recorder, **arguments)


async def test_create_connection_refuses_a_datagram_socket():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match=r"[Ss]tream"):
            await asyncio.get_running_loop().create_connection(Recorder, sock=sock)


async def test_protocol_factory_that_raises_reaches_the_caller():
    class Boom(Exception):
        pass

    def factory():
        raise Boom

    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.connect(listener.getsockname())
        with pytest.raises(Boom):
            await asyncio.get_running_loop().create_connection(factory, sock=sock)


async def test_transport_has_sockname_peername_and_socket():
    async with open_transport() as (transport, _protocol, peer):
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("peername") == peer.getsockname()
        sock = transport.get_extra_info("socket")
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        assert sock.getsockname() == peer.getpeername()
        assert sock.family == socket.AF_INET
        assert sock.fileno() >= 0
        assert sock.type == socket.SOCK_STREAM
        assert transport.get_extra_info("nothing") is None
        assert transport.get_extra_info("nothing", 7) == 7


async def test_peername_is_still_known_after_the_peer_is_gone():
    async with open_transport() as (transport, protocol, peer):
        address = peer.getsockname()
        peer.close()
        await protocol.lost.wait()
        assert transport.get_extra_info("peername") == address


async def test_tcp_nodelay_is_set_on_both_sides():
    accepted = Recorder()
    server, address = await serve(lambda: accepted)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *address)
    await accepted.connected.wait()
    for end in (transport, accepted.transport):
        assert end.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    transport.abort()
    await protocol.lost.wait()
    await accepted.lost.wait()
    server.close()
    await turns(3)


async def test_pausing_sets_the_private_attribute_paused():
    """uvloop's transports have asyncio's private `_paused`, too."""
    ours, peer = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(Recorder, sock=ours)
    seen = [transport._paused]
    transport.pause_reading()
    seen.append(transport._paused)
    transport.resume_reading()
    assert [*seen, transport._paused] == [False, True, False]
    transport.abort()
    peer.close()
    await turns(3)


async def test_the_loops_transports_maps_fds_to_transports():
    """asyncio's private name, which tools and tests use."""
    loop = asyncio.get_running_loop()
    assert not loop._transports
    async with open_transport() as (transport, _protocol, _peer):
        fd = transport.get_extra_info("socket").fileno()
        assert list(loop._transports) == [fd]
        assert len(loop._transports) == 1
        assert fd in loop._transports
        assert loop._transports[fd] is transport
        for number in (
            fd + 1,
            1 << 31,
            1 << 64,
        ):  # also numbers that no C int holds: Python 3.13's remove_reader() looks them up
            assert loop._transports.get(number) is None
            assert number not in loop._transports


async def test_transports_are_instances_of_asyncios_classes():
    async with open_transport() as (transport, _protocol, _peer):
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport, asyncio.ReadTransport)
        assert isinstance(transport, asyncio.WriteTransport)
        assert isinstance(transport, asyncio.BaseTransport)
        assert not isinstance(transport, asyncio.DatagramTransport)


async def test_transport_methods_can_be_patched(monkeypatch):
    async with open_transport() as (transport, _protocol, _peer):
        written = []
        monkeypatch.setattr(transport, "write", written.append)
        transport.write(b"seen")
        assert written == [b"seen"]


async def test_set_protocol_sends_later_data_to_the_new_one():
    async with open_transport() as (transport, first, peer):
        peer.send(b"one")
        await first.received(3)
        second = Recorder()
        transport.set_protocol(second)
        assert transport.get_protocol() is second
        peer.send(b"two")
        assert await second.received(3) == b"two"
        assert first.data == b"one"
        transport.set_protocol(first)


async def test_set_protocol_inside_data_received_takes_effect_for_the_next_chunk():
    class Switch(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(second)

    second = Recorder()
    async with open_transport(Switch()) as (transport, first, peer):
        peer.send(b"one")
        await first.received(3)
        peer.send(b"two")
        assert await second.received(3) == b"two"
        transport.set_protocol(first)


async def test_connect_accepted_socket_makes_a_server_side_transport():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as peer:
            peer.setblocking(False)
            accepted, _ = listener.accept()
            transport, protocol = await loop.connect_accepted_socket(Echo, accepted)
            peer.send(b"ping")
            assert await read_exactly(peer, 4) == b"ping"
            transport.close()
            await protocol.lost.wait()


class Observer(Recorder):
    """Records the repr of its transport when the connection is lost."""

    def connection_lost(self, error):
        self.last = repr(self.transport)
        super().connection_lost(error)


@contextlib.asynccontextmanager
async def accepted(protocol):
    server, address = await serve(lambda: protocol)
    with socket.create_connection(address) as peer:
        await protocol.connected.wait()
        yield protocol.transport, protocol, peer
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "make",
    [open_transport, functools.partial(open_transport, kind="unix"), accepted],
    ids=["tcp", "unix", "accepted"],
)
async def test_repr_shows_the_state(make):
    """In asyncio's words; the fd number stays after the socket is closed."""
    async with make(Observer()) as (transport, protocol, _peer):
        fd = transport.get_extra_info("socket").fileno()
        name = f"_SelectorSocketTransport fd={fd}"
        await until(lambda: "read=polling" in repr(transport))
        assert repr(transport) == f"<{name} read=polling write=<idle, bufsize=0>>"
        transport.pause_reading()
        assert repr(transport) == f"<{name} read=idle write=<idle, bufsize=0>>"
        transport.resume_reading()
        while not protocol.paused.is_set():
            transport.write(bytes(1 << 20))
        size = transport.get_write_buffer_size()
        assert repr(transport) == f"<{name} read=polling write=<polling, bufsize={size}>>"
        transport.close()
        name = f"_SelectorSocketTransport closing fd={fd}"
        assert repr(transport) == f"<{name} read=idle write=<polling, bufsize={size}>>"
        transport.abort()
        assert repr(transport) == f"<{name} read=idle write=<idle, bufsize=0>>"
        await protocol.lost.wait()
        assert protocol.last == f"<{name} read=idle write=<idle, bufsize=0>>"
        await until(lambda: "closed" in repr(transport))
        assert repr(transport) == f"<_SelectorSocketTransport closed fd={fd}>"


async def test_ping_pong_keeps_order_over_many_rounds():
    async with open_pair(far_protocol=Echo()) as (near, _far):
        expected = b""
        for number in range(200):
            piece = b"%d;" % number
            expected += piece
            near.transport.write(piece)
            await near.received(len(expected))
        assert bytes(near.data) == expected


async def test_data_received_gets_bytes_that_it_may_keep():
    async with open_transport() as (_transport, protocol, peer):
        peer.send(b"first")
        await protocol.received(5)
        peer.send(b"other")
        await protocol.received(10)
        assert all(type(chunk) is bytes for chunk in protocol.chunks)
        assert b"".join(protocol.chunks) == b"firstother"


async def test_several_connections_do_not_mix_their_data():
    loop = asyncio.get_running_loop()
    server, address = await serve(Echo)
    clients = [(await loop.create_connection(Recorder, *address))[1] for _ in range(20)]
    for number, client in enumerate(clients):
        client.transport.write(b"%04d" % number * 500)
    for number, client in enumerate(clients):
        assert await client.received(2000) == b"%04d" % number * 500
    for client in clients:
        client.transport.close()
        await client.lost.wait()
    server.close()
    await turns(10)


async def test_exception_in_connection_made_is_reported_and_does_not_stop_the_loop():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context["exception"]))

    class Bad(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError

    async with open_transport(Bad()) as (_transport, protocol, _peer):
        assert protocol.calls == ["connection_made"]
    assert [type(error) for error in seen] == [ZeroDivisionError]


async def test_exception_in_data_received_closes_the_connection_and_is_reported():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context))

    class Bad(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    async with open_transport(Bad()) as (transport, protocol, peer):
        peer.send(b"x")
        await protocol.lost.wait()
        assert isinstance(protocol.error, ZeroDivisionError)
        assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]
        assert seen[0]["transport"] is transport
        assert seen[0]["protocol"] is protocol
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]
    seen.clear()


async def test_exception_in_eof_received_closes_the_connection_and_is_reported():
    seen = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: seen.append(type(context["exception"]))
    )

    class Bad(Recorder):
        def eof_received(self):
            super().eof_received()
            raise ZeroDivisionError

    async with open_transport(Bad()) as (_transport, protocol, peer):
        peer.close()
        await protocol.lost.wait()
        assert seen == [ZeroDivisionError]
        assert isinstance(protocol.error, ZeroDivisionError)
