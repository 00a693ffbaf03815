"""How connections end: close, abort, half-close, reset; connection_lost is called once, with the right exception."""

import asyncio
import errno
import socket

import pytest
from support.connections import KINDS
from support.helpers import (
    Recorder,
    abort,
    connect_unshared,
    fill,
    monitor_of,
    open_pair,
    open_transport,
    read_exactly,
    read_to_end,
    reset_on_close,
    socketpair,
    turns,
    until,
)


class HalfOpen(Recorder):
    keep_open = True


@KINDS
async def test_close_sends_what_was_written_and_then_the_end(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.write(b"last words")
        transport.close()
        assert transport.is_closing()
        assert await read_to_end(peer) == b"last words"
        await protocol.lost.wait()
        assert protocol.error is None
        assert protocol.calls == ["connection_made", "connection_lost"]


@KINDS
async def test_close_waits_for_a_slow_peer(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        transport.write(b"tail")
        transport.close()
        await turns(5)
        assert not protocol.lost.is_set()
        data = await read_to_end(peer)
        assert len(data) == filled + 4
        assert data.endswith(b"tail")
        await protocol.lost.wait()
        assert protocol.error is None


@KINDS
async def test_write_eof_waits_for_a_slow_peer(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        transport.write(b"tail")
        transport.write_eof()
        await turns(5)
        data = await read_to_end(peer)
        assert len(data) == filled + 4
        assert data.endswith(b"tail")
        assert not protocol.lost.is_set()


@KINDS
async def test_connection_lost_is_not_called_inside_close(kind):
    async with open_transport(kind=kind) as (transport, protocol, _peer):
        transport.close()
        assert protocol.calls == ["connection_made"]
        await protocol.lost.wait()


@KINDS
@pytest.mark.parametrize("first", ["close", "abort"])
@pytest.mark.parametrize("second", ["close", "abort"])
async def test_connection_lost_is_called_exactly_once(kind, first, second):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        getattr(transport, first)()
        getattr(transport, second)()
        peer.close()
        await protocol.lost.wait()
        getattr(transport, second)()
        await turns(5)
        assert protocol.calls.count("connection_lost") == 1
        assert protocol.error is None


@KINDS
async def test_nothing_is_delivered_after_close(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        peer.send(b"too late")
        transport.close()
        await protocol.lost.wait()
        await turns(3)
        assert protocol.data == b""


async def test_abort_drops_unsent_data():
    async with open_transport(kind="unix") as (transport, protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        transport.write(b"dropped")
        transport.abort()
        await protocol.lost.wait()
        assert protocol.error is None
        assert transport.get_write_buffer_size() == 0
        assert len(await read_to_end(peer)) == filled


async def test_abort_does_not_drop_data_written_right_before():
    """asyncio's write() has sent it by then; aiohttp's tests of lost connections rely on that."""
    ours, peer = socket.socketpair()
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, ours)
    transport.write(b"one ")
    transport.writelines([b"two ", b"three"])
    transport.abort()
    await protocol.lost.wait()
    with peer:
        assert peer.recv(100) == b"one two three"
        assert peer.recv(100) == b""


async def test_abort_with_linger_zero_sends_a_reset():
    async with open_transport() as (transport, protocol, peer):
        reset_on_close(transport.get_extra_info("socket"))
        transport.abort()
        await protocol.lost.wait()
        with pytest.raises(ConnectionResetError):
            await read_to_end(peer)


@KINDS
async def test_peer_that_closes_ends_the_connection_without_error(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        peer.close()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "eof_received", "connection_lost"]
        assert protocol.error is None
        assert transport.is_closing()


async def test_reset_by_peer_is_reported_with_its_exception():
    async with open_transport() as (_transport, protocol, peer):
        reset_on_close(peer)
        peer.close()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert isinstance(protocol.error, ConnectionResetError)
        assert protocol.error.errno == errno.ECONNRESET


async def test_reset_while_data_waits_to_be_sent_is_reported_as_a_reset():
    """Receiving and sending find the reset in the same turn; the first of the two takes the socket's error."""
    async with open_transport() as (transport, protocol, peer):
        transport.write(bytes(30_000_000))
        await turns(2)
        reset_on_close(peer)
        peer.close()
        await protocol.lost.wait()
        assert isinstance(protocol.error, ConnectionResetError)
        assert protocol.calls.count("connection_lost") == 1


@pytest.mark.parametrize("is_used", [False, True])
async def test_reset_of_a_given_socket_while_data_waits_to_be_sent_is_reported_as_a_reset(is_used):
    """An io_uring loop does not receive from a given socket through the ring, or no longer once it is quiet."""
    near, peer = socketpair("tcp")
    near.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    if is_used:
        peer.send(b"x")
        await until(lambda: protocol.data)
    transport.write(bytes(30_000_000))
    await turns(3)
    reset_on_close(peer)
    peer.close()
    await protocol.lost.wait()
    assert isinstance(protocol.error, ConnectionResetError)
    assert protocol.calls.count("connection_lost") == 1


async def test_reset_while_data_waits_to_be_sent_is_reported_with_its_exception():
    async with open_transport() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(bytes(30_000_000))
        await turns(2)
        reset_on_close(peer)
        peer.close()
        await protocol.lost.wait()
        assert isinstance(protocol.error, (ConnectionResetError, BrokenPipeError))
        assert protocol.calls.count("connection_lost") == 1


@KINDS
async def test_writing_to_a_peer_that_closed_ends_the_connection(kind):
    async with open_transport(HalfOpen(), kind=kind) as (transport, protocol, peer):
        peer.close()
        await protocol.ended.wait()
        for _ in range(4):  # stock asyncio warns from the fifth write on
            transport.write(b"x")
            await turns(2)
        await protocol.lost.wait()
        assert protocol.error is None or isinstance(protocol.error, (BrokenPipeError, ConnectionResetError))


@KINDS
async def test_eof_received_that_returns_true_keeps_the_connection_open(kind):
    async with open_transport(HalfOpen(), kind=kind) as (transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        await turns(5)
        assert not transport.is_closing()
        assert protocol.calls == ["connection_made", "eof_received"]
        transport.write(b"answer after the end")
        assert await read_exactly(peer, 20) == b"answer after the end"
        transport.close()
        await protocol.lost.wait()
        assert protocol.calls.count("eof_received") == 1


@KINDS
async def test_eof_received_that_returns_none_closes_but_sends_unsent_data(kind):
    class Answer(Recorder):
        def eof_received(self):
            super().eof_received()
            self.transport.write(b"goodbye")

    async with open_transport(Answer(), kind=kind) as (_transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        assert await read_to_end(peer) == b"goodbye"
        await protocol.lost.wait()
        assert protocol.error is None


@KINDS
async def test_write_eof_sends_unsent_data_and_keeps_reading(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        assert transport.can_write_eof()
        transport.write(b"request")
        transport.write_eof()
        transport.write_eof()
        assert await read_to_end(peer) == b"request"
        peer.send(b"response")
        assert await protocol.received(8) == b"response"
        assert not transport.is_closing()


async def test_write_eof_with_a_full_buffer_follows_the_data():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        transport.write(b"tail")
        transport.write_eof()
        data = await read_to_end(peer)
        assert len(data) == filled + 4
        assert data.endswith(b"tail")


async def test_write_after_write_eof_raises():
    async with open_transport() as (transport, _protocol, _peer):
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"x")
        with pytest.raises(RuntimeError):
            transport.writelines([b"x"])


async def test_write_eof_after_close_is_ignored():
    async with open_transport() as (transport, protocol, _peer):
        transport.close()
        transport.write_eof()
        await protocol.lost.wait()


async def test_both_sides_half_closed_ends_the_connection():
    async with open_pair(HalfOpen(), HalfOpen()) as (near, far):
        near.transport.write_eof()
        await far.ended.wait()
        far.transport.write(b"answer")
        far.transport.write_eof()
        assert await near.received(6) == b"answer"
        await near.ended.wait()
        for protocol in (near, far):
            protocol.transport.close()
            await protocol.lost.wait()
            assert protocol.error is None


async def test_close_in_connection_made_works():
    class CloseAtOnce(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.close()

    async with open_transport(CloseAtOnce()) as (_transport, protocol, peer):
        await protocol.lost.wait()
        assert await read_to_end(peer) == b""
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_abort_in_connection_made_works():
    class AbortAtOnce(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.abort()

    async with open_transport(AbortAtOnce()) as (_transport, protocol, _peer):
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "connection_lost"]


async def test_write_and_close_in_connection_made_deliver():
    class Greet(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello and goodbye")
            transport.close()

    async with open_transport(Greet()) as (_transport, _protocol, peer):
        assert await read_to_end(peer) == b"hello and goodbye"


@pytest.mark.expects_loop_errors
async def test_exception_in_connection_lost_is_reported_and_the_socket_is_closed(loop_errors):
    class Bad(Recorder):
        def connection_lost(self, error):
            super().connection_lost(error)
            raise ZeroDivisionError

    async with open_transport(Bad()) as (transport, protocol, peer):
        transport.close()
        await protocol.lost.wait()
        assert await read_to_end(peer) == b""
        await until(lambda: loop_errors)
        assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]


async def test_the_fd_is_closed_after_connection_lost():
    async with open_transport() as (transport, protocol, _peer):
        sock = transport.get_extra_info("socket")
        assert sock.fileno() >= 0
        transport.close()
        await protocol.lost.wait()
        await turns(2)
        assert sock.fileno() == -1


async def test_the_fd_is_still_open_inside_connection_lost():
    class Inspecting(Recorder):
        fileno = None

        def connection_lost(self, error):
            self.fileno = self.transport.get_extra_info("socket").fileno()
            super().connection_lost(error)

    async with open_transport(Inspecting()) as (transport, protocol, _peer):
        transport.close()
        await protocol.lost.wait()
        assert protocol.fileno >= 0


async def test_a_transport_forgotten_without_close_warns():
    import gc

    class Silent(asyncio.Protocol):
        pass

    near, far = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, _ = await connect_unshared(loop, Silent, near)
    transport.pause_reading()
    await turns(3)
    with pytest.warns(ResourceWarning, match="unclosed transport"):  # noqa: PT031
        del transport, _
        gc.collect()
        await turns(3)
        gc.collect()
    far.close()
    gc.collect()


@pytest.mark.expects_loop_errors
async def test_data_written_before_data_received_raised_arrives():
    """Servers answer with an error page and raise; asyncio's write() has sent the answer by then."""

    class Failing(Recorder):
        def data_received(self, data):
            self.transport.write(b"bad request")
            raise ValueError("bad")

    ours, peer = socket.socketpair()
    _, protocol = await connect_unshared(asyncio.get_running_loop(), Failing, ours)
    peer.send(b"x")
    await protocol.lost.wait()
    with peer:
        assert peer.recv(100) == b"bad request"
    assert isinstance(protocol.error, ValueError)


@KINDS
@pytest.mark.parametrize("wait", [0, 1, 3], ids=["at once", "a turn", "three turns"])
async def test_a_duplicate_of_the_socket_works_after_close(kind, wait):
    """Clients upgrade to TLS or hand a connection over in this way: write, dup, close, new transport on the duplicate.

    The request arrives first, and the closed transport takes nothing of the answer.
    """
    loop = asyncio.get_running_loop()
    async with open_transport(kind=kind) as (transport, protocol, peer):
        for _ in range(5):
            transport.write(b"upgrade")
            duplicate = transport.get_extra_info("socket").dup()
            transport.close()
            await turns(wait)
            assert await read_exactly(peer, 7) == b"upgrade"
            peer.send(b"answer")  # before there is a new transport
            await turns(wait)
            protocol = Recorder()
            transport, _ = await connect_unshared(loop, lambda protocol=protocol: protocol, duplicate)
            assert await protocol.received(6) == b"answer"
        await abort(protocol)


@KINDS
@pytest.mark.parametrize("wait", range(4))
async def test_abort_at_any_time_after_close_is_harmless(kind, wait):
    """Also after the last data was sent and connection_lost() was called; asyncio raises AttributeError then."""
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("stock asyncio: no attribute call_soon")
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.write(bytes(600_000))
        transport.close()
        await read_exactly(peer, 600_000 - 70_000 * wait)
        for _ in range(8):
            transport.abort()
            await asyncio.sleep(0)
        assert protocol.calls.count("connection_lost") == 1
