"""KeyboardInterrupt and SystemExit from a subprocess protocol lose nothing."""

import asyncio
import sys

import pytest
from support.interrupting import INTERRUPTS, interrupting, run_on


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
def test_a_childs_protocol_gets_everything_after_an_interrupt(loop, interrupt, method):
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
