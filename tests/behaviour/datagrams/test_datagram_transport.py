"""Datagram transports: their buffer, their attributes, and how they end."""

import asyncio
import contextlib
import gc
import socket
import sys
import threading
import warnings

import pytest
from support.datagram_tools import Sender, everything, forget, sending
from support.helpers import STOCK, is_asleep, monitor_of, run, turns, until, wait_until

HEADER = 8 if sys.version_info >= (3, 13) else 0


# Flow control


@contextlib.asynccontextmanager
async def full(tmp_path, is_connected=True):
    """A Sender on a UNIX socket whose peer has no room, with one datagram of 1000 bytes in the buffer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
        path = str(tmp_path / "far")
        far.bind(path)
        far.setblocking(False)
        kwargs = {"remote_addr": path} if is_connected else {"local_addr": str(tmp_path / "near")}
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Sender, family=socket.AF_UNIX, **kwargs)
        protocol.addr = None if is_connected else path
        count = 0
        while not transport.get_write_buffer_size():
            transport.sendto(b"%04d" % count + bytes(996), protocol.addr)
            count += 1
            assert count < 10_000
        protocol.count = count
        yield transport, protocol, far
        if not protocol.lost.is_set():
            transport.abort()
            await protocol.lost.wait()


async def drain(protocol, far):
    """Read until `count` datagrams have arrived; return their numbers."""
    found = []

    def more():
        found.extend(int(data[:4]) for data in everything(far))
        return len(found) >= protocol.count

    await until(more)
    return found


@pytest.mark.parametrize("is_connected", [True, False])
async def test_the_buffer_counts_headers_and_drains_in_order(tmp_path, is_connected):
    async with full(tmp_path, is_connected) as (transport, protocol, far):
        assert transport.get_write_buffer_size() == 1000 + HEADER
        transport.sendto(b"%04d" % protocol.count, protocol.addr)
        protocol.count += 1
        assert transport.get_write_buffer_size() == 1004 + 2 * HEADER
        assert "write=<polling" in repr(transport)
        assert await drain(protocol, far) == list(range(protocol.count))
        await until(lambda: "write=<idle" in repr(transport))
        if monitor_of(asyncio.get_running_loop()) != STOCK:
            # stock Python 3.13.0 forgets to subtract the headers again (CPython gh-135444)
            assert transport.get_write_buffer_size() == 0
        assert protocol.calls == []


async def test_limits_decide_when_the_protocol_pauses(tmp_path):
    async with full(tmp_path) as (transport, protocol, far):
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=5000, low=3000)
        assert transport.get_write_buffer_limits() == (3000, 5000)
        assert protocol.calls == []
        for _ in range(5):
            transport.sendto(b"%04d" % protocol.count + bytes(996))
            protocol.count += 1
        assert protocol.calls == ["pause"]
        assert await drain(protocol, far) == list(range(protocol.count))
        await protocol.resumed.wait()
        assert protocol.calls == ["pause", "resume"]


async def test_lower_limits_pause_at_once(tmp_path):
    async with full(tmp_path) as (transport, protocol, _):
        transport.set_write_buffer_limits(high=0)
        assert protocol.calls == ["pause"]
        with pytest.raises(ValueError, match="must be >= low"):
            transport.set_write_buffer_limits(high=1, low=2)


async def test_resume_writing_may_send_and_close(tmp_path):
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("stock asyncio calls connection_lost twice")
    async with full(tmp_path) as (transport, protocol, far):
        transport.set_write_buffer_limits(high=0)
        last = protocol.count

        def resume_writing():
            transport.sendto(b"%04d" % last)
            transport.close()

        protocol.resume_writing = resume_writing
        found = []

        def is_lost():
            found.extend(int(data[:4]) for data in everything(far))
            return protocol.lost.is_set()

        await until(is_lost)
        found.extend(int(data[:4]) for data in everything(far))
        assert found == list(range(last + 1))
        assert protocol.calls == ["pause", "lost"]


async def test_close_waits_for_the_buffer_and_abort_does_not(tmp_path):
    async with full(tmp_path) as (transport, protocol, far):
        transport.close()
        await turns(3)
        assert transport.is_closing()
        assert not protocol.lost.is_set()
        transport.sendto(b"%04d" % protocol.count)  # as in asyncio: it is still connected
        protocol.count += 1
        assert await drain(protocol, far) == list(range(protocol.count))
        await protocol.lost.wait()
    (tmp_path / "far").unlink()
    async with full(tmp_path) as (transport, protocol, far):
        transport.close()
        transport.abort()
        await protocol.lost.wait()
        assert len(everything(far)) == protocol.count - 1


async def test_a_peer_that_dies_while_datagrams_wait_is_reported(tmp_path):
    async with full(tmp_path) as (transport, protocol, far):
        transport.sendto(b"one more")
        far.close()
        await until(lambda: len(protocol.calls) == 2)
        assert protocol.calls == ["ConnectionRefusedError", "OSError"]
        assert not transport.is_closing()
        await turns(3)  # stock asyncio stops watching for room one turn later


@pytest.mark.expects_loop_errors
async def test_an_exception_in_pause_writing_is_reported(tmp_path, loop_errors):
    async with full(tmp_path) as (transport, protocol, _):

        def pause_writing():
            raise ZeroDivisionError

        protocol.pause_writing = pause_writing
        transport.set_write_buffer_limits(high=0)
        assert [context["message"] for context in loop_errors] == ["protocol.pause_writing() failed"]


# The transport as an object


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
async def test_repr_shows_the_state():
    async with sending() as (transport, protocol, _):
        fd = transport.get_extra_info("socket").fileno()
        await until(lambda: "read=polling" in repr(transport))
        name = f"_SelectorDatagramTransport fd={fd}"
        assert repr(transport) == f"<{name} read=polling write=<idle, bufsize=0>>"
        transport.pause_reading()
        assert repr(transport) == f"<{name} read=idle write=<idle, bufsize=0>>"
        transport.resume_reading()
        transport.abort()
        assert "closing" in repr(transport)
        await protocol.lost.wait()
        assert repr(transport) == f"<_SelectorDatagramTransport closed fd={fd}>"


async def test_extra_info():
    async with sending() as (transport, _, far):
        assert transport.get_extra_info("sockname")[0] == "127.0.0.1"
        assert transport.get_extra_info("peername") is None
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_extra_info("socket").type == socket.SOCK_DGRAM
        loop = asyncio.get_running_loop()
        other, protocol = await loop.create_datagram_endpoint(Sender, remote_addr=far.getsockname())
        assert other.get_extra_info("peername") == far.getsockname()
        other.abort()
        await protocol.lost.wait()


async def test_a_datagram_transport_is_an_instance_of_asyncios_classes():
    async with sending() as (transport, _, _):
        stock = asyncio.selector_events._SelectorDatagramTransport
        for kind in stock.__mro__:
            assert isinstance(transport, kind)


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_forgotten_endpoint_warns_and_closes_its_socket(loop, is_closing):
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    transport, protocol = run(loop, loop.create_datagram_endpoint(Sender, sock=sock))
    if is_closing:
        transport.close()
    loop.close()
    transport = None
    assert any("unclosed transport <_SelectorDatagramTransport" in text for text in forget(protocol))
    assert sock.fileno() == -1


async def test_connection_made_is_called_first_and_once_although_it_aborts():
    """create_datagram_endpoint() returns although connection_made aborts at once."""
    calls = []

    class Short(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            calls.append("made")
            transport.abort()

        def connection_lost(self, error):
            calls.append("lost")

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Short, local_addr=("127.0.0.1", 0))
    await turns(3)
    assert calls == ["made", "lost"]
    assert transport.is_closing()


async def test_a_datagram_wakes_a_sleeping_loop():
    """Another thread sends the datagram while the loop is blocked in its wait."""
    async with sending() as (transport, protocol, far):
        name = transport.get_extra_info("sockname")

        sleeper = threading.get_native_id()

        def send():
            wait_until(lambda: is_asleep(sleeper))
            far.sendto(b"wake up", name)

        thread = threading.Thread(target=send)
        thread.start()
        assert (await protocol.received.get())[0] == b"wake up"
        thread.join()


async def test_a_closed_endpoint_causes_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with sending() as (transport, _, _):
            transport.close()
        gc.collect()
