"""Seccomp filters that refuse system calls newer than those of stock asyncio: everything works without them.
With any errno: ENOSYS as recommended for filters, EPERM as from Docker's, or another one that users choose.
"""

import errno
import platform

import pytest
from support.helpers import STOCK, run_script

NUMBERS = {
    "x86_64": {
        "accept4": 288,
        "recvmmsg": 299,
        "sendmmsg": 307,
        "ppoll": 271,
        "epoll_pwait2": 441,
        "pidfd_open": 434,
        "eventfd2": 290,
        "waitid": 247,
        "statx": 332,
        "recvmsg": 47,
        "socketpair": 53,
        "epoll_ctl": 233,
        "epoll_wait": 232,
    },
    "aarch64": {
        "accept4": 242,
        "recvmmsg": 243,
        "sendmmsg": 269,
        "ppoll": 73,
        "epoll_pwait2": 441,
        "pidfd_open": 434,
        "eventfd2": 19,
        "waitid": 95,
        "statx": 291,
        "recvmsg": 212,
        "socketpair": 199,
        "epoll_ctl": 21,
        "epoll_wait": 22,
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


STREAMS = """
class Receiver(asyncio.Protocol):
    n_bytes = 0
    def data_received(self, data):
        self.n_bytes += len(data)
    def connection_lost(self, error):
        self.error = error

async def main():
    # a connection with much data, made by the loop itself: it is read in a different way
    listener = socket.create_server(("127.0.0.1", 0))
    transport, receiver = await loop.create_connection(Receiver, *listener.getsockname())
    receiver.error = None
    peer, _ = listener.accept()
    sending = loop.run_in_executor(None, peer.sendall, bytes(3_000_000))
    await until(lambda: receiver.n_bytes == 3_000_000 or receiver.error)
    assert not receiver.error, receiver.error
    await sending
    transport.close()
"""

FILES = """
from uringloop import files

async def main():
    async with await files.open("/dev/null", "wb") as file:
        await file.write(b"x")
    async with await files.open("/proc/self/comm", "rb") as file:
        assert await file.read()
"""

END = "try:\n    loop.run_until_complete(main())\nfinally:\n    loop.close()\n"


def refuse(calls, error):
    return f"refuse_calls({[NUMBERS[call] for call in calls]}, {error})\n"


@pytest.mark.parametrize(
    ("calls", "program"),
    [
        (["accept4"], ACCEPT),
        (["recvmmsg"], DATAGRAMS),
        (["sendmmsg"], DATAGRAMS),
        (["recvmmsg", "sendmmsg"], DATAGRAMS),
        (["ppoll", "epoll_pwait2"], TIMERS),
        (["pidfd_open"], CHILDREN),
        (["accept4", "recvmmsg", "sendmmsg", "ppoll", "epoll_pwait2", "pidfd_open"], ACCEPT),
        (["waitid"], CHILDREN),
        (["recvmsg"], STREAMS),
        (["socketpair"], STREAMS),
        (["statx"], FILES),
    ],
    ids=[
        "accept4",
        "recvmmsg",
        "sendmmsg",
        "mmsg",
        "waits",
        "pidfd_open",
        "all",
        "waitid",
        "recvmsg",
        "socketpair",
        "statx",
    ],
)
def test_programs_work_without_the_system_call(monitor, error, calls, program):
    run_script(START + program + "asyncio.set_event_loop(loop)\n" + refuse(calls, error) + END, monitor)


@pytest.mark.parametrize("call", ["eventfd2", "epoll_ctl"])
def test_a_loop_can_be_made_without_the_system_call(monitor, error, call):
    if call == "epoll_ctl" and monitor in ("epoll", STOCK):
        pytest.skip("this monitor waits with epoll")
    wake = """
async def main():
    await loop.run_in_executor(None, int)
    reading, writing = socket.socketpair()
    readable = loop.create_future()
    loop.add_reader(reading, readable.set_result, None)
    await turns(3)
    writing.send(b"x")
    await readable
    assert loop.remove_reader(reading)
    reading.close()
    writing.close()
    assert max(inheritable_fds()) <= 2
"""
    head = "import asyncio, os\nfrom unit.conftest import *\nbefore = open_fds()\n"
    end = "forget_spare_rings()\nassert open_fds() == before\n"
    run_script(head + refuse([call], error) + START + wake + END + end, monitor)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([426], "epoll"),  # io_uring_enter and _register have the same numbers everywhere
        ([427], "epoll"),
        ([425, "epoll_ctl"], "poll"),
        ([425, "epoll_wait"], "poll"),
    ],
    ids=["enter", "register", "epoll_ctl", "epoll_wait"],
)
def test_a_monitor_that_can_be_made_but_not_used_is_not_chosen(error, calls, expected):
    numbers = [NUMBERS.get(call, call) for call in calls]
    source = f"""
    import asyncio, os, uringloop
    refuse_calls({numbers}, {error})
    loop = uringloop.new_event_loop()
    assert loop.fdmon == {expected!r}, loop
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    """
    run_script(source)
