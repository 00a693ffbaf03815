"""KeyboardInterrupt and SystemExit out of protocols of datagrams, pipes and children: nothing is lost afterwards."""

import asyncio
import os
import socket
import sys
from io import FileIO

import pytest
from support.helpers import Datagrams, Recorder, run, turn_until

INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])


def interrupting(base, method, interrupt):
    """A protocol of class `base` whose `method` raises the first time, after it has done its work."""

    class Interrupting(base):
        is_interrupted = False

    def raising(self, *arguments):
        result = getattr(super(Interrupting, self), method)(*arguments)
        self.calls.append(method)
        if not self.is_interrupted:
            self.is_interrupted = True
            raise interrupt
        return result

    setattr(Interrupting, method, raising)
    return Interrupting()


def run_on(loop, condition):
    """Turn until it holds, whatever interrupts; how often it did."""
    count = 0
    while True:
        try:
            turn_until(loop, condition)
        except (KeyboardInterrupt, SystemExit):
            count += 1
        else:
            return count


# Datagrams


class Counting(Datagrams):
    def __init__(self):
        super().__init__()
        self.calls = []

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass


def connected(path):
    """Two datagram sockets; the first is connected to the second, which does not block and has little room."""
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
    """Send until some of it waits."""
    count = 0
    while transport.get_write_buffer_size() < 5000:
        transport.sendto(b"%04d" % count * 250)
        count += 1
    return count


def receive(loop, far, count):
    """So many datagrams; (datagrams, interrupts)."""
    received = []

    def are_received():
        try:
            received.append(far.recv(65536))
        except BlockingIOError:
            pass
        return len(received) == count

    return received, run_on(loop, are_received)


@INTERRUPTS
def test_datagram_received_is_interrupted_and_the_others_arrive(loop, interrupt):
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
def test_resume_writing_of_an_endpoint_is_interrupted_and_all_is_sent(loop, interrupt, closes, tmp_path):
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
def test_error_received_is_interrupted_and_the_endpoint_ends(loop, interrupt, tmp_path):
    """The peer is gone while something waits for room: that fails, and close() is over."""
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
def test_the_beginning_and_the_end_of_an_endpoint_are_interrupted(loop, interrupt, method):
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


# Pipes


@INTERRUPTS
@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_a_read_pipe_is_interrupted_and_its_data_and_end_arrive(loop, interrupt, method):
    protocol = interrupting(Recorder, method, interrupt)
    read_fd, write_fd = os.pipe()
    making = loop.create_task(loop.connect_read_pipe(lambda: protocol, FileIO(read_fd, "r")))
    n_interrupts = run_on(loop, making.done)
    os.write(write_fd, b"hello")
    n_interrupts += run_on(loop, lambda: protocol.data == b"hello")
    os.close(write_fd)
    n_interrupts += run_on(loop, protocol.lost.is_set)
    assert n_interrupts == 1
    assert protocol.error is None
    making.result()[0].close()
    turn_until(loop, lambda: not is_open(read_fd))


@INTERRUPTS
@pytest.mark.parametrize("method", ["connection_made", "pause_writing", "resume_writing", "connection_lost"])
def test_a_write_pipe_is_interrupted_and_everything_is_written(loop, interrupt, method):
    protocol = interrupting(Recorder, method, interrupt)
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    making = loop.create_task(loop.connect_write_pipe(lambda: protocol, FileIO(write_fd, "w")))
    n_interrupts = run_on(loop, making.done)
    transport, _ = making.result()
    data = b"0123456789" * 50_000
    try:
        transport.write(data)
    except interrupt:
        n_interrupts += 1
    if method != "resume_writing":  # asyncio's pipe, which is ours as well, forgets then that it was closed
        transport.close()
    received = bytearray()

    def is_over():
        try:
            piece = os.read(read_fd, 65536)
        except BlockingIOError:
            return False
        received.extend(piece)
        if len(received) == len(data):
            transport.close()
        return not piece

    n_interrupts += run_on(loop, is_over)
    n_interrupts += run_on(loop, protocol.lost.is_set)
    assert received == data
    assert n_interrupts == 1
    assert protocol.error is None
    os.close(read_fd)


def is_open(fd):
    return os.path.exists(f"/proc/self/fd/{fd}")


# Child processes


class Child(asyncio.SubprocessProtocol):
    def __init__(self):
        self.calls = []
        self.data = bytearray()
        self.ended = []

    def pipe_data_received(self, fd, data):
        self.data += data

    def pipe_connection_lost(self, fd, error):
        self.ended.append(fd)

    def process_exited(self):
        self.ended.append("exited")

    def connection_lost(self, error):
        self.ended.append("lost")


@INTERRUPTS
@pytest.mark.parametrize(
    "method",
    ["connection_made", "pipe_data_received", "pipe_connection_lost", "process_exited", "connection_lost"],
)
def test_a_childs_protocol_is_interrupted_and_hears_of_everything(loop, interrupt, method):
    protocol = interrupting(Child, method, interrupt)
    making = loop.create_task(
        loop.subprocess_exec(
            lambda: protocol, sys.executable, "-c", "print('hello')", stdin=None, stderr=None
        )
    )
    n_interrupts = run_on(loop, making.done)
    transport, _ = making.result()
    n_interrupts += run_on(loop, lambda: "lost" in protocol.ended)
    assert protocol.data == b"hello\n"
    assert sorted(map(str, protocol.ended)) == ["1", "exited", "lost"]
    assert n_interrupts == 1
    assert transport.get_returncode() == 0
    transport.close()
