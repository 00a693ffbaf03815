"""KeyboardInterrupt and SystemExit from a datagram protocol's methods lose nothing."""

import socket

import pytest
from support.helpers import Datagrams, run, turn_until
from support.interrupting import INTERRUPTS, interrupting, run_on


class Counting(Datagrams):
    def __init__(self):
        super().__init__()
        self.calls = []

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass


def connected(path):
    """Two datagram sockets; the first is connected to the second, which is non-blocking and has little room."""
    near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    far.bind(str(path / "far"))
    far.setblocking(False)
    near.connect(str(path / "far"))
    return near, far


def connect(loop, protocol, path):
    near, far = connected(path)
    transport, _ = run(loop, loop.create_datagram_endpoint(lambda: protocol, sock=near))
    transport.set_write_buffer_limits(high=1000)
    return transport, far


def fill(transport):
    """Send until some datagrams wait in the buffer; return the number sent."""
    count = 0
    while transport.get_write_buffer_size() < 5000:
        transport.sendto(b"%04d" % count * 250)
        count += 1
    return count


def receive(loop, far, count):
    """Receive `count` datagrams; return (datagrams, number of interrupts)."""
    received = []

    def are_received():
        try:
            received.append(far.recv(65536))
        except BlockingIOError:
            pass
        return len(received) == count

    return received, run_on(loop, are_received)


@INTERRUPTS
def test_the_other_datagrams_arrive_after_datagram_received_was_interrupted(loop, interrupt):
    protocol = interrupting(Counting, "datagram_received", interrupt)
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    transport, _ = run(loop, loop.create_datagram_endpoint(lambda: protocol, sock=near))
    for number in range(5):
        far.send(b"%d" % number)
    assert run_on(loop, lambda: protocol.received.qsize() == 5) == 1
    assert [protocol.received.get_nowait()[0] for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    transport.abort()
    turn_until(loop, protocol.lost.is_set)
    far.close()


@INTERRUPTS
@pytest.mark.parametrize("closes", [False, True], ids=["open", "closing"])
def test_all_datagrams_are_sent_after_resume_writing_was_interrupted(loop, interrupt, closes, tmp_path):
    protocol = interrupting(Counting, "resume_writing", interrupt)
    transport, far = connect(loop, protocol, tmp_path)
    count = fill(transport)
    if closes:
        transport.close()
    received, n_interrupts = receive(loop, far, count)
    n_interrupts += run_on(loop, lambda: "resume_writing" in protocol.calls)
    assert n_interrupts == 1
    assert received == [b"%04d" % number * 250 for number in range(count)]
    if not closes:
        transport.abort()
    turn_until(loop, protocol.lost.is_set)
    assert protocol.error is None
    far.close()


@INTERRUPTS
def test_the_endpoint_ends_after_error_received_was_interrupted(loop, interrupt, tmp_path):
    """The peer disappears while datagrams wait for room: they fail, and close() ends."""
    protocol = interrupting(Counting, "error_received", interrupt)
    transport, far = connect(loop, protocol, tmp_path)
    fill(transport)
    transport.close()
    far.close()
    assert run_on(loop, protocol.lost.is_set) == 1
    assert protocol.errors.qsize() >= 1
    assert protocol.error is None


@INTERRUPTS
@pytest.mark.parametrize("method", ["connection_made", "connection_lost"])
def test_an_endpoint_works_after_its_start_or_end_was_interrupted(loop, interrupt, method):
    protocol = interrupting(Counting, method, interrupt)
    near, far = socket.socketpair(type=socket.SOCK_DGRAM)
    making = loop.create_task(loop.create_datagram_endpoint(lambda: protocol, sock=near))
    n_interrupts = run_on(loop, making.done)
    far.send(b"hello")
    n_interrupts += run_on(loop, lambda: protocol.received.qsize() == 1)
    making.result()[0].abort()
    n_interrupts += run_on(loop, lambda: protocol.lost.is_set() and near.fileno() == -1)
    assert n_interrupts == 1
    assert protocol.calls == [method]
    far.close()
