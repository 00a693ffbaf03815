"""Seccomp filters that refuse system calls younger than those of stock asyncio: everything works without them.

With any errno: ENOSYS as a filter should, EPERM as Docker's did, another one where users choose it.
"""

import errno
import platform

import pytest
from helpers import run_script

NUMBERS = {
    "x86_64": {
        "accept4": 288,
        "recvmmsg": 299,
        "sendmmsg": 307,
        "ppoll": 271,
        "epoll_pwait2": 441,
        "pidfd_open": 434,
    },
    "aarch64": {
        "accept4": 242,
        "recvmmsg": 243,
        "sendmmsg": 269,
        "ppoll": 73,
        "epoll_pwait2": 441,
        "pidfd_open": 434,
    },
}.get(platform.machine())

pytestmark = [
    pytest.mark.skipif(NUMBERS is None, reason="system calls' numbers are not known here"),
    pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EACCES], ids=errno.errorcode.get),
]

START = """
import asyncio, os
loop = make_loop(MONITOR)
"""

ACCEPT = """
seen = []

class Server(asyncio.Protocol):
    def connection_made(self, transport):
        fd = transport.get_extra_info("socket").fileno()
        seen.append((os.get_blocking(fd), os.get_inheritable(fd), transport.get_extra_info("peername")))
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
        self.transport.close()

async def main():
    server = await loop.create_server(Server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"data")
    assert await reader.read() == b"data"
    assert seen == [(False, False, writer.get_extra_info("sockname"))], seen
    writer.close()
    server.close()
"""

DATAGRAMS = """
class Receiver(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = []
        self.done = loop.create_future()
    def datagram_received(self, data, address):
        self.got.append((data, address))
        if len(self.got) == 100:
            self.done.set_result(None)

async def main():
    receiver, received = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    to = receiver.get_extra_info("sockname")
    sent = [bytes([i]) * (9000 if i in (30, 60) else 1) for i in range(100)]
    for data in sent:
        sender.sendto(data, to)
    await received.done
    expected = [(data, sender.get_extra_info("sockname")) for data in sent]
    assert received.got == expected
    receiver.close()
    sender.close()
"""
TIMERS = """
async def main():
    for delay in (0.0005, 0.002, 0.01):
        before = loop.time()
        await asyncio.sleep(delay)
        assert loop.time() - before >= delay
    await loop.run_in_executor(None, int)
"""

CHILDREN = """
async def main():
    child = await asyncio.create_subprocess_exec("true")
    assert await child.wait() == 0
"""


@pytest.mark.parametrize(
    ("calls", "program"),
    [
        (["accept4"], ACCEPT),
        (["recvmmsg"], DATAGRAMS),
        (["sendmmsg"], DATAGRAMS),
        (["recvmmsg", "sendmmsg"], DATAGRAMS),
        (["ppoll", "epoll_pwait2"], TIMERS),
        (["pidfd_open"], CHILDREN),
        (list(NUMBERS or ()), ACCEPT),
    ],
    ids=["accept4", "recvmmsg", "sendmmsg", "mmsg", "waits", "pidfd_open", "all"],
)
def test_it_works_without(monitor, error, calls, program):
    refuse = f"refuse_calls({[NUMBERS[call] for call in calls]}, {error})\n"
    end = "try:\n    loop.run_until_complete(main())\nfinally:\n    loop.close()\n"
    run_script(START + program + "asyncio.set_event_loop(loop)\n" + refuse + end, monitor)
