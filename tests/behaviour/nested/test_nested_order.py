"""Nested turns in a protocol's callbacks: the order in which data and ends are delivered."""

import asyncio

import pytest
from support.helpers import BufferedRecorder, Recorder, pattern, run, socketpair, turn_until, turns


class Turning(BufferedRecorder):
    """Runs turns in `method`, each time after the peer has sent the next piece."""

    def __init__(self, method, peer, pieces, size):
        super().__init__(size)
        self.method, self.peer, self.pieces = method, peer, list(pieces)

    def turn(self, method):
        if method == self.method and self.pieces:
            self.peer.send(self.pieces.pop(0))
            for _ in range(4):
                asyncio.get_running_loop().aio_context.poll(False)

    def get_buffer(self, size_hint):
        self.turn("get_buffer")
        return super().get_buffer(size_hint)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.turn("buffer_updated")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("size", [3, 64], ids=["small_buffer", "large_buffer"])
def test_deeply_nested_turns_of_a_buffered_protocol_keep_the_order(loop, kind, method, size):
    """Each level has a chunk that is not delivered yet when the next level reads more."""
    near, peer = socketpair(kind)
    pieces = [b"second-", b"third--", b"fourth-", b"fifth--"]
    protocol = Turning(method, peer, pieces, size)
    run(loop, loop.create_connection(lambda: protocol, sock=near))
    peer.send(b"first--")
    turn_until(loop, lambda: len(protocol.data) == 35)
    assert protocol.data == b"first--" + b"".join(pieces)
    peer.close()
    turn_until(loop, protocol.lost.is_set)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_an_end_seen_in_a_nested_turn_is_reported_last(loop, kind, method):
    near, peer = socketpair(kind)
    protocol = Turning(method, peer, [], 3)
    run(loop, loop.create_connection(lambda: protocol, sock=near))

    def turn(name):
        if name == method and peer.fileno() >= 0:
            peer.close()
            for _ in range(4):
                loop.aio_context.poll(False)

    protocol.turn = turn
    peer.send(b"0123456789")
    turn_until(loop, protocol.lost.is_set)
    assert protocol.data == b"0123456789"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.error is None


@pytest.mark.parametrize("bulk", [False, True], ids=["small", "bulk"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_end_seen_in_a_nested_turn_survives_an_interrupt(loop, kind, bulk):
    """The end waits behind data whose delivery raises: the kernel reports the end only once."""
    near, peer = socketpair(kind)
    protocol = Turning(None, peer, [], 100_000)
    run(loop, loop.create_connection(lambda: protocol, sock=near))
    sent = pattern(13_000)
    for count in range(1, 10 if bulk else 1):  # from the fourth on io_uring reads in bulk
        peer.send(sent)
        turn_until(loop, lambda count=count: len(protocol.data) == count * len(sent))
    protocol.data.clear()
    protocol.buffer = bytearray(3)
    interrupts = iter([False, True])
    transport = protocol.transport
    has_paused = []

    def turn(name):
        if name != "get_buffer":
            if not has_paused:  # the rest is held, and is delivered when no frame that reads is on the stack
                has_paused.append(True)
                transport.pause_reading()
        elif not has_paused:
            return
        elif peer.fileno() >= 0:
            peer.close()
            for _ in range(4):
                loop.aio_context.poll(False)
        elif next(interrupts, False):
            raise KeyboardInterrupt

    protocol.turn = turn
    peer.send(b"0123456789")
    turn_until(loop, lambda: has_paused)
    run(loop, turns(3))
    transport.resume_reading()
    with pytest.raises(KeyboardInterrupt):
        turn_until(loop, lambda: False)
    turn_until(loop, protocol.lost.is_set)
    assert protocol.data == b"0123456789"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.parametrize("pauses", [False, True], ids=["reading", "paused"])
@pytest.mark.parametrize("into", [Recorder, BufferedRecorder])
def test_a_protocol_replaced_by_a_turn_in_get_buffer_gets_nothing_more(loop, into, pauses):
    near, peer = socketpair("unix")
    successor = into()

    class Replaced(BufferedRecorder):
        def get_buffer(self, size_hint):
            loop.call_soon(self.transport.set_protocol, successor)
            if pauses:
                loop.call_soon(self.transport.pause_reading)
            loop.aio_context.poll(False)
            return super().get_buffer(size_hint)

    replaced = Replaced()
    run(loop, loop.create_connection(lambda: replaced, sock=near))
    peer.send(b"hello")
    if pauses:
        turn_until(loop, lambda: not replaced.transport.is_reading())
        run(loop, turns(3))
        assert not successor.data
        replaced.transport.resume_reading()
    turn_until(loop, lambda: successor.data)
    assert successor.data == b"hello"
    assert replaced.calls == ["connection_made"]
    peer.close()
    turn_until(loop, successor.lost.is_set)
