"""io_uring_get_sqe() returns NULL for a moment, since the kernel takes no requests: everything continues afterwards."""

import asyncio
import socket

import pytest
from drivers.core import RecordingHandler
from support import helpers
from support.helpers import make_loop, open_transport, pattern, run, turn_until, until, wait_until

POLLIN = 1

ring_drivers = pytest.importorskip("drivers.ring")


@pytest.fixture
def ring_loop(ring_driver):
    """A loop on io_uring, and its ring, which refuses a request that the test chooses."""
    loop = make_loop("io_uring")
    ring = ring_drivers.refuse_request(loop.aio_context, -1)
    yield loop, ring
    loop.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(9))
def test_a_watched_fd_is_reported_and_leaves_the_ring_after_a_long_wait(ring_driver, fds, number):
    """Whichever request is refused: a POLL_ADD, the TIMEOUT until the next sweep, or a cancellation of the sweep."""
    ring = ring_drivers.refuse_request(ring_driver.monitor, number)
    near, far = fds.socketpair()
    far.setblocking(False)
    handler = RecordingHandler(near.fileno(), POLLIN)
    handler.may_be_closed = handler.is_brief = True
    ring_driver.update(None, handler)
    for _ in range(2):
        found = []
        far.send(b"x")
        wait_until(lambda found=found: found.extend(ring_driver.wait(0)) or found)
        assert found == [(handler, POLLIN)]
        near.recv(1)
        wait_until(
            lambda: (
                not ring_driver.wait(0)
                and not ring_driver.need_wait()
                and ring_driver.statistics()["in_flight"] == 1
            )
        )
    assert ring.n_calls > number
    near.close()
    assert far.recv(1) == b""


def test_an_endless_wait_ends_although_the_next_sweep_is_refused(ring_driver, fds):
    ring = ring_drivers.refuse_request(ring_driver.monitor, -1)
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    handler.may_be_closed = handler.is_brief = True
    ring_driver.update(None, handler)
    far.send(b"x")
    assert ring_driver.ready() == {handler: POLLIN}
    near.recv(1)
    ring.refused = ring.n_calls + 2  # after the POLL_ADDs of the epoll set and of the handler
    assert ring_driver.ready() == {}
    assert ring.n_calls > ring.refused
    while ring_driver.statistics()["in_flight"] > 1:
        assert ring_driver.wait(-1) == []


class Echo(asyncio.Protocol):
    """Its socket is used by the program, too."""

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket")._sock.fileno()

    def data_received(self, data):
        self.transport.write(data)


@pytest.mark.slow
@pytest.mark.expects_loop_errors  # a refused ACCEPT is reported, and made again after a second
@pytest.mark.parametrize("number", range(24))
def test_a_server_answers_or_ends_the_connection_and_serves_the_next(ring_loop, number):
    loop, ring = ring_loop
    server = run(loop, loop.create_server(Echo, "127.0.0.1", 0))
    ring.refused = number

    def is_answered(peer, n_bytes):
        try:
            return len(peer.recv(100)) in (n_bytes, 0)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    for _ in range(4):
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            peer.setblocking(False)
            for n_bytes in (1, 2):
                try:
                    peer.send(bytes(n_bytes))
                except ConnectionError:
                    break
                turn_until(loop, lambda peer=peer, count=n_bytes: is_answered(peer, count))
            turn_until(loop, lambda: not ring_drivers.is_sweeping(loop.aio_context))
        turn_until(loop, lambda: not list(loop._transports))
    assert ring.n_calls > number
    server.close()
    run(loop, server.wait_closed())


def test_data_after_a_short_read_is_found_although_the_sweep_is_refused(ring_loop):
    """TCP ends the read at urgent data; a sweep, whose TIMEOUT is refused here, finds the data that follows."""
    loop, ring = ring_loop
    if helpers.inside_glib:
        pytest.skip("which request is the TIMEOUT is known for the loop's own turns")

    async def needs_sweep():
        async with open_transport() as (_, protocol, peer):
            for count in range(1, 9):
                await asyncio.get_running_loop().sock_sendall(peer, bytes(13_000))
                await until(lambda count=count: len(protocol.data) == count * 13_000)
            await until(lambda: not ring_drivers.is_sweeping(loop.aio_context))
            protocol.data.clear()
            number = ring.refused = ring.n_calls
            peer.send(pattern(13_000))
            peer.send(b"!", socket.MSG_OOB)
            peer.send(pattern(13_000))
            await until(lambda: len(protocol.data) == 26_000 or protocol.lost.is_set())
            ring.refused = -1
            assert bytes(protocol.data) == 2 * pattern(13_000)
            return ring.n_calls > number

    async def main():
        # A busy kernel may report the second half by itself, or an earlier sweep may have found the data.
        for _ in range(20):
            if await needs_sweep():
                return
        pytest.fail("no sweep was ever needed")

    run(loop, main())


def test_a_ring_that_cannot_be_drained_is_closed_before_its_memory_is_released(ring_driver, fds):
    ring = ring_drivers.refuse_request(ring_driver.monitor, -1)
    requests = ring_drivers.RequestsDriver(ring_driver.monitor)
    near, _ = fds.socketpair()
    memory = bytearray(1)
    requests.recv(ring_drivers.RecordingRequest(), near.fileno(), memory)
    ring_driver.submit()
    ring.refused = ring.n_calls
    with pytest.raises(OSError, match="refused"):
        ring_driver.close()
    assert not ring.is_open
    assert ring_driver.statistics().leaked == 1
