"""The wire on io_uring: buffers return to the kernel, sends need no completions, nor turns while there is no room."""

import asyncio
import contextlib
import socket

import pytest
from support.connections import connect, end
from support.helpers import Recorder, make_loop, one_turn, pattern, run, turn_until, turns

ring_drivers = pytest.importorskip("drivers.ring")


@pytest.fixture
def ring_loop(ring_driver):
    loop = make_loop("io_uring")
    yield loop
    loop.close()


class Buffered(Recorder, asyncio.BufferedProtocol):
    def __init__(self):
        super().__init__()
        self.buffer = bytearray(100)

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, n_bytes):
        self.data += self.buffer[:n_bytes]


@pytest.mark.parametrize("make_protocol", [Recorder, Buffered])
def test_buffers_return_when_their_data_was_delivered(ring_loop, make_protocol):
    protocol, peer = connect(ring_loop, protocol=make_protocol())
    for n_bytes in (1, 1000, 5000):
        protocol.data.clear()
        peer.sendall(pattern(n_bytes))
        turn_until(ring_loop, lambda n_bytes=n_bytes: len(protocol.data) == n_bytes)
        assert ring_drivers.n_chunks_taken(ring_loop.aio_context) == 0
    end(ring_loop, protocol, peer)


def test_buffers_return_when_their_connection_is_gone(ring_loop):
    """Its data is harvested; another connection ends it, and makes turns, before that is dispatched."""

    class EndsTheOther(Recorder):
        def data_received(self, data):
            super().data_received(data)
            other = second if self is first else first
            other.transport.abort()
            ring_loop.run_nested(turns(3))

    first, first_peer = connect(ring_loop, protocol=EndsTheOther())
    second, second_peer = connect(ring_loop, protocol=EndsTheOther())
    first_peer.send(b"x")
    second_peer.send(b"y")
    turn_until(ring_loop, lambda: first.data or second.data)
    # Linux 6.1 delivers the later one first
    served, ended = (first, second) if first.data else (second, first)
    assert ended.calls == ["connection_made", "connection_lost"]
    assert ring_drivers.n_chunks_taken(ring_loop.aio_context) == 0
    end(ring_loop, served, first_peer if served is first else second_peer)
    (second_peer if served is first else first_peer).close()


@contextlib.contextmanager
def narrow_connection(ring_loop):
    """(server protocol, client socket) of a connection with small socket buffers."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    made = []
    server = run(
        ring_loop, ring_loop.create_server(lambda: made.append(Recorder()) or made[-1], sock=listener)
    )
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(10)
    peer.connect(listener.getsockname())
    turn_until(ring_loop, lambda: made and made[0].transport)
    yield made[0], peer
    end(ring_loop, made[0], peer)
    server.close()
    one_turn(ring_loop)


def test_a_send_that_succeeds_posts_no_completion(ring_loop):
    with narrow_connection(ring_loop) as (protocol, peer):
        if not ring_drivers.skips_sends(ring_loop.aio_context):
            pytest.skip("this kernel does not report the count of a failed send")
        one_turn(ring_loop)
        n_completed = ring_loop.statistics()["completed"]
        for _ in range(5):
            protocol.transport.write(b"x" * 100)
            one_turn(ring_loop)
        received = b""
        while len(received) < 500:
            received += peer.recv(500)
        assert ring_loop.statistics()["completed"] == n_completed


def test_a_send_that_takes_a_part_is_continued_when_there_is_room(ring_loop):
    """Until then the loop sleeps."""
    data = pattern(31_000)
    received = bytearray()
    with narrow_connection(ring_loop) as (protocol, peer):
        peer.setblocking(False)
        protocol.transport.write(data)
        one_turn(ring_loop)
        assert 0 < protocol.transport.get_write_buffer_size() < len(data)
        for _ in range(5):
            one_turn(ring_loop)
        n_turns = ring_loop.statistics()["turns"]
        ring_loop.call_later(0.02, ring_loop.stop)
        ring_loop.run_forever()
        assert ring_loop.statistics()["turns"] - n_turns < 5

        def is_whole():
            with contextlib.suppress(BlockingIOError):
                received.extend(peer.recv(65536))
            return len(received) == len(data)

        turn_until(ring_loop, is_whole)
    assert received == data
