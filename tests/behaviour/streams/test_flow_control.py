"""pause_writing and resume_writing at the limits; pause_reading and resume_reading without loss."""

import asyncio
import socket
import time

import pytest
from support.connections import KINDS
from support.helpers import (
    Recorder,
    connect_unshared,
    fill,
    monitor_of,
    open_transport,
    pattern,
    read_exactly,
    read_to_end,
    turns,
    until,
)


async def fill_kernel(transport, peer):
    """Fill the socket's buffers without the transport, so that everything written afterwards has to wait."""
    sock = transport.get_extra_info("socket")
    return fill(sock._sock)


@KINDS
async def test_default_limits_are_64_and_16_kib(kind):
    async with open_transport(kind=kind) as (transport, _protocol, _peer):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)


async def test_limits_can_be_set_as_in_asyncio():
    async with open_transport() as (transport, _protocol, _peer):
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=50)
        assert transport.get_write_buffer_limits() == (50, 200)
        transport.set_write_buffer_limits(high=10, low=10)
        assert transport.get_write_buffer_limits() == (10, 10)
        transport.set_write_buffer_limits(high=0)
        assert transport.get_write_buffer_limits() == (0, 0)
        transport.set_write_buffer_limits(high=1000.0)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(high=float("inf"), low=0)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=-1, low=-2)


@KINDS
async def test_pause_is_called_only_above_the_high_mark(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        await fill_kernel(transport, peer)
        transport.set_write_buffer_limits(high=1000, low=500)
        transport.write(bytes(1000))
        assert transport.get_write_buffer_size() == 1000
        await turns(3)
        assert "pause_writing" not in protocol.calls
        transport.write(b"x")
        assert transport.get_write_buffer_size() == 1001
        assert protocol.calls[-1] == "pause_writing"
        transport.write(b"x")
        await turns(3)
        assert protocol.calls.count("pause_writing") == 1


@KINDS
async def test_resume_is_called_once_the_low_mark_is_reached(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        filled = await fill_kernel(transport, peer)
        transport.set_write_buffer_limits(high=1000, low=500)
        transport.write(bytes(5000))
        assert protocol.calls[-1] == "pause_writing"
        await turns(3)
        assert "resume_writing" not in protocol.calls
        await read_exactly(peer, filled + 5000)
        await protocol.resumed.wait()
        assert transport.get_write_buffer_size() <= 500
        assert protocol.calls == ["connection_made", "pause_writing", "resume_writing"]


@KINDS
async def test_no_pause_when_the_kernel_takes_everything(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.set_write_buffer_limits(high=100, low=50)
        transport.write(bytes(5000))
        await read_exactly(peer, 5000)
        assert protocol.calls == ["connection_made"]
        assert transport.get_write_buffer_size() == 0


async def test_write_buffer_size_counts_everything_not_yet_sent():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        assert transport.get_write_buffer_size() == 0
        filled = await fill_kernel(transport, peer)
        transport.write(b"abc")
        transport.writelines([b"d", bytearray(b"ef"), memoryview(b"ghi")])
        assert transport.get_write_buffer_size() == 9
        assert (await read_exactly(peer, filled + 9))[-9:] == b"abcdefghi"
        await until(lambda: transport.get_write_buffer_size() == 0)


async def test_zero_limits_pause_at_once_and_resume_when_empty():
    async with open_transport(kind="unix") as (transport, protocol, peer):
        filled = await fill_kernel(transport, peer)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x")
        assert protocol.calls[-1] == "pause_writing"
        await read_exactly(peer, filled + 1)
        await protocol.resumed.wait()
        assert transport.get_write_buffer_size() == 0


async def test_lower_limits_do_not_pause_for_data_that_only_waits_for_the_end_of_the_turn():
    async with open_transport() as (transport, protocol, peer):
        transport.write(b"x")
        transport.set_write_buffer_limits(high=0)
        await turns(2)
        assert protocol.calls == ["connection_made"]
        assert await read_exactly(peer, 1) == b"x"


async def test_protocol_may_write_in_resume_writing():
    class Refill(Recorder):
        rounds = 0

        def resume_writing(self):
            super().resume_writing()
            self.rounds += 1
            if self.rounds < 5:
                self.transport.write(bytes(300_000))

    async with open_transport(Refill(), kind="unix") as (transport, protocol, peer):
        transport.write(bytes(300_000))
        await read_exactly(peer, 300_000 * 5)
        await until(lambda: protocol.rounds == 5)
        assert protocol.calls.count("pause_writing") == 5


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("is_list", [False, True], ids=["write", "writelines"])
async def test_resume_writing_may_end_the_connection(how, is_list):
    """connection_lost() is called once; asyncio calls it twice before python/cpython#156512."""
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("stock asyncio: AttributeError in the second connection_lost()")

    class Ending(Recorder):
        def resume_writing(self):
            super().resume_writing()
            getattr(self.transport, how)()

    async with open_transport(Ending(), kind="unix") as (transport, protocol, peer):
        if is_list:
            transport.writelines([bytes(1000)] * 2000)
        else:
            transport.write(bytes(2_000_000))
        received = len(await read_to_end(peer))
        await protocol.lost.wait()
        await turns(5)
        assert protocol.calls.count("connection_lost") == 1
        assert protocol.error is None
        assert received == 2_000_000 if how == "close" else received <= 2_000_000


async def test_protocol_may_write_in_pause_writing():
    class Insist(Recorder):
        def pause_writing(self):
            super().pause_writing()
            self.transport.write(b"more")

    async with open_transport(Insist(), kind="unix") as (transport, protocol, peer):
        transport.write(bytes(1_000_000))
        assert (await read_exactly(peer, 1_000_004))[-4:] == b"more"
        assert protocol.calls.count("pause_writing") == 1


@pytest.mark.expects_loop_errors
async def test_exception_in_pause_writing_is_reported_and_the_data_arrives(loop_errors):
    class Bad(Recorder):
        def pause_writing(self):
            raise ZeroDivisionError

    async with open_transport(Bad(), kind="unix") as (transport, _protocol, peer):
        transport.write(bytes(500_000))
        assert len(await read_exactly(peer, 500_000)) == 500_000
        assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]


# Reading


@KINDS
async def test_nothing_is_delivered_while_paused_and_nothing_is_lost(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        peer.send(b"one")
        await protocol.received(3)
        transport.pause_reading()
        assert not transport.is_reading()
        peer.send(b"two")
        await turns(10)
        assert protocol.data == b"one"
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(6) == b"onetwo"


@KINDS
async def test_pause_and_resume_in_quick_succession_lose_nothing(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        for number in range(100):
            peer.send(b"%04d" % number)
            transport.pause_reading()
            if number % 3 == 0:
                await turns(number % 4)
            transport.resume_reading()
            if number % 2:
                await turns(number % 5)
        assert await protocol.received(400) == b"".join(b"%04d" % number for number in range(100))


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
@KINDS
async def test_pause_in_connection_made_is_honoured(kind):
    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    async with open_transport(Paused(), kind=kind) as (transport, protocol, peer):
        assert not transport.is_reading()
        peer.send(b"early")
        await turns(10)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        assert await protocol.received(5) == b"early"


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
async def test_pause_in_connection_made_of_a_server_is_honoured():
    import asyncio
    import socket

    class Paused(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.pause_reading()

    protocol = Paused()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        peer.send(b"early")
        await protocol.connected.wait()
        await turns(10)
        assert protocol.calls == ["connection_made"]
        protocol.transport.resume_reading()
        assert await protocol.received(5) == b"early"
    await protocol.lost.wait()
    server.close()
    await turns(3)


@KINDS
async def test_pause_in_data_received_stops_the_next_delivery(kind):
    """With a lot of data already there, even one more chunk would be a delivery while paused."""

    class OneByOne(Recorder):
        delivered_while_paused = 0

        def data_received(self, data):
            super().data_received(data)
            if not self.transport.is_reading():
                self.delivered_while_paused += 1
            self.transport.pause_reading()

    data = pattern(1_000_000)
    async with open_transport(OneByOne(), kind=kind) as (transport, protocol, peer):
        sent = 0
        while len(protocol.data) < len(data):
            try:
                sent += peer.send(data[sent : sent + 100_000]) if sent < len(data) else 0
            except BlockingIOError:
                pass
            await turns(2)
            seen = len(protocol.chunks)
            await turns(2)
            if not transport.is_reading():
                assert len(protocol.chunks) == seen
                transport.resume_reading()
        assert protocol.delivered_while_paused == 0
        assert protocol.data == data


@KINDS
async def test_an_end_behind_data_that_paused_reading_is_reported_when_it_resumes(kind):
    class PausesItself(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.pause_reading()

    async with open_transport(PausesItself(), kind=kind) as (transport, protocol, peer):
        await turns(2)
        peer.send(b"data")
        peer.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.data)
        await turns(5)
        assert not protocol.ended.is_set()
        transport.resume_reading()
        await until(protocol.ended.is_set)


@KINDS
async def test_end_of_stream_is_not_reported_while_paused(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.pause_reading()
        peer.send(b"last")
        peer.close()
        await turns(10)
        assert protocol.calls == ["connection_made"]
        transport.resume_reading()
        await protocol.lost.wait()
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.data == b"last"


async def test_pause_and_resume_may_be_repeated_and_are_ignored_when_closing():
    async with open_transport() as (transport, protocol, _peer):
        transport.pause_reading()
        transport.pause_reading()
        transport.resume_reading()
        transport.resume_reading()
        transport.close()
        transport.pause_reading()
        transport.resume_reading()
        assert not transport.is_reading()
        await protocol.lost.wait()
        transport.pause_reading()
        transport.resume_reading()


async def test_a_paused_transport_can_be_written_to_and_closed():
    async with open_transport() as (transport, protocol, peer):
        transport.pause_reading()
        transport.write(b"still writing")
        transport.close()
        await protocol.lost.wait()
        assert await read_to_end(peer) == b"still writing"
        assert protocol.error is None


async def test_close_in_data_received_delivers_nothing_more():
    class CloseAtOnce(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.close()

    async with open_transport(CloseAtOnce()) as (_transport, protocol, peer):
        fill(peer)
        await protocol.lost.wait()
        await turns(5)
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


async def test_abort_in_data_received_delivers_nothing_more():
    class AbortAtOnce(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.abort()

    async with open_transport(AbortAtOnce()) as (_transport, protocol, peer):
        fill(peer)
        await protocol.lost.wait()
        await turns(5)
        assert protocol.calls == ["connection_made", "data_received", "connection_lost"]


async def test_a_write_of_a_paused_protocol_does_not_swallow_resume_writing():
    """Room appears, and the next write is made before the loop is notified of it."""

    class Paused(asyncio.Protocol):
        is_paused = False

        def pause_writing(self):
            self.is_paused = True

        def resume_writing(self):
            self.is_paused = False

    near, peer = socket.socketpair()
    near.setblocking(False)
    peer.setblocking(False)
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Paused, near)
    transport.write(bytes(400_000))
    assert protocol.is_paused
    received = 0
    while received < 400_000:
        try:
            received += len(peer.recv(1 << 20))
        except BlockingIOError:
            break
    transport.write(bytes(40_000))
    deadline = time.monotonic() + 10
    while (protocol.is_paused or received < 440_000) and time.monotonic() < deadline:
        try:
            received += len(peer.recv(1 << 20))
        except BlockingIOError:
            await asyncio.sleep(0)
    assert (protocol.is_paused, received) == (False, 440_000)
    transport.abort()
    peer.close()
    await asyncio.sleep(0)
