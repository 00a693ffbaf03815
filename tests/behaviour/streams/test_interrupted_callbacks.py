"""KeyboardInterrupt and SystemExit from a protocol's methods: the loop can run again, and nothing was lost."""

import contextlib
import socket

import pytest
from support.connections import KINDS, end
from support.helpers import (
    BufferedRecorder,
    Recorder,
    connect_unshared,
    monitor_of,
    pattern,
    run,
    socketpair,
    turn_until,
)

INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
SMALL = b"0123456789abcdef"
PATTERN = pattern(99_999)  # not a power of two, so that a misplaced piece is noticed


class Interrupting:
    """Base of protocols with a method that raises `interrupt` once, the first time it is called after `arm()`."""

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
    """Connect the protocol; return the non-blocking peer."""
    near, peer = socketpair(kind)
    peer.setblocking(False)
    run(loop, connect_unshared(loop, lambda: protocol, near))
    return peer


def receive_large_chunks(loop, protocol, peer):
    """From the fourth chunk of 12 KiB on, io_uring reads in bulk; each is received before the next is sent."""
    data = pattern(13_000)
    for count in range(1, 21):
        assert peer.send(data) == len(data)
        turn_until(loop, lambda count=count: len(protocol.data) == count * len(data))
    protocol.data.clear()


def fill_with_pattern(peer):
    """Send as much as the socket takes; return it."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while True:
            data += PATTERN[: peer.send(PATTERN)]
    return data


def turn_until_interrupted(loop, interrupt):
    with pytest.raises(interrupt):
        turn_until(loop, lambda: False)


# While the protocol receives data


@KINDS
@INTERRUPTS
@pytest.mark.parametrize(
    ("make", "method"), [(Plain, "data_received"), (Buffered, "get_buffer"), (Buffered, "buffer_updated")]
)
def test_an_interrupt_loses_nothing_of_large_chunks(loop, kind, interrupt, make, method):
    protocol = make()
    peer = connect(loop, protocol, kind)
    receive_large_chunks(loop, protocol, peer)
    sent = fill_with_pattern(peer)  # the peer sends nothing more
    protocol.arm(method, interrupt)
    turn_until_interrupted(loop, interrupt)
    turn_until(loop, lambda: len(protocol.data) >= len(sent))
    assert protocol.data == sent
    end(loop, protocol, peer)


@KINDS
@INTERRUPTS
@pytest.mark.parametrize("size", [4, 64 * 1024], ids=["small_buffer", "large_buffer"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_an_interrupt_loses_nothing_of_a_message_to_a_buffered_protocol(loop, kind, interrupt, size, method):
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
    """Each delivery of the rest is interrupted again, and the end of the stream is reported last."""
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
def test_an_interrupt_loses_nothing_that_arrived_around_a_pause(loop, interrupt, make):
    """Several pieces may wait for resume_reading; an interrupt in the first does not strand the others."""
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
    turn_until(loop, protocol.lost.is_set)
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


# While the protocol writes


def fill_and_write(loop, protocol, kind="unix"):
    """Connect and fill the buffers of the peer; return (peer, everything that was written)."""
    peer = connect(loop, protocol, kind)
    protocol.transport.set_write_buffer_limits(high=1000)
    data = PATTERN * 5
    protocol.transport.write(data)
    assert protocol.transport.get_write_buffer_size() > 0
    return peer, data


def run_on(loop, condition):
    """Run the loop until the condition holds, whatever interrupts it; return the number of interrupts."""
    count = 0
    while True:
        try:
            turn_until(loop, condition)
        except (KeyboardInterrupt, SystemExit):
            count += 1
        else:
            return count


def drain(loop, peer, count):
    """Read `count` bytes; return (data, number of interrupts)."""
    data = bytearray()

    def is_read():
        with contextlib.suppress(BlockingIOError):
            data.extend(peer.recv(1 << 20))
        return len(data) >= count

    return data, run_on(loop, is_read)


@KINDS
@INTERRUPTS
def test_everything_is_sent_after_pause_writing_was_interrupted(loop, kind, interrupt):
    protocol = Writing("pause_writing", interrupt)
    peer = connect(loop, protocol, kind)
    protocol.transport.set_write_buffer_limits(high=1000)
    data = PATTERN * 50
    with pytest.raises(interrupt):
        protocol.transport.write(data)
    received, _ = drain(loop, peer, len(data))
    assert received == data
    turn_until(loop, lambda: protocol.calls[-1] == "resume_writing")
    end(loop, protocol, peer)


@INTERRUPTS
@pytest.mark.parametrize("what", ["close", "write_eof"])
def test_the_end_follows_after_resume_writing_was_interrupted(loop, interrupt, what):
    """The end, which waited for the last byte, is sent although no other byte will be sent."""
    if monitor_of(loop) == "asyncio":
        pytest.skip("asyncio's _write_ready() asserts in vain that data are left, again and again")
    protocol = Writing("resume_writing", interrupt)
    peer, data = fill_and_write(loop, protocol)
    getattr(protocol.transport, what)()
    received, n_interrupts = drain(loop, peer, len(data))
    n_interrupts += run_on(loop, lambda: "resume_writing" in protocol.calls)
    assert received == data
    assert n_interrupts == 1
    assert drain(loop, peer, 0)[0] == b""
    if what == "close":
        turn_until(loop, protocol.lost.is_set)
        assert protocol.error is None
    peer.setblocking(True)
    assert peer.recv(1) == b""
    end(loop, protocol, peer)


@INTERRUPTS
def test_sendfile_goes_on_after_resume_writing_was_interrupted(loop, interrupt, tmp_path):
    if monitor_of(loop) == "asyncio":
        pytest.skip("asyncio's _write_ready() asserts in vain that data are left, again and again")
    path = tmp_path / "file"
    path.write_bytes(SMALL)
    protocol = Writing("resume_writing", interrupt)
    peer, data = fill_and_write(loop, protocol)
    with path.open("rb") as file:
        sending = loop.create_task(loop.sendfile(protocol.transport, file))
        received, n_interrupts = drain(loop, peer, len(data) + len(SMALL))
        assert received == data + SMALL
        assert n_interrupts == 1
        turn_until(loop, sending.done)
        assert sending.result() == len(SMALL)
    end(loop, protocol, peer)


class Writing(Interrupting, Recorder):
    def __init__(self, method, interrupt):
        super().__init__()
        self.arm(method, interrupt)

    def connection_made(self, transport):
        super().connection_made(transport)
        self.maybe("connection_made")

    def pause_writing(self):
        super().pause_writing()
        self.maybe("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self.maybe("resume_writing")

    def connection_lost(self, error):
        super().connection_lost(error)
        self.maybe("connection_lost")


# At the beginning and the end of a connection


@KINDS
@INTERRUPTS
def test_data_arrives_after_connection_made_was_interrupted(loop, kind, interrupt):
    protocol = Writing("connection_made", interrupt)
    near, peer = socketpair(kind)
    making = loop.create_task(loop.create_connection(lambda: protocol, sock=near))
    peer.send(SMALL)
    assert run_on(loop, lambda: making.done() and protocol.data) == 1
    assert protocol.data == SMALL
    assert making.result()[1] is protocol
    end(loop, protocol, peer)


@KINDS
@INTERRUPTS
def test_the_socket_is_closed_after_connection_lost_was_interrupted(loop, kind, interrupt):
    protocol = Writing("connection_lost", interrupt)
    peer = connect(loop, protocol, kind)
    protocol.transport.abort()
    turn_until_interrupted(loop, interrupt)
    turn_until(loop, lambda: protocol.transport.get_extra_info("socket").fileno() == -1)
    peer.setblocking(True)
    assert peer.recv(1) == b""
    assert protocol.calls == ["connection_made", "connection_lost"]
    peer.close()


@INTERRUPTS
def test_the_next_connection_is_served_after_the_factory_was_interrupted(loop, interrupt):
    if monitor_of(loop) == "asyncio":
        pytest.skip("asyncio leaves the first connection to the collector")
    made = []

    def factory():
        made.append(Recorder())
        if len(made) == 1:
            raise interrupt
        return made[-1]

    server = run(loop, loop.create_server(factory, "127.0.0.1", 0))
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(socket.create_connection(server.sockets[0].getsockname())) for _ in range(2)
        )
        second.send(SMALL)
        assert run_on(loop, lambda: len(made) == 2 and made[1].data) == 1
        assert made[1].data == SMALL
        first.settimeout(5)
        assert first.recv(1) == b""
    turn_until(loop, made[1].lost.is_set)
    server.close()
    run(loop, server.wait_closed())
