"""TLS against a peer that the test drives: odd chunks, broken records, ends in the middle, slow readers."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sysconfig

import pytest
from support.helpers import (
    DATA,
    BufferedRecorder,
    Recorder,
    client_tls,
    monitor_of,
    pattern,
    server_tls,
    socketpair,
    turns,
    until,
)
from support.tls_peer import Peer


def plain_engine(context):
    """uringloop uses the ssl module's own methods for contexts with a message callback."""
    context._msg_callback = lambda *_: None
    return context


ENGINES = pytest.mark.parametrize("prepare", [lambda context: context, plain_engine], ids=["direct", "plain"])


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


@contextlib.asynccontextmanager
async def secured(protocol=None, *, prepare=lambda context: context, sizes=None, peer_context=None, **kwargs):
    """(transport, protocol, peer) after the handshake: a TLS server's end on the loop, and a client driven by hand."""
    loop = asyncio.get_running_loop()
    near, far = socketpair("tcp")
    far.setblocking(False)
    protocol = Recorder() if protocol is None else protocol
    peer = Peer(far, sizes=sizes, context=peer_context)
    context = prepare(kwargs.pop("context", None) or server_tls())
    making = asyncio.ensure_future(
        loop.connect_accepted_socket(lambda: protocol, near, ssl=context, **kwargs)
    )
    await peer.handshake()
    transport, _ = await making
    try:
        yield transport, protocol, peer
    finally:
        far.close()
        if not protocol.lost.is_set():
            transport.abort()
            await protocol.lost.wait()
        await turns(2)


@ENGINES
async def test_the_chosen_engine_is_used(prepare):
    """Without this test the others could run the plain engine twice, and pass."""
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("only uringloop has these engines")
    if sysconfig.get_config_var("Py_GIL_DISABLED") or os.environ.get("URINGLOOP_TLS_DIRECT") == "0":
        pytest.skip("only the plain engine here")
    async with secured(prepare=prepare) as (transport, _protocol, _peer):
        name = "ssl" if prepare is plain_engine else "direct"
        begin = f"<_SSLProtocolTransport WRAPPED engine={name} over <_SelectorSocketTransport fd="
        assert repr(transport).startswith(begin)


def test_a_tls_transport_cannot_be_made_without_a_protocol():
    from uringloop.transports.tls.transport import TlsTransport

    with pytest.raises(TypeError):
        TlsTransport.__new__(TlsTransport, None)


@ENGINES
@pytest.mark.parametrize("seed", range(3))
async def test_the_plaintext_does_not_depend_on_the_chunks_of_the_ciphertext(prepare, seed):
    chance = random.Random(seed)
    sizes = [1, 2, 5, 6, 21, 100, 1000, 16406, 40000]
    async with secured(Echo(), prepare=prepare, sizes=lambda: chance.choice(sizes)) as (_, protocol, peer):
        sent = b""
        for _ in range(12):
            data = pattern(chance.choice([1, 10, 1024, 16384, 16385, 50000]))
            sent += data
            await peer.write(data)
            assert await peer.read(len(data)) == data
        assert protocol.data == sent


@ENGINES
@pytest.mark.parametrize("size", [1, 7, 1000, 65536])
async def test_buffered_protocol_of_any_size_gets_everything(prepare, size):
    class Views(BufferedRecorder):
        def get_buffer(self, size_hint):
            return memoryview(super().get_buffer(size_hint))

    async with secured(Views(size), prepare=prepare) as (_, protocol, peer):
        data = pattern(3000 if size < 10 else 200_000)
        sending = asyncio.ensure_future(peer.write(data))
        assert await protocol.received(len(data)) == data
        await sending
        await peer.unwrap()
        await protocol.lost.wait()
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.slow
@ENGINES
async def test_twenty_megabytes_to_a_slow_reader(prepare):
    data = pattern(20 << 20)
    is_stock = monitor_of(asyncio.get_running_loop()) == "asyncio"
    async with secured(prepare=prepare) as (transport, protocol, peer):
        transport.write(data)
        # stock asyncio passes one write as a whole to the transport below, where it is not counted
        assert is_stock or protocol.paused.is_set()
        assert is_stock or transport.get_write_buffer_size() > 10 << 20
        assert await peer.read(1 << 20) == data[: 1 << 20]
        assert not protocol.resumed.is_set()
        assert await peer.read(19 << 20) == data[1 << 20 :]
        await until(lambda: transport.get_write_buffer_size() == 0)
        calls = [] if is_stock else ["pause_writing", "resume_writing"]
        assert protocol.calls == ["connection_made", *calls]


@ENGINES
async def test_everything_written_arrives_before_close_notify_although_the_peer_is_slow(prepare):
    data = pattern(4 << 20)
    async with secured(prepare=prepare) as (transport, protocol, peer):
        transport.write(data)
        transport.close()
        assert await peer.read(len(data)) == data
        assert await peer.call(peer.tls.read, 1) == b""
        await peer.unwrap()
        await protocol.lost.wait()
        assert protocol.error is None


@ENGINES
async def test_a_broken_record_ends_the_connection_with_an_ssl_error(prepare):
    async with secured(prepare=prepare) as (_, protocol, peer):
        peer.tls.write(b"x" * 100)
        record = bytearray(peer.outgoing.read())
        record[50] ^= 1
        peer.sock.send(record)
        await protocol.lost.wait()
        assert isinstance(protocol.error, ssl.SSLError)
        # depends on the version of OpenSSL: the second is that of 3.6
        assert protocol.error.reason in ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")
        assert str(protocol.error).startswith(f"[SSL: {protocol.error.reason}] ")
        assert protocol.calls == ["connection_made", "connection_lost"]


@ENGINES
async def test_an_unrelated_error_in_openssls_queue_is_ignored(prepare):
    async with secured(Echo(), prepare=prepare) as (_, _protocol, peer):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with pytest.raises(ssl.SSLError):
            context.load_verify_locations(cadata="no certificate")
        await peer.write(b"still there")
        assert await peer.read(11) == b"still there"


@pytest.mark.expects_loop_errors
@ENGINES
async def test_an_exception_of_the_protocol_ends_the_connection_and_is_reported(prepare, loop_errors):
    class Failing(Recorder):
        def data_received(self, data):
            raise ZeroDivisionError("on purpose")

    async with secured(Failing(), prepare=prepare) as (_, protocol, peer):
        await peer.write(b"x")
        await protocol.lost.wait()
        assert isinstance(protocol.error, ZeroDivisionError)
        assert [context["message"] for context in loop_errors] == ["Fatal error on SSL protocol"]


async def test_close_notify_of_the_peer_is_eof_and_is_answered():
    async with secured() as (transport, protocol, peer):
        await peer.write(b"last words")
        await peer.unwrap()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.error is None
        assert transport.is_closing()


async def test_half_close_of_the_socket_without_close_notify_is_eof():
    async with secured() as (_, protocol, peer):
        await peer.write(b"last words")
        peer.sock.shutdown(socket.SHUT_WR)
        await protocol.lost.wait()
        assert protocol.data == b"last words"
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
        assert protocol.error is None


async def test_shutdown_timeout_ends_a_peer_that_does_not_answer():
    async with secured(ssl_shutdown_timeout=0.02) as (transport, protocol, _):
        transport.close()
        await protocol.lost.wait()
        assert isinstance(protocol.error, TimeoutError)
        assert str(protocol.error) == "SSL shutdown timed out"


async def test_paused_reading_stops_the_peer_and_loses_nothing():
    data = pattern(8 << 20)
    async with secured() as (transport, protocol, peer):
        transport.pause_reading()
        assert not transport.is_reading()
        sending = asyncio.ensure_future(peer.write(data))
        await until(lambda: transport.get_read_buffer_size() >= transport.get_read_buffer_limits()[1])
        await turns(50)
        assert not sending.done()
        assert not protocol.data
        transport.resume_reading()
        assert await protocol.received(len(data)) == data
        await sending


async def test_an_end_while_reading_is_paused_follows_the_data():
    async with secured() as (transport, protocol, peer):
        transport.pause_reading()
        await peer.write(b"kept")
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport.get_read_buffer_size())
        await turns(5)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.data == b"kept"


class PausingAtEach(BufferedRecorder):
    """Pauses after every buffer that it receives."""

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.transport.pause_reading()


@ENGINES
async def test_an_end_waits_for_a_protocol_that_pauses_at_each_buffer(prepare):
    """Also if it pauses again while the data before the end is read."""
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("asyncio fills one buffer and drops the rest")
    async with secured(PausingAtEach(4), prepare=prepare) as (transport, protocol, peer):
        transport.pause_reading()
        await peer.write(b"0123456789")
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport.get_read_buffer_size())
        await turns(5)
        for n_bytes in (4, 8, 10):
            transport.resume_reading()
            await turns(3)
            assert protocol.data == b"0123456789"[:n_bytes]
            assert "eof_received" not in protocol.calls
        transport.resume_reading()
        await protocol.lost.wait()
        assert protocol.calls == [
            "connection_made",
            *["buffer_updated"] * 3,
            "eof_received",
            "connection_lost",
        ]


@pytest.mark.parametrize("is_read", [False, True])
async def test_close_after_an_end_that_waits_for_a_paused_protocol(is_read):
    """Unread data is dropped, and the connection ends."""
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("asyncio waits forever")
    async with secured(PausingAtEach(4)) as (transport, protocol, peer):
        transport.pause_reading()
        await peer.write(b"0123456789")
        peer.sock.shutdown(socket.SHUT_WR)
        await until(lambda: transport.get_read_buffer_size())
        await turns(5)
        if is_read:
            transport.resume_reading()
            await turns(3)
        transport.close()
        await asyncio.wait_for(protocol.lost.wait(), 5)
        assert protocol.data == b"0123456789"[: 4 * is_read]


async def test_abort_in_data_received_delivers_nothing_more():
    class Aborting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.abort()

    async with secured(Aborting()) as (_, protocol, peer):
        await peer.write(b"one")
        with contextlib.suppress(OSError):
            await peer.write(b"two")
        await protocol.lost.wait()
        assert protocol.data in (b"one", b"onetwo")  # they may arrive in one piece
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]
        assert protocol.error is None


async def test_write_takes_all_bytes_like_objects_and_copies_mutable_ones():
    async with secured() as (transport, _, peer):
        mutable = bytearray(b"before")
        transport.write(mutable)
        mutable[:] = b"after!"
        transport.write(memoryview(b"0123456789")[2:5])
        transport.writelines([b"a", bytearray(b"b"), b"", memoryview(b"c")])
        transport.writelines([])
        transport.write(b"")
        assert await peer.read(12) == b"before234abc"
        with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got str"):
            transport.write("text")
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        assert not transport.can_write_eof()


async def test_limits_are_the_same_as_in_asyncio():
    async with secured() as (transport, protocol, _):
        assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
        assert transport.get_read_buffer_limits() == (64 * 1024, 256 * 1024)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_read_buffer_limits(low=10)
        assert transport.get_read_buffer_limits() == (10, 40)
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert transport.get_protocol() is protocol


async def test_set_protocol_sends_the_rest_to_the_new_protocol():
    async with secured() as (transport, first, peer):
        await peer.write(b"one")
        await first.received(3)
        second = Recorder()
        transport.set_protocol(second)
        await peer.write(b"two")
        assert await second.received(3) == b"two"
        await peer.unwrap()
        await second.lost.wait()
        first.lost.set()


@ENGINES
async def test_tls_1_2_works_too(prepare):
    context = server_tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with secured(Echo(), prepare=prepare, context=context) as (transport, _, peer):
        assert transport.get_extra_info("cipher")[1] == "TLSv1.2"
        data = pattern(100_000)
        sending = asyncio.ensure_future(peer.write(data))
        await sending
        assert await peer.read(len(data)) == data


def requiring_certificates():
    context = server_tls()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(DATA / "cert.pem")
    return context


async def test_the_server_sees_the_clients_certificate():
    mine = client_tls()
    mine.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    async with secured(Echo(), context=requiring_certificates(), peer_context=mine) as (transport, _, peer):
        assert transport.get_extra_info("peercert")["subject"] == ((("commonName", "localhost"),),)
        await peer.write(b"x")
        assert await peer.read(1) == b"x"


async def test_client_without_a_certificate_is_refused():
    near, far = socketpair("tcp")
    far.setblocking(False)
    protocol = Recorder()
    loop = asyncio.get_running_loop()
    peer = Peer(far)
    making = asyncio.ensure_future(
        loop.connect_accepted_socket(lambda: protocol, near, ssl=requiring_certificates())
    )
    await peer.handshake()
    with pytest.raises(ssl.SSLError) as failure:
        await making
    assert failure.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert protocol.calls == []
    far.close()
    await turns(3)


async def test_garbage_instead_of_a_handshake_is_an_ssl_error():
    near, far = socketpair("tcp")
    loop = asyncio.get_running_loop()
    far.send(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ssl.SSLError) as failure:
        await loop.connect_accepted_socket(Recorder, near, ssl=server_tls())
    assert failure.value.reason == "HTTP_REQUEST"
    far.close()
    await turns(3)


@ENGINES
async def test_renegotiation_by_the_client_is_refused(prepare):
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl program, and the ssl module cannot renegotiate")
    loop = asyncio.get_running_loop()
    protocol = Echo()
    context = prepare(server_tls())
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    with subprocess.Popen(
        [program, "s_client", "-connect", f"127.0.0.1:{port}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as client:
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        assert await protocol.received(6) == b"hello\n"
        client.stdin.write(b"R\n")  # the command of the program for it
        client.stdin.flush()
        await protocol.lost.wait()
        output, _ = await loop.run_in_executor(None, client.communicate)
    assert b"RENEGOTIATING" in output
    assert b"no renegotiation" in output
    assert protocol.data == b"hello\n"
    server.close()
    await turns(3)


# Ends in the middle of a handshake


async def client_hello():
    peer_side, other = socketpair("unix")
    peer = Peer(peer_side)
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    data = peer.outgoing.read()
    peer_side.close()
    other.close()
    return data


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
async def test_peer_that_closes_in_the_middle_of_the_handshake(share):
    near, far = socketpair("tcp")
    hello = await client_hello()
    protocol = Recorder()
    making = asyncio.ensure_future(
        asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, near, ssl=server_tls())
    )
    await turns(3)
    far.send(hello[: int(len(hello) * share)])
    await turns(3)
    far.close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await making
    assert protocol.calls == []
    await turns(3)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
async def test_handshake_that_is_cancelled_in_the_middle_leaves_nothing(share):
    near, far = socketpair("tcp")
    hello = await client_hello()
    protocol = Recorder()
    making = asyncio.ensure_future(
        asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, near, ssl=server_tls())
    )
    await turns(3)
    far.send(hello[: int(len(hello) * share)])
    await turns(5)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await until(lambda: near.fileno() == -1)
    assert protocol.calls == []
    far.close()
    await turns(3)


async def test_close_and_abort_during_start_tls_end_it():
    loop = asyncio.get_running_loop()
    for end in ("close", "abort"):
        near, far = socketpair("tcp")
        below = Recorder()
        transport, _ = await loop.create_connection(lambda below=below: below, sock=near)
        above = Recorder()
        upgrade = asyncio.ensure_future(
            loop.start_tls(transport, above, client_tls(), server_hostname="localhost")
        )
        far.setblocking(False)
        await until(lambda far=far: has_data(far))
        getattr(transport, end)()
        assert await upgrade is None  # the odd result of stock asyncio
        assert above.calls == []
        far.close()
        await turns(3)


def has_data(sock):
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


# start_tls


async def test_start_tls_finds_a_client_hello_that_waited_in_the_socket():
    loop = asyncio.get_running_loop()
    near, far = socketpair("tcp")
    far.setblocking(False)
    below = Recorder()
    transport, _ = await loop.connect_accepted_socket(lambda: below, near)
    transport.pause_reading()
    peer = Peer(far)
    shaking = asyncio.ensure_future(peer.handshake())
    await turns(20)
    above = Echo()
    above.transport = await loop.start_tls(transport, above, server_tls(), server_side=True)
    await shaking
    await peer.write(b"hello")
    assert await peer.read(5) == b"hello"
    assert below.data == b""
    far.close()
    await above.lost.wait()


async def test_start_tls_finds_a_client_hello_that_arrived_with_the_command():
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == "asyncio":
        pytest.skip("fixed only in newer versions of Python")
    ended = asyncio.Event()

    async def handle(reader, writer):
        assert await reader.readline() == b"starttls\n"
        await writer.start_tls(server_tls())
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        ended.set()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as far:
        far.setblocking(False)
        peer = Peer(far)
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        far.send(b"starttls\n" + peer.outgoing.read())
        await peer.handshake()
        await peer.write(b"private\n")
        assert await peer.read(8) == b"private\n"
        await peer.unwrap()
        await ended.wait()
    server.close()
    await turns(5)


@ENGINES
async def test_tls_inside_tls(prepare):
    loop = asyncio.get_running_loop()
    near, far = socketpair("tcp")
    outer, inner = Recorder(), Echo()
    data = pattern(300_000)

    async def serve():
        transport, _ = await loop.connect_accepted_socket(lambda: outer, near, ssl=prepare(server_tls()))
        inner.transport = await loop.start_tls(transport, inner, prepare(server_tls()), server_side=True)

    serving = asyncio.ensure_future(serve())
    transport, _ = await loop.create_connection(
        Recorder, sock=far, ssl=prepare(client_tls()), server_hostname="localhost"
    )
    mine = Recorder()
    transport = await loop.start_tls(transport, mine, prepare(client_tls()), server_hostname="localhost")
    await serving
    transport.write(data)
    assert await mine.received(len(data)) == data
    assert transport.get_extra_info("sockname")
    transport.close()
    await mine.lost.wait()
    await inner.lost.wait()
    await turns(10)


async def test_start_tls_refuses_other_contexts_and_transports():
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError, match=r"an instance of ssl\.SSLContext, got None"):
        await loop.start_tls(None, None, None)
    with pytest.raises(TypeError, match="is not supported by start_tls"):
        await loop.start_tls(object(), None, client_tls())


async def test_timeouts_must_be_positive():
    loop = asyncio.get_running_loop()
    for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
        near, far = socketpair("tcp")
        with pytest.raises(ValueError, match=f"{name} should be a positive number, got 0"):
            await loop.connect_accepted_socket(Recorder, near, ssl=server_tls(), **{name: 0})
        near.close()
        far.close()
