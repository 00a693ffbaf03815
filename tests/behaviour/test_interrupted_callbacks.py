"""KeyboardInterrupt and SystemExit out of a protocol's methods: the loop runs again, and nothing was lost."""

import contextlib

import pytest
from helpers import BufferedRecorder, Recorder, pattern, run, socketpair, turn_until

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
SMALL = b"0123456789abcdef"
PATTERN = pattern(99_999)  # no power of two: a piece that is moved is seen


class Interrupting:
    """A protocol's method that raises `interrupt` once, the next time it is called after `arm()`."""

    interrupt = None
    method = None
    pauses = False  # in the middle of the data

    def arm(self, method, interrupt):
        self.method, self.interrupt = method, interrupt

    def maybe(self, method):
        if self.method == method:
            self.method = None
            raise self.interrupt


class Plain(Interrupting, Recorder):
    def data_received(self, data):
        super().data_received(data)
        if self.pauses:
            self.transport.pause_reading()
        self.maybe("data_received")

    def eof_received(self):
        super().eof_received()
        self.maybe("eof_received")
        return self.keep_open


class Buffered(Interrupting, BufferedRecorder):
    def get_buffer(self, size_hint):
        self.maybe("get_buffer")
        return super().get_buffer(size_hint)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        if self.pauses:
            self.transport.pause_reading()
        self.maybe("buffer_updated")

    def eof_received(self):
        super().eof_received()
        self.maybe("eof_received")
        return self.keep_open


def connect(loop, protocol, kind):
    """The peer of a new connection, which does not block."""
    near, peer = socketpair(kind)
    peer.setblocking(False)
    run(loop, loop.create_connection(lambda: protocol, sock=near))
    return peer


def end(loop, protocol, peer):
    peer.close()
    protocol.transport.abort()
    turn_until(loop, protocol.lost.is_set)


def receive_large_chunks(loop, protocol, peer):
    """From the fourth chunk of 12 KiB on io_uring reads in bulk; each is received before the next is sent."""
    data = pattern(13_000)
    for count in range(1, 21):
        assert peer.send(data) == len(data)
        turn_until(loop, lambda count=count: len(protocol.data) == count * len(data))
    protocol.data.clear()


def fill_with_pattern(peer):
    """Send what the socket takes; returns that."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            data += PATTERN[: peer.send(PATTERN)]
    return data


def turn_until_interrupted(loop, interrupt):
    with pytest.raises(interrupt):
        turn_until(loop, lambda: False)


# While the protocol is given data


@KINDS
@INTERRUPTS
@pytest.mark.parametrize(
    ("make", "method"), [(Plain, "data_received"), (Buffered, "get_buffer"), (Buffered, "buffer_updated")]
)
def test_nothing_is_lost_of_much_data_in_large_chunks(loop, kind, interrupt, make, method):
    protocol = make()
    peer = connect(loop, protocol, kind)
    receive_large_chunks(loop, protocol, peer)
    sent = fill_with_pattern(peer)  # and the peer sends nothing more
    protocol.arm(method, interrupt)
    turn_until_interrupted(loop, interrupt)
    turn_until(loop, lambda: len(protocol.data) >= len(sent))
    assert protocol.data == sent
    end(loop, protocol, peer)


@KINDS
@INTERRUPTS
@pytest.mark.parametrize("size", [4, 64 * 1024], ids=["small_buffer", "large_buffer"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_nothing_is_lost_of_a_message_that_a_buffered_protocol_takes(loop, kind, interrupt, size, method):
    protocol = Buffered(size)
    peer = connect(loop, protocol, kind)
    peer.send(SMALL)
    protocol.arm(method, interrupt)
    turn_until_interrupted(loop, interrupt)
    turn_until(loop, lambda: len(protocol.data) >= len(SMALL))
    assert protocol.data == SMALL
    end(loop, protocol, peer)


@KINDS
def test_every_piece_may_be_interrupted(loop, kind):
    """What was kept for later is interrupted again, and the end of the stream comes last."""
    protocol = Buffered(4)
    peer = connect(loop, protocol, kind)
    peer.send(SMALL)
    peer.close()
    for count in range(4, len(SMALL) + 1, 4):
        for method in ("get_buffer", "buffer_updated"):
            protocol.arm(method, KeyboardInterrupt)
            turn_until_interrupted(loop, KeyboardInterrupt)
        assert protocol.data == SMALL[:count]
    protocol.arm("eof_received", KeyboardInterrupt)
    turn_until_interrupted(loop, KeyboardInterrupt)
    turn_until(loop, protocol.lost.is_set)
    assert protocol.calls == [
        "connection_made",
        *["buffer_updated"] * 4,
        *["eof_received"] * 2,
        "connection_lost",
    ]
    assert protocol.error is None


@INTERRUPTS
@pytest.mark.parametrize("make", [Plain, Buffered])
def test_nothing_is_lost_of_what_arrived_around_a_pause(loop, interrupt, make):
    """Several pieces may wait for resume_reading; the first one's interrupt does not strand the others."""
    protocol = make()
    peer = connect(loop, protocol, "tcp")
    protocol.pauses = True
    sent = fill_with_pattern(peer)
    peer.close()
    turn_until(loop, lambda: protocol.data)
    protocol.pauses = False
    protocol.transport.resume_reading()
    protocol.arm("data_received" if make is Plain else "buffer_updated", interrupt)
    turn_until_interrupted(loop, interrupt)
    turn_until(loop, protocol.lost.is_set, seconds=2)
    assert protocol.data == sent
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.error is None


# At the end of the stream


@KINDS
@INTERRUPTS
@pytest.mark.parametrize("make", [Plain, Buffered])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_eof_received_is_called_again_and_the_connection_ends(loop, kind, interrupt, make, large):
    protocol = make()
    peer = connect(loop, protocol, kind)
    if large:
        receive_large_chunks(loop, protocol, peer)
    peer.close()
    protocol.arm("eof_received", interrupt)
    turn_until_interrupted(loop, interrupt)
    assert not protocol.lost.is_set()
    turn_until(loop, protocol.lost.is_set)
    assert protocol.calls[-3:] == ["eof_received", "eof_received", "connection_lost"]
    assert protocol.error is None


@KINDS
def test_an_interrupted_eof_received_may_keep_the_connection_open(loop, kind):
    protocol = Plain()
    protocol.keep_open = True
    peer = connect(loop, protocol, kind)
    peer.shutdown(1)
    protocol.arm("eof_received", KeyboardInterrupt)
    turn_until_interrupted(loop, KeyboardInterrupt)
    turn_until(loop, lambda: protocol.calls.count("eof_received") == 2)
    protocol.transport.write(b"still here")
    protocol.transport.close()
    turn_until(loop, protocol.lost.is_set)
    assert peer.recv(100) == b"still here"
    peer.close()
