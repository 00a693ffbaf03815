"""Datagram endpoints."""

import asyncio
import contextlib
import socket
import sys

import pytest
from support.helpers import Datagrams, turns


@contextlib.asynccontextmanager
async def endpoint(**kwargs):
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, **kwargs)
    try:
        yield transport, protocol
    finally:
        transport.abort()
        await protocol.lost.wait()


def bound():
    return endpoint(local_addr=("127.0.0.1", 0))


def address(transport):
    return transport.get_extra_info("sockname")


async def test_datagrams_go_both_ways():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, asking):
        client.sendto(b"question")
        data, origin = await serving.received.get()
        assert data == b"question"
        assert origin == address(client)
        server.sendto(b"answer", origin)
        assert await asking.received.get() == (b"answer", address(server))


async def test_empty_datagrams_are_delivered():
    """Transports send them since Python 3.13; they always received them."""
    async with bound() as (server, serving):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", address(server))
            sock.sendto(b"after", address(server))
            assert (await serving.received.get())[0] == b""
            assert (await serving.received.get())[0] == b"after"


async def test_empty_datagrams_are_sent_as_in_this_version_of_python():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, _asking):
        client.sendto(b"")
        client.sendto(b"after")
        got = [(await serving.received.get())[0]]
        if got == [b""]:
            got.append((await serving.received.get())[0])
        assert got == ([b"", b"after"] if sys.version_info >= (3, 13) else [b"after"])


async def test_boundaries_and_order_are_kept():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, _asking):
        sent = [b"%d" % number * (number + 1) for number in range(50)]
        for data in sent:
            client.sendto(data)
        assert [(await serving.received.get())[0] for _ in sent] == sent


async def test_a_large_datagram_arrives_whole():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, _asking):
        data = bytes(range(256)) * 250
        client.sendto(data)
        assert (await serving.received.get())[0] == data


async def test_a_datagram_that_is_too_large_is_reported_to_the_protocol():
    async with bound() as (server, _serving), endpoint(remote_addr=address(server)) as (client, asking):
        client.sendto(bytes(70_000))
        assert isinstance(await asking.errors.get(), OSError)
        assert not client.is_closing()


async def test_refused_datagram_reaches_error_received_and_the_endpoint_stays_open():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        unused = sock.getsockname()
    async with endpoint(remote_addr=unused) as (client, asking):
        client.sendto(b"hello?")
        assert isinstance(await asking.errors.get(), ConnectionRefusedError)
        assert not client.is_closing()


async def test_sendto_a_foreign_address_on_a_connected_endpoint_is_refused():
    async with bound() as (server, _serving), endpoint(remote_addr=address(server)) as (client, _asking):
        with pytest.raises(ValueError):
            client.sendto(b"x", ("127.0.0.1", 9))


async def test_sendto_refuses_str():
    async with bound() as (server, _serving), endpoint(remote_addr=address(server)) as (client, _asking):
        with pytest.raises(TypeError):
            client.sendto("text")


async def test_a_mutable_buffer_may_be_changed_after_sendto():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, _asking):
        data = bytearray(b"before")
        client.sendto(data)
        data[:] = b"after!"
        assert (await serving.received.get())[0] == b"before"


async def test_data_sent_just_before_close_arrives():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, asking):
        client.sendto(b"last words")
        client.close()
        assert client.is_closing()
        await asking.lost.wait()
        assert asking.error is None
        assert (await serving.received.get())[0] == b"last words"


async def test_no_datagram_is_delivered_after_abort():
    async with bound() as (server, serving), endpoint(remote_addr=address(server)) as (client, _asking):
        client.sendto(b"too late")
        server.abort()
        await serving.lost.wait()
        await turns(3)
        assert serving.received.empty()


async def test_datagram_transport_is_an_instance_of_asyncios_class():
    async with bound() as (server, _serving):
        assert isinstance(
            server, asyncio.DatagramTransport if sys.version_info >= (3, 12) else asyncio.BaseTransport
        )
        assert server.get_extra_info("socket").type == socket.SOCK_DGRAM
        assert server.get_write_buffer_size() == 0


async def test_a_given_socket_is_used():
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    name = sock.getsockname()
    async with endpoint(sock=sock) as (server, serving):
        assert address(server) == name
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.sendto(b"x", name)
        assert (await serving.received.get())[0] == b"x"


async def test_unix_datagrams(tmp_path):
    paths = [str(tmp_path / name) for name in ("server", "client")]
    async with endpoint(local_addr=paths[0], family=socket.AF_UNIX) as (server, serving):
        async with endpoint(local_addr=paths[1], remote_addr=paths[0], family=socket.AF_UNIX) as (
            client,
            asking,
        ):
            client.sendto(b"question")
            assert await serving.received.get() == (b"question", paths[1])
            server.sendto(b"answer", paths[1])
            assert (await asking.received.get())[0] == b"answer"


async def test_full_socket_buffer_calls_pause_and_resume_writing(tmp_path):
    class Flow(Datagrams):
        calls = ()

        def pause_writing(self):
            self.calls += ("pause",)

        def resume_writing(self):
            self.calls += ("resume",)
            resumed.set()

    resumed = asyncio.Event()
    far = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.bind(str(tmp_path / "far"))
    far.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        Flow, remote_addr=str(tmp_path / "far"), family=socket.AF_UNIX
    )
    transport.set_write_buffer_limits(high=10_000, low=5_000)
    count = 0
    while not protocol.calls:
        transport.sendto(b"%06d" % count + bytes(1000))
        count += 1
        assert count < 5000, "pause_writing is never called although the peer reads nothing"
    assert transport.get_write_buffer_size() > 10_000
    received = []
    while len(received) < count:
        try:
            received.append(int(far.recv(2000)[:6]))
        except BlockingIOError:
            await asyncio.sleep(0)
    await resumed.wait()
    assert received == list(range(count))
    assert protocol.calls == ("pause", "resume")
    far.close()
    transport.abort()
    await protocol.lost.wait()


async def test_exception_in_datagram_received_is_reported_and_the_endpoint_stays_open():
    class Bad(Datagrams):
        def datagram_received(self, data, address):
            raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(type(context["exception"])))
    transport, protocol = await loop.create_datagram_endpoint(Bad, local_addr=("127.0.0.1", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", address(transport))
    await turns(10)
    assert seen == [ZeroDivisionError]
    transport.abort()
    await protocol.lost.wait()


async def test_allow_broadcast_and_reuse_port_set_their_options():
    async with endpoint(local_addr=("127.0.0.1", 0), allow_broadcast=True, reuse_port=True) as (
        server,
        _serving,
    ):
        sock = server.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


async def test_contradictory_arguments_are_refused():
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError):
        await loop.create_datagram_endpoint(Datagrams)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError):
            await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0), sock=sock)
    with socket.socket() as sock:
        with pytest.raises(ValueError):
            await loop.create_datagram_endpoint(Datagrams, sock=sock)
