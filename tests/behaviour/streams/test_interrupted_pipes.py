"""KeyboardInterrupt and SystemExit from the protocols of pipes lose nothing."""

import os
from io import FileIO

import pytest
from support.helpers import Recorder, turn_until
from support.interrupting import INTERRUPTS, interrupting, run_on


@INTERRUPTS
@pytest.mark.parametrize("method", ["connection_made", "data_received", "eof_received", "connection_lost"])
def test_data_and_end_of_a_read_pipe_arrive_after_an_interrupt(loop, interrupt, method):
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
def test_everything_is_written_to_a_pipe_after_an_interrupt(loop, interrupt, method):
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
    if (
        method != "resume_writing"
    ):  # asyncio's pipe transport, which uringloop uses, too, then forgets that it was closed
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
