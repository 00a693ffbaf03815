"""KeyboardInterrupt and SystemExit from a TLS protocol's methods: the loop can run again, and nothing was lost."""

import asyncio
import contextlib

import pytest
from support.helpers import (
    BufferedRecorder,
    Recorder,
    client_tls,
    monitor_of,
    pattern,
    run,
    server_tls,
    socketpair,
    turn_until,
)

INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
BUFFER_SIZES = pytest.mark.parametrize("size", [4, 5000, 64 * 1024])
MUCH = pattern(700_001)  # more than the transport below and the engine take together


class Interrupting:
    """Every `every`th call of `method` raises, after it has done its work (in get_buffer before)."""

    def __init__(self, method, interrupt, every=1, most=10**9, **kwargs):
        super().__init__(**kwargs)
        self.method, self.interrupt, self.every, self.most = method, interrupt, every, most
        self.n_calls = self.n_interrupts = 0

    def maybe(self, method):
        if method != self.method:
            return
        self.n_calls += 1
        if self.n_calls % self.every == 0 and self.n_interrupts < self.most:
            self.n_interrupts += 1
            raise self.interrupt

    def connection_made(self, transport):
        super().connection_made(transport)
        self.maybe("connection_made")

    def eof_received(self):
        super().eof_received()
        self.maybe("eof_received")

    def connection_lost(self, error):
        super().connection_lost(error)
        self.maybe("connection_lost")


class Plain(Interrupting, Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.maybe("data_received")

    def pause_writing(self):
        super().pause_writing()
        self.maybe("pause_writing")

    def resume_writing(self):
        super().resume_writing()
        self.maybe("resume_writing")


class Buffered(Interrupting, BufferedRecorder):
    def get_buffer(self, size_hint):
        self.maybe("get_buffer")
        return memoryview(super().get_buffer(size_hint))

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.maybe("buffer_updated")


def connect(loop, near, far, kind="tcp"):
    """Connect the two, near as the server; run the loop again after each interrupt."""
    one, other = socketpair(kind)
    making = [
        loop.create_task(loop.connect_accepted_socket(lambda: near, one, ssl=server_tls())),
        loop.create_task(
            loop.create_connection(lambda: far, sock=other, ssl=client_tls(), server_hostname="localhost")
        ),
    ]
    run_on(loop, lambda: all(task.done() for task in making))
    for task in making:
        task.result()


def run_on(loop, condition):
    """Run the loop until the condition holds, whatever interrupts it."""
    while True:
        try:
            return turn_until(loop, condition)
        except (KeyboardInterrupt, SystemExit):
            pass


def end(loop, *protocols):
    for protocol in protocols:
        if not protocol.lost.is_set():
            protocol.transport.abort()
    run_on(loop, lambda: all(protocol.lost.is_set() for protocol in protocols))


def skip_stock(loop, why):
    if monitor_of(loop) == "asyncio":
        pytest.skip(f"asyncio: {why}")


# While the protocol receives data


@INTERRUPTS
@pytest.mark.parametrize("every", [1, 3])
def test_interrupts_in_data_received_lose_nothing(loop, interrupt, every):
    near, far = Plain("data_received", interrupt, every), Recorder()
    connect(loop, near, far)
    far.transport.write(MUCH)
    run_on(loop, lambda: len(near.data) >= len(MUCH))
    assert near.data == MUCH
    assert near.n_interrupts
    end(loop, near, far)


@INTERRUPTS
@BUFFER_SIZES
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_interrupts_in_a_buffered_protocol_lose_nothing(loop, interrupt, size, method):
    skip_stock(loop, "what get_buffer interrupts waits for the next record, which may never come")
    near, far = Buffered(method, interrupt, every=2, size=size), Recorder()
    connect(loop, near, far)
    data = MUCH if size > 4 else MUCH[:5001]
    far.transport.write(data)
    run_on(loop, lambda: len(near.data) >= len(data))
    assert near.data == data
    assert near.n_interrupts
    end(loop, near, far)


@INTERRUPTS
@BUFFER_SIZES
def test_one_interrupt_in_buffer_updated_loses_nothing(loop, interrupt, size):
    near, far = Buffered("buffer_updated", interrupt, most=1, size=size), Recorder()
    connect(loop, near, far)
    far.transport.write(MUCH[:30_000])
    run_on(loop, lambda: len(near.data) >= 30_000)
    assert near.data == MUCH[:30_000]
    assert near.n_interrupts == 1
    end(loop, near, far)


@INTERRUPTS
@pytest.mark.parametrize("method", ["data_received", "get_buffer", "buffer_updated"])
def test_the_end_arrives_after_an_interrupt_in_the_last_data(loop, interrupt, method):
    """The last record and close_notify arrive in one piece: no further data follows that would resume delivery."""
    skip_stock(loop, "an end that was read with the interrupted data is forgotten")
    make = Plain if method == "data_received" else Buffered
    near, far = make(method, interrupt, most=1), Recorder()
    connect(loop, near, far)
    far.transport.write(b"the last words")
    far.transport.close()
    run_on(loop, near.lost.is_set)
    assert near.n_interrupts == 1
    assert near.data == b"the last words"
    assert near.calls[-2:] == ["eof_received", "connection_lost"]
    assert near.error is None
    end(loop, near, far)


@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_remaining_data_is_delivered_before_the_end_when_the_peer_is_gone(loop, method):
    """The peer closes the transport below without close_notify: the end is that of the socket."""
    skip_stock(loop, "what get_buffer interrupts waits for the next record, which may never come")
    near, far = Buffered(method, KeyboardInterrupt, every=2, size=7), Recorder()
    connect(loop, near, far)
    far.transport.write(MUCH[:1000])
    run_on(loop, lambda: near.n_interrupts)
    far.transport._ssl_protocol._transport.close()
    run_on(loop, near.lost.is_set)
    assert near.data == MUCH[:1000]
    assert near.calls[-1] == "connection_lost"
    end(loop, far)


def test_the_transport_below_resumes_reading_after_an_interrupt(loop):
    """While the application pauses, the transport below is paused as well; an interrupt must not leave it paused."""
    skip_stock(loop, "the transport below stays paused")
    near, far = Plain("data_received", KeyboardInterrupt), Recorder()
    connect(loop, near, far)
    near.transport.pause_reading()
    far.transport.write(MUCH)
    turn_until(
        loop, lambda: near.transport.get_read_buffer_size() >= near.transport.get_read_buffer_limits()[1]
    )
    near.transport.resume_reading()
    run_on(loop, lambda: len(near.data) >= len(MUCH))
    assert near.data == MUCH
    end(loop, near, far)


# At the start and at the end


@INTERRUPTS
def test_the_connection_works_after_connection_made_was_interrupted(loop, interrupt):
    """The connection is made: the task that waits for it gets it, and data arrives."""
    skip_stock(loop, "the task that waits for the connection waits forever")
    near, far = Plain("connection_made", interrupt), Recorder()
    connect(loop, near, far)
    assert near.n_interrupts == 1
    far.transport.write(b"hello")
    near.transport.write(b"hello, too")
    run_on(loop, lambda: near.data == b"hello" and far.data == b"hello, too")
    end(loop, near, far)


@INTERRUPTS
def test_data_sent_with_the_handshake_arrives_after_connection_made_was_interrupted(loop, interrupt):
    class Eager(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"at once")

    skip_stock(loop, "it waits for the next record")
    near, far = Plain("connection_made", interrupt), Eager()
    connect(loop, near, far)
    run_on(loop, lambda: near.data == b"at once")
    end(loop, near, far)


@INTERRUPTS
@pytest.mark.parametrize("make", [Plain, Buffered])
def test_the_connection_ends_after_eof_received_was_interrupted(loop, interrupt, make):
    """As in asyncio it is not called again, and the connection ends."""
    skip_stock(loop, "our side does not close, and the peer's waits for that for 30 s")
    near, far = make("eof_received", interrupt), Recorder()
    connect(loop, near, far)
    far.transport.close()
    run_on(loop, lambda: near.lost.is_set() and far.lost.is_set())
    assert near.calls == ["connection_made", "eof_received", "connection_lost"]
    assert near.error is None


@INTERRUPTS
def test_our_own_shutdown_ends_after_eof_received_was_interrupted(loop, interrupt):
    near, far = Plain("eof_received", interrupt), Recorder()
    connect(loop, near, far)
    near.transport.close()
    run_on(loop, lambda: near.lost.is_set() and far.lost.is_set())
    assert near.calls == ["connection_made", "eof_received", "connection_lost"]
    assert near.error is None


@INTERRUPTS
def test_both_sides_end_after_connection_lost_was_interrupted(loop, interrupt):
    near, far = Plain("connection_lost", interrupt), Recorder()
    connect(loop, near, far)
    far.transport.close()
    run_on(loop, lambda: near.lost.is_set() and far.lost.is_set())
    run_on(loop, lambda: near.n_interrupts == 1)
    assert near.calls.count("connection_lost") == 1


# While it writes


@INTERRUPTS
@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
@pytest.mark.parametrize("manner", ["write", "writelines", "close"])
def test_everything_is_sent_although_flow_control_methods_interrupt(loop, interrupt, method, manner):
    near, far = Plain(method, interrupt), Recorder()
    connect(loop, near, far, "unix")  # its buffers are small
    near.transport.set_write_buffer_limits(high=1000)
    data = MUCH * 3
    written = 0
    while written < len(data):  # many writes: most are made while the transport below has no room
        piece = data[written : written + 90_000]
        written += len(piece)
        try:
            if manner == "writelines":
                near.transport.writelines([piece[:10], piece[10:]])
            else:
                near.transport.write(piece)
        except interrupt:
            assert method == "pause_writing"
    if manner == "close":
        near.transport.close()
    run_on(loop, lambda: len(far.data) >= len(data))
    assert far.data == data
    assert near.n_interrupts
    if manner == "close":
        run_on(loop, lambda: near.lost.is_set() and far.lost.is_set())
        assert near.error is None
    end(loop, near, far)


@INTERRUPTS
def test_the_rest_of_a_large_write_is_sent_after_pause_writing_was_interrupted(loop, interrupt):
    """The socket takes all data, so that the transport below calls no flow control methods."""
    near, far = Plain("pause_writing", interrupt), Recorder()
    connect(loop, near, far)
    near.transport.set_write_buffer_limits(high=1000)
    with pytest.raises(interrupt) if monitor_of(loop) != "asyncio" else contextlib.suppress(interrupt):
        near.transport.write(MUCH)
    run_on(loop, lambda: len(far.data) >= len(MUCH))
    assert far.data == MUCH
    end(loop, near, far)


# On top of start_tls


@INTERRUPTS
@pytest.mark.parametrize("method", ["data_received", "get_buffer", "buffer_updated"])
def test_interrupts_after_start_tls_lose_nothing(loop, interrupt, method):
    skip_stock(loop, "what get_buffer interrupts waits for the next record, which may never come")
    make = Plain if method == "data_received" else Buffered
    near, far = make(method, interrupt, every=2), Recorder()
    one, other = socketpair("tcp")

    async def secure():
        await loop.connect_accepted_socket(lambda: near, one)
        await loop.create_connection(lambda: far, sock=other)
        near.transport, far.transport = await asyncio.gather(
            loop.start_tls(near.transport, near, server_tls(), server_side=True),
            loop.start_tls(far.transport, far, client_tls(), server_hostname="localhost"),
        )

    run(loop, secure())
    far.transport.write(MUCH)
    far.transport.close()
    run_on(loop, near.lost.is_set)
    assert near.data == MUCH
    assert near.n_interrupts
    end(loop, near, far)
