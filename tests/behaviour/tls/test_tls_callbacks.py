"""What a TLS protocol's callbacks may do, and what asyncio logs about them."""

import asyncio
import contextlib
import gc
import logging
import ssl

import pytest
from support.helpers import (
    DATA,
    BufferedRecorder,
    Recorder,
    client_tls,
    close_with_open_transport,
    monitor_of,
    run,
    server_tls,
    socketpair,
    turns,
)
from support.tls_peer import Peer

from .test_tls_by_hand import Echo, secured


async def accept(protocol, peer_side):
    """Start a TLS server's end on the loop and finish the handshake by hand; (task, peer)."""
    near, far = peer_side
    far.setblocking(False)
    peer = Peer(far)
    making = asyncio.ensure_future(
        asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, near, ssl=server_tls())
    )
    await peer.handshake()
    return making, peer


@pytest.mark.expects_loop_errors
async def test_an_exception_in_connection_made_ends_the_connection(loop_errors):
    class Failing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise ZeroDivisionError("on purpose")

    protocol = Failing()
    making, peer = await accept(protocol, socketpair("tcp"))
    with pytest.raises(ZeroDivisionError):
        await making
    await protocol.lost.wait()
    assert isinstance(protocol.error, ZeroDivisionError)
    assert len(loop_errors) == 1
    assert isinstance(loop_errors[0]["exception"], ZeroDivisionError)
    peer.sock.close()
    await turns(2)


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_connection_made_may_end_the_connection(end):
    class Ending(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            getattr(transport, end)()

    protocol = Ending()
    making, peer = await accept(protocol, socketpair("tcp"))
    if end == "close":
        await peer.unwrap()
    await making
    await protocol.lost.wait()
    assert protocol.error is None
    assert protocol.calls[0] == "connection_made"
    assert protocol.calls[-1] == "connection_lost"
    assert "data_received" not in protocol.calls
    peer.sock.close()
    await turns(2)


async def test_pause_reading_in_connection_made_takes_effect_from_the_first_byte():
    class Pausing(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with secured(Pausing()) as (transport, protocol, peer):
        await peer.write(b"early")
        await turns(10)
        assert protocol.data == b""
        transport.resume_reading()
        assert await protocol.received(5) == b"early"


async def test_write_in_connection_made_and_in_data_received():
    class Talking(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello ")

        def data_received(self, data):
            super().data_received(data)
            self.transport.write(data)
            self.transport.close()

    async with secured(Talking()) as (_, protocol, peer):
        await peer.write(b"world")
        assert await peer.read(11) == b"hello world"
        await peer.unwrap()
        await protocol.lost.wait()
        assert protocol.error is None


async def test_the_protocol_may_be_replaced_in_data_received():
    after = Recorder()

    class Leaving(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.set_protocol(after)

    async with secured(Leaving()) as (_, before, peer):
        await peer.write(b"one")
        await before.received(3)
        await peer.write(b"two")
        assert await after.received(3) == b"two"
        await peer.unwrap()
        await after.lost.wait()
        assert after.calls == ["data_received", "eof_received", "connection_lost"]
        before.lost.set()


async def test_a_buffered_protocol_may_become_a_plain_one_in_the_middle():
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("stock asyncio reads on with the next turn")
    after = Recorder()

    class Leaving(BufferedRecorder):
        def buffer_updated(self, count):
            super().buffer_updated(count)
            self.transport.set_protocol(after)

    async with secured(Leaving(4)) as (_, before, peer):
        await peer.write(b"head and the rest")
        assert await after.received(13) == b" and the rest"
        assert before.data == b"head"
        await peer.unwrap()
        await after.lost.wait()
        before.lost.set()


@pytest.mark.expects_loop_errors
async def test_an_empty_buffer_of_the_protocol_ends_the_connection(loop_errors):
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("stock asyncio takes it for the end of the stream")
    async with secured(BufferedRecorder(0)) as (_, protocol, peer):
        await peer.write(b"x")
        await protocol.lost.wait()
        assert isinstance(protocol.error, RuntimeError)
        assert len(loop_errors) == 1


@pytest.mark.expects_loop_errors
async def test_exceptions_in_pause_writing_and_eof_received_are_reported(loop_errors):
    class Failing(Recorder):
        def pause_writing(self):
            raise ZeroDivisionError("pause")

        def eof_received(self):
            raise ZeroDivisionError("eof")

    async with secured(Failing()) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=0)  # an empty buffer has reached that limit
        assert loop_errors[0]["message"] == "protocol.pause_writing() failed"
        with pytest.raises((EOFError, OSError)):
            await peer.unwrap()
        await protocol.lost.wait()
        assert loop_errors[1]["message"] == "Error calling eof_received()"


async def test_eof_received_cannot_keep_a_tls_connection_open(caplog):
    class Keeping(Recorder):
        keep_open = True

    async with secured(Keeping()) as (_, protocol, peer):
        await peer.unwrap()
        await protocol.lost.wait()
    assert "returning true from eof_received() has no effect when using ssl" in caplog.text


async def test_writing_to_a_lost_connection_warns_after_a_while(caplog):
    async with secured() as (transport, protocol, _):
        transport.abort()
        await protocol.lost.wait()
        for _ in range(8):
            transport.write(b"x")
        transport.writelines([b"x"])
    assert "SSL connection is closed" in caplog.text


async def test_extra_info_is_available_after_the_end():
    async with secured(Echo()) as (transport, protocol, peer):
        await peer.unwrap()
        await protocol.lost.wait()
        assert transport.is_closing()
        assert transport.get_extra_info("cipher") is not None
        assert transport.get_extra_info("nothing", "default") == "default"


async def test_debug_mode_logs_the_handshake(caplog):
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG, logger="asyncio"):
        async with secured() as (_, _protocol, peer):
            await peer.unwrap()
            await turns(3)
    assert "starts SSL handshake" in caplog.text
    assert "SSL handshake took" in caplog.text
    caplog.clear()  # its records hold the transport


def test_an_unclosed_transport_warns(loop):
    protocol = Recorder()
    near, far = socketpair("tcp")

    async def connect():
        making, _ = await accept(protocol, (near, far))
        await making

    run(loop, connect())
    with pytest.warns(ResourceWarning) as caught:
        close_with_open_transport(loop, protocol)
    texts = [str(warning.message) for warning in caught]
    assert texts.count("unclosed transport <asyncio._SSLProtocolTransport object>") == 1
    far.close()
    near.close()


async def test_a_kept_ssl_object_is_harmless_after_the_end():
    async with secured(Echo()) as (transport, protocol, peer):
        session = transport.get_extra_info("ssl_object")
        transport.pause_reading()
        await peer.write(bytes(100_000))  # data that the application never reads
        await turns(5)
        transport.abort()
        await protocol.lost.wait()
        protocol.transport = None
    del transport, protocol
    gc.collect()
    assert session.version() == "TLSv1.3"
    session.write(b"never read")
    with contextlib.suppress(ssl.SSLError):
        session.read(10)
    with pytest.raises(ssl.SSLError):
        session.unwrap()


async def test_a_server_name_callback_may_set_another_context():
    def take_other(tls, _name, _context):
        tls.context = other

    def prepare(context):
        context.sni_callback = take_other
        return context

    other = server_tls()
    async with secured(Echo(), prepare=prepare) as (transport, _protocol, peer):
        assert transport.get_extra_info("ssl_object").context is other
        await peer.write(b"a" * 40_000)
        assert await peer.read(40_000) == b"a" * 40_000


async def test_post_handshake_authentication_goes_on_between_data():
    def prepare(context):
        context.post_handshake_auth = True
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(DATA / "cert.pem")
        return context

    context = client_tls()
    context.post_handshake_auth = True
    context.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    async with secured(Echo(), prepare=prepare, peer_context=context) as (transport, _protocol, peer):
        session = transport.get_extra_info("ssl_object")
        assert session.getpeercert() is None
        session.verify_client_post_handshake()
        transport.write(b"a")
        assert await peer.read(1) == b"a"
        await peer.write(b"b")
        assert await peer.read(1) == b"b"
        assert session.getpeercert()["serialNumber"]
