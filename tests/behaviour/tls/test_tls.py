"""TLS over the loop's streams: handshake, data, closing, errors."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import struct
import sys
import weakref

import pytest
from support.helpers import DATA, Recorder, client_tls, pattern, server_tls, turns

import uringloop


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@contextlib.asynccontextmanager
async def serving(factory=Echo, **kwargs):
    """(address, protocols): a TLS server that ends when its connections have ended."""
    protocols = []

    def make():
        protocols.append(factory())
        return protocols[-1]

    loop = asyncio.get_running_loop()
    kwargs.setdefault("ssl", server_tls())
    server = await loop.create_server(make, "127.0.0.1", 0, **kwargs)
    try:
        yield server.sockets[0].getsockname(), protocols
    finally:
        server.close()
        for protocol in protocols:
            if protocol.transport is not None:
                protocol.transport.abort()
                await protocol.lost.wait()
        await turns(5)


async def connect(address, protocol=None, **kwargs):
    protocol = protocol or Recorder()
    kwargs.setdefault("ssl", client_tls())
    kwargs.setdefault("server_hostname", "localhost")
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, *address, **kwargs)
    return transport, protocol


async def test_echo_over_tls():
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        transport.write(b"secret")
        assert await protocol.received(6) == b"secret"
        transport.close()
        await protocol.lost.wait()
        assert protocol.error is None


async def test_echo_over_tls_on_a_unix_socket(tmp_path):
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "tls")
    echo = Echo()
    server = await loop.create_unix_server(lambda: echo, path, ssl=server_tls())
    transport, protocol = await loop.create_unix_connection(
        Recorder, path, ssl=client_tls(), server_hostname="localhost"
    )
    transport.write(b"secret")
    assert await protocol.received(6) == b"secret"
    transport.close()
    await protocol.lost.wait()
    await echo.lost.wait()
    server.close()
    await turns(3)


async def test_large_transfer_both_ways():
    data = pattern(2 << 20)
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        transport.write(data)
        assert await protocol.received(len(data)) == data
        transport.close()
        await protocol.lost.wait()


async def test_many_small_writes_keep_their_order():
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        expected = b"".join(b"%05d" % number for number in range(2000))
        for number in range(2000):
            transport.write(b"%05d" % number)
        assert await protocol.received(len(expected)) == expected
        transport.close()
        await protocol.lost.wait()


async def test_extra_info_has_the_session():
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        assert isinstance(transport, asyncio.Transport)
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
        assert transport.get_extra_info("cipher")[2] >= 128
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
        assert transport.get_extra_info("peername") == address
        assert transport.get_extra_info("socket").fileno() >= 0
        transport.close()
        await protocol.lost.wait()


async def test_alpn_and_server_name_work():
    names = []
    context = server_tls()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = lambda _object, name, _context: names.append(name)
    mine = client_tls()
    mine.set_alpn_protocols(["http/1.1"])
    async with serving(ssl=context) as (address, _):
        transport, protocol = await connect(address, ssl=mine)
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert names == ["localhost"]
        transport.close()
        await protocol.lost.wait()


async def test_unknown_certificate_raises_an_ssl_error():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)  # the server's side may report the alert
    async with serving() as (address, protocols):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(address, ssl=ssl.create_default_context())
        await turns(20)
        assert all(protocol.calls == [] for protocol in protocols)


async def test_wrong_host_name_raises_an_ssl_error():
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with serving() as (address, _):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
            await connect(address, server_hostname="elsewhere.invalid")
        await turns(20)


async def test_plain_text_client_is_refused_by_the_server():
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context["message"]))
    async with serving() as (address, protocols):
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *address)
        transport.write(b"GET / HTTP/1.0\r\n\r\n")
        await protocol.lost.wait()
        assert len(protocols) == 1
        assert "connection_made" not in protocols[0].calls
        assert len(errors) <= 1


async def test_peer_that_closes_during_the_handshake_raises_connection_reset():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        attempt = asyncio.ensure_future(connect(listener.getsockname()))
        accepted, _ = await loop.sock_accept(listener)
        await loop.sock_recv(accepted, 10_000)
        accepted.close()
        with pytest.raises((ConnectionResetError, ssl.SSLError)):
            await attempt
    await turns(3)


async def test_handshake_timeout_ends_a_silent_peer():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"):
            await connect(listener.getsockname(), ssl_handshake_timeout=0.01)
    await turns(3)


async def test_end_of_stream_reaches_the_other_side():
    async with serving() as (address, protocols):
        transport, protocol = await connect(address)
        transport.write(b"bye")
        await protocol.received(3)
        transport.close()
        await protocol.lost.wait()
        await protocols[0].lost.wait()
        assert protocols[0].calls[-2:] == ["eof_received", "connection_lost"]
        assert protocols[0].error is None


async def test_data_written_just_before_close_arrives():
    async with serving(Recorder) as (address, protocols):
        transport, protocol = await connect(address)
        data = pattern(500_000)
        transport.write(data)
        transport.close()
        await protocol.lost.wait()
        await protocols[0].lost.wait()
        assert protocols[0].data == data


async def test_abort_calls_connection_lost_once():
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        transport.abort()
        transport.abort()
        await protocol.lost.wait()
        await turns(3)
        assert protocol.calls.count("connection_lost") == 1


async def test_start_tls_upgrades_both_sides():
    loop = asyncio.get_running_loop()

    class Upgrading(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()
            self.transport.write(b"ready")
            self.task = loop.create_task(self.upgrade())

        async def upgrade(self):
            return await loop.start_tls(self.transport, inner, server_tls(), server_side=True)

    inner = Recorder()
    outer = Upgrading()
    server = await loop.create_server(lambda: outer, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"starttls")
    await protocol.received(5)
    secured = Recorder()
    near = await loop.start_tls(transport, secured, client_tls(), server_hostname="localhost")
    far = await outer.task
    near.write(b"question")
    assert await inner.received(8) == b"question"
    far.write(b"answer")
    assert await secured.received(6) == b"answer"
    assert protocol.data == b"ready"
    assert outer.data == b"starttls"
    assert near.get_extra_info("cipher") is not None
    near.close()
    await secured.lost.wait()
    await inner.lost.wait()
    server.close()
    await turns(3)


async def test_the_shutdown_timeout_ends_a_connection_whose_peer_does_not_read():
    """The peer half-closes without close_notify, and reads nothing; stock asyncio has a limit since 3.14.10."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, uringloop.Loop) and sys.version_info < (3, 14, 10):
        pytest.skip("stock asyncio waits for ever")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            sock, _ = listener.accept()
            return server_tls().wrap_socket(sock, server_side=True)

        accepting = loop.run_in_executor(None, serve)
        transport, protocol = await connect(listener.getsockname(), ssl_shutdown_timeout=0.05)
        peer = await accepting
        while transport.get_write_buffer_size() < 64 << 20:  # more than the kernel ever takes
            transport.write(bytes(1 << 20))
            await turns(3)
        peer.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            await protocol.lost.wait()
        assert isinstance(protocol.error, TimeoutError)
        peer.close()


async def test_drain_raises_when_the_connection_is_lost():
    loop = asyncio.get_running_loop()
    if not isinstance(loop, uringloop.Loop) and sys.version_info < (3, 14):
        pytest.skip("stock asyncio does not report is_closing() then, and connection_lost never runs")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            sock, _ = listener.accept()
            return server_tls().wrap_socket(sock, server_side=True)

        accepting = loop.run_in_executor(None, serve)
        _, writer = await asyncio.open_connection(
            *listener.getsockname(), ssl=client_tls(), server_hostname="localhost"
        )
        peer = await accepting
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        n_writes = 0
        with pytest.raises(ConnectionError):
            while n_writes < 10_000:
                n_writes += 1
                writer.write(b"x")
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_transport_is_closing_once_the_one_below_is():
    loop = asyncio.get_running_loop()
    if not isinstance(loop, uringloop.Loop) and sys.version_info < (3, 14):
        pytest.skip("stock asyncio is not")
    async with serving() as (address, _):
        plain, protocol = await loop.create_connection(asyncio.Protocol, *address)
        protocol = Recorder()
        transport = await loop.start_tls(plain, protocol, client_tls(), server_hostname="localhost")
        assert not transport.is_closing()
        plain.abort()
        assert transport.is_closing()
        await turns(3)
        assert transport.is_closing()


async def test_a_failed_start_tls_leaves_no_cycle():
    """CPython tests this since 3.14.10."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, uringloop.Loop):
        pytest.skip("stock asyncio leaves a cycle in older versions")
    async with serving() as (address, _):
        transport, protocol = await loop.create_connection(asyncio.Protocol, *address)
        seen = weakref.ref(transport)
        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(ssl.SSLCertVerificationError):
                await loop.start_tls(
                    transport, protocol, ssl.create_default_context(), server_hostname="localhost"
                )
            del transport, protocol
            await turns(5)
            assert seen() is None
        finally:
            gc.enable()


async def test_streams_can_start_tls():
    async def handle(reader, writer):
        await reader.readline()
        writer.write(b"go\n")
        await writer.drain()
        await writer.start_tls(server_tls())
        writer.write(await reader.readline())
        await writer.drain()
        await reader.read()
        writer.close()
        handled.set()

    handled = asyncio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"starttls\n")
    assert await reader.readline() == b"go\n"
    await writer.start_tls(client_tls(), server_hostname="localhost")
    writer.write(b"private\n")
    assert await reader.readline() == b"private\n"
    writer.close()
    await writer.wait_closed()
    await handled.wait()
    server.close()
    await turns(10)


async def test_flow_control_pauses_and_resumes():
    async with serving(Recorder) as (address, protocols):
        transport, protocol = await connect(address)
        transport.write(b"x")
        while not protocols:
            await asyncio.sleep(0)
        await protocols[0].received(1)
        protocols[0].transport.pause_reading()
        sent = 1
        while not protocol.paused.is_set():
            transport.write(bytes(1 << 16))
            sent += 1 << 16
            assert sent < 1 << 26
            await asyncio.sleep(0)
        protocols[0].transport.resume_reading()
        await protocol.resumed.wait()
        await protocols[0].received(sent)
        transport.close()
        await protocol.lost.wait()


async def test_server_context_is_reachable():
    context = server_tls()
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0, ssl=context)
    assert server._ssl_context is context
    server.close()
    await server.wait_closed()


async def test_many_connections_at_once():
    async with serving() as (address, _):
        clients = await asyncio.gather(*(connect(address) for _ in range(10)))
        for number, (transport, _) in enumerate(clients):
            transport.write(b"%d" % number * 1000)
        for number, (_, protocol) in enumerate(clients):
            assert await protocol.received(1000) == b"%d" % number * 1000
        for transport, protocol in clients:
            transport.close()
            await protocol.lost.wait()


async def test_sendfile_over_tls_falls_back_to_writing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    async with serving() as (address, _):
        transport, protocol = await connect(address)
        with open(path, "rb") as file:
            assert await asyncio.get_running_loop().sendfile(transport, file) == 300_000
        assert await protocol.received(300_000) == path.read_bytes()
        transport.close()
        await protocol.lost.wait()


@pytest.mark.parametrize("where", ["client", "server"])
async def test_an_ssl_object_with_methods_of_its_own_is_used(where):
    """sslobject_class, which tools set to log or check the data."""
    calls = set()

    class Watched(ssl.SSLObject):
        def do_handshake(self):
            calls.add("do_handshake")
            return super().do_handshake()

        def read(self, *arguments):
            calls.add("read")
            return super().read(*arguments)

        def write(self, data):
            calls.add("write")
            return super().write(data)

        def unwrap(self):
            calls.add("unwrap")
            return super().unwrap()

    contexts = {"client": client_tls(), "server": server_tls()}
    contexts[where].sslobject_class = Watched
    async with serving(ssl=contexts["server"]) as (address, _):
        transport, protocol = await connect(address, ssl=contexts["client"])
        transport.write(pattern(100_000))
        assert await protocol.received(100_000) == pattern(100_000)
        assert isinstance(transport.get_extra_info("ssl_object"), Watched) == (where == "client")
        transport.close()
        await protocol.lost.wait()
        await turns(10)
    assert calls == {"do_handshake", "read", "write", "unwrap"}


async def test_a_context_may_be_anything_that_wraps_bios():
    """truststore's context overrides wrap_bio(); others are not even an ssl.SSLContext."""

    class Context:
        count = 0

        def wrap_bio(self, *arguments, **kwargs):
            self.count += 1
            return client_tls().wrap_bio(*arguments, **kwargs)

    class Derived(ssl.SSLContext):
        count = 0

        def wrap_bio(self, *arguments, **kwargs):
            self.count += 1
            return super().wrap_bio(*arguments, **kwargs)

    derived = Derived(ssl.PROTOCOL_TLS_CLIENT)
    derived.load_verify_locations(DATA / "cert.pem")
    async with serving() as (address, _):
        for context in (Context(), derived):
            transport, protocol = await connect(address, ssl=context)
            transport.write(b"secret")
            assert await protocol.received(6) == b"secret"
            transport.close()
            await protocol.lost.wait()
            assert context.count == 1
