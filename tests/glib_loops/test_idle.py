"""A loop inside GLib with nothing to do causes no wake-ups and uses no CPU time."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")

PROGRAM = """
import asyncio, os, socket, sys
import uringloop.glib
from gi.repository import GLib

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def begin():
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    transport, _ = await loop.create_connection(Echo, *server.sockets[0].getsockname())
    # a busy connection: about 0.1 s later nothing of it wakes the loop
    near, far = socket.socketpair()
    given, _ = await loop.create_connection(Echo, sock=near)
    far.setblocking(False)
    await loop.sock_sendall(far, b"x")
    await loop.sock_recv(far, 10)
    receiving = asyncio.ensure_future(loop.sock_recv(far, 10))
    sender, receiver = socket.socketpair(type=socket.SOCK_DGRAM)
    datagrams, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=receiver)
    sender.send(b"x")
    watched, _ = os.pipe()
    loop.add_reader(watched, print)
    loop.add_signal_handler(10, print)
    loop.call_later(3600, print)
    os.write(1, b"ready")
    return server, transport, given, receiving, far, sender, datagrams, await asyncio.to_thread(os.getpid)

loop = uringloop.glib.new_event_loop(fdmon=sys.argv[1])
task = loop.create_task(begin())
GLib.timeout_add_seconds(3600, print)
if sys.argv[2] == "loop":
    loop.run_forever()
else:
    GLib.MainLoop().run()
"""


def activity(pid):
    """The voluntary and involuntary context switches of each thread, and its CPU time in ns."""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as status:
            switches = [line.split()[1] for line in status if "ctxt_switches" in line]
        with open(f"/proc/{pid}/task/{thread}/schedstat") as times:
            found[thread] = (*switches, times.read().split()[0])
    return found


@pytest.mark.parametrize("outer", ["GLib.MainLoop", "loop"])
def test_an_idle_second_has_no_wake_up(monitor, outer):
    """The loop has a server, connections, a receive, a watched fd, a signal handler, a thread pool, distant timers."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), monitor, outer], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.read(5) == b"ready"
        before = None
        deadline = time.monotonic() + 20
        while before != (before := activity(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.2)  # it is still busy starting
        # the test is about idling, which has to take a while
        time.sleep(1)
        assert activity(child.pid) == before
    finally:
        child.kill()
        child.communicate()
