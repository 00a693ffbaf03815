"""Each system call of an operation fails in turn: the error is reported, or nothing comes of it.
No fd is lost, nothing waits forever, and the same operation works on the same loop afterwards.
"""

import platform

import pytest
from support.helpers import LINUX, run_script

from .calls import NUMBERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NUMBERS, reason=f"system calls' numbers are not known on {platform.machine()}"),
    pytest.mark.skipif(LINUX < (5, 6), reason="pidfd_getfd needs Linux 5.6"),
]

START = """
import gc
from faults.calls import Sweep

class Side(asyncio.Protocol):
    def __init__(self, loop, answers):
        self.answers = answers
        self.received = b""
        self.ended = loop.create_future()
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.received += data
        if self.answers:
            self.transport.write(data)
    def connection_lost(self, error):
        sweep.lost(error)
        self.ended.set_result(None)

async def ended(sides):
    for side in sides:
        await side.ended

class Received(asyncio.DatagramProtocol):
    def __init__(self, loop):
        self.datagrams = []
        self.ended = loop.create_future()
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.datagrams.append(data)
    def error_received(self, error):
        sweep.lost(error)
    def connection_lost(self, error):
        sweep.lost(error)
        self.ended.set_result(None)
"""

CONNECTIONS = """
async def talk(loop, address):
    side = Side(loop, False)
    if isinstance(address, str):
        await loop.create_unix_connection(lambda: side, address, **CLIENT)
    else:
        await loop.create_connection(lambda: side, *address[:2], **CLIENT)
    side.transport.write(b"a" * 500)
    side.transport.writelines([b"b"] * 20)
    while len(side.received) < 520 and not side.ended.done():
        await asyncio.sleep(0)
    side.transport.close()
    await side.ended
    return side.received

async def scenario(loop):
    accepted = []
    def factory():
        accepted.append(Side(loop, True))
        return accepted[-1]
    if WHERE == "unix":
        server = await loop.create_unix_server(factory, sys.argv[1], **SERVER)
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0, **SERVER)
    received = None
    try:
        if server.sockets:  # asyncio passes over addresses for which there is no socket
            received = await talk(loop, server.sockets[0].getsockname())
        else:
            sweep.lost(OSError("no socket"))
    except OSError as error:
        sweep.lost(error)
        del error
    server.close()
    await turns(3)
    gc.collect()  # sockets of a client that could not be made
    await ended([side for side in accepted if hasattr(side, "transport")])
    return received
"""

SCENARIOS = {
    "tcp": """
WHERE, SERVER, CLIENT = "tcp", {}, {}
"""
    + CONNECTIONS,
    "unix": """
WHERE, SERVER, CLIENT = "unix", {}, {}
"""
    + CONNECTIONS,
    "tls": """
WHERE, SERVER = "tcp", {"ssl": server_tls()}
CLIENT = {"ssl": client_tls(), "server_hostname": "localhost"}
"""
    + CONNECTIONS,
    "datagrams": """
async def scenario(loop):
    sides = []
    try:
        _, receiver = await loop.create_datagram_endpoint(lambda: Received(loop), ("127.0.0.1", 0))
        sides.append(receiver)
        address = receiver.transport.get_extra_info("sockname")
        if address is None:
            raise OSError("no address")
        _, sender = await loop.create_datagram_endpoint(lambda: Received(loop), remote_addr=address)
        sides.append(sender)
        for number in range(20):
            sender.transport.sendto(bytes([number]) * 10)
        for _ in range(50):
            await asyncio.sleep(0)
        return sorted(set(receiver.datagrams))
    finally:
        for side in sides:
            side.transport.close()
            await side.ended
""",
    "sock": """
async def scenario(loop):
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as near:
        listener.setblocking(False)
        near.setblocking(False)
        await loop.sock_connect(near, listener.getsockname())
        far, _ = await loop.sock_accept(listener)
        with far, open(__file__ if "__file__" in globals() else sys.executable, "rb") as file:
            await loop.sock_sendall(near, b"x" * 1000)
            received = await loop.sock_recv(far, 2000)
            sent = await loop.sock_sendfile(far, file, 0, 1000)
            buffer = bytearray(2000)
            return received, sent, await loop.sock_recv_into(near, buffer)
""",
    "pipes": """
async def scenario(loop):
    read_fd, write_fd = os.pipe()
    reading, writing = Side(loop, False), Side(loop, False)
    with open(read_fd, "rb", 0) as read_end, open(write_fd, "wb", 0) as write_end:
        try:
            await loop.connect_read_pipe(lambda: reading, read_end)
            await loop.connect_write_pipe(lambda: writing, write_end)
            writing.transport.write(b"x" * 100_000)
            writing.transport.write_eof()
            await ended([writing, reading])
            return reading.received
        finally:
            for side in (reading, writing):
                if hasattr(side, "transport"):
                    side.transport.close()
            await turns(3)
""",
    "subprocess": """
class Child(asyncio.SubprocessProtocol):
    def __init__(self, loop):
        self.received = {1: b"", 2: b""}
        self.exited = loop.create_future()
        self.ended = loop.create_future()
    def pipe_data_received(self, fd, data):
        self.received[fd] += data
    def pipe_connection_lost(self, fd, error):
        sweep.lost(error)
    def process_exited(self):
        self.exited.set_result(None)
    def connection_lost(self, error):
        sweep.lost(error)
        self.ended.set_result(None)

async def scenario(loop):
    try:
        transport, child = await loop.subprocess_exec(lambda: Child(loop), "cat")
        transport.get_pipe_transport(0).write(b"x" * 1000)
        transport.get_pipe_transport(0).write_eof()
        await child.exited
        transport.close()
        await child.ended
        return child.received, transport.get_returncode()
    finally:
        await turns(5)
""",
    "threads": """
import signal
async def scenario(loop):
    loop.add_signal_handler(signal.SIGUSR1, int)
    loop.remove_signal_handler(signal.SIGUSR1)
    first = await loop.run_in_executor(None, int)
    called = loop.create_future()
    await loop.run_in_executor(None, loop.call_soon_threadsafe, called.set_result, 7)
    return first, await called, await asyncio.to_thread(int)
""",
    "files": """
import uringloop
async def scenario(loop):
    path = sys.argv[1]
    async with uringloop.open(path, "w+b") as file:
        await file.write(b"x" * 200_000)
        await file.seek(0)
        received = await file.read()
        await file.truncate(10)
    async with uringloop.open(path) as file:
        lines = await file.readlines()
    return len(received), lines
""",
    "raw": """
from uringloop.liburing import ffi, lib
async def scenario(loop):
    memory = ffi.new("char[]", 10)
    fd = os.open("/proc/self/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    try:
        n_bytes = await loop.add_sqe(lib.io_uring_prep_read, fd, memory, 10, -1)
        nothing = loop.run_nested(loop.add_sqe(lib.io_uring_prep_nop))
        return n_bytes, nothing, len(await asyncio.gather(*loop.add_sqes([(lib.io_uring_prep_nop,)] * 20)))
    finally:
        os.close(fd)
""",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_failing_call_is_reported_or_harmless(monitor, name, tmp_path):
    if name in ("files", "raw") and monitor != "io_uring":
        pytest.skip("files are read in threads, and there are no raw requests")
    source = f"{START}{SCENARIOS[name]}\nsweep = Sweep(scenario, MONITOR)\nsweep.run()"
    failures = run_script(source, monitor, arguments=[str(tmp_path / "name")])
    assert sum(int(one.partition("=")[2]) for one in failures.split()) > 20


RESTRICTED = """
import errno, uringloop
from drivers.ring import RingDriver
from faults.calls import NUMBERS, in_supervised_child

order = in_supervised_child()
RingDriver().close()
before = open_fds()
# the first of a ring only asks whether the call is allowed at all
order.number, order.nth, order.error = NUMBERS["io_uring_register"], 2, errno.EPERM
order.is_counting = 1
try:
    RingDriver()
except uringloop.MonitorUnavailable as error:
    assert error.errno == errno.EPERM
else:
    raise AssertionError("a ring without restrictions")
order.is_counting = 0
assert open_fds() == before
RingDriver().close()
"""


@pytest.mark.needs_liburing
def test_a_ring_that_cannot_be_restricted_is_closed():
    run_script(RESTRICTED, "io_uring", env={"URINGLOOP_RESTRICTED": "1"})
