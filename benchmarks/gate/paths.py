"""The paths, and the process that runs them under callgrind; started by counting.py, not by hand.

The process imports everything once, without counting, and then forks a child for each path, two at a time: so a path
begins in the same state whatever other paths there are, and imports are paid for once.

A path is a function that prepares a loop and returns `run`; `run(n)` does n operations. What run(n) takes besides its
operations (starting and stopping the loop, Python's own frames) is the same for each n, and is gone in the difference
between run(2 n) and run(n). All I/O is with the process itself, over sockets whose kernel side is done when the system
call returns: so what the loop finds in each turn, and therefore the count, does not depend on time or on other
processes.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import signal
import socket
import ssl
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Loop = asyncio.AbstractEventLoop
Run = Callable[[int], None]

MONITORS = ("io_uring", "epoll")
MESSAGE = bytes(1024)
BATCH = 100
TASKS = 20
WARM_UPS = 3
REPETITIONS = 10
WATCHED_WAIT_S = 0.001  # longer than any that measured polling polls for
LIFETIME_S = 200  # of a child; it takes about 2 s
AT_A_TIME = 2
CERTIFICATES = Path(__file__).resolve().parents[2] / "tests" / "support" / "data"


@dataclass(frozen=True)
class GatePath:
    """n: operations of the shorter of the two runs that are compared. monitors: on which it runs.

    limit: the rise of all instructions that is too much; RESULTS.md has the noise that it stands above.
    """

    prepare: Callable[[Loop], Run]
    n: int
    monitors: tuple[str, ...]
    limit: float


PATHS: dict[str, GatePath] = {}


def path(
    name: str, n: int, monitors: tuple[str, ...] = MONITORS, limit: float = 0.015
) -> Callable[[Any], Any]:
    """Register the decorated function; the names that the gate reports are NAME/MONITOR."""

    def register(prepare: Callable[[Loop], Run]) -> Callable[[Loop], Run]:
        PATHS[name] = GatePath(prepare, n, monitors, limit)
        return prepare

    return register


def names() -> list[str]:
    return [f"{name}/{monitor}" for name, one in PATHS.items() for monitor in one.monitors]


class Countdown:
    """Counts operations; the last one ends the run."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.left = 0

    def begin(self, n: int) -> asyncio.Future[None]:
        self.left = n
        self.done = self.loop.create_future()
        return self.done

    def is_last(self) -> bool:
        """To be called once by each operation."""
        self.left -= 1
        if self.left:
            return False
        self.done.set_result(None)
        return True


def running(loop: Loop, body: Callable[[int], Coroutine[Any, Any, None]]) -> Run:
    return lambda n: loop.run_until_complete(body(n))


def _nop(*_args: object) -> None:
    pass


# Scheduling.


@path("call_soon/chain", 300)
def call_soon_chain(loop: Loop) -> Run:
    """Each callback schedules the next: a turn for each."""
    countdown = Countdown(loop)

    def step() -> None:
        if not countdown.is_last():
            loop.call_soon(step)

    def run(n: int) -> None:
        done = countdown.begin(n)
        loop.call_soon(step)
        loop.run_until_complete(done)

    return run


@path("call_soon/batch", 600, ("io_uring",))
def call_soon_batch(loop: Loop) -> Run:
    """100 callbacks in a turn: the cost of one without that of a turn."""

    async def body(n: int) -> None:
        for _ in range(n // BATCH):
            for _ in range(BATCH):
                loop.call_soon(_nop, 1)
            await asyncio.sleep(0)

    return running(loop, body)


@path("call_soon_threadsafe", 300)
def call_soon_threadsafe(loop: Loop) -> Run:
    """A chain; from the loop's own thread, since where two threads meet cannot be controlled."""
    countdown = Countdown(loop)

    def step() -> None:
        if not countdown.is_last():
            loop.call_soon_threadsafe(step)

    def run(n: int) -> None:
        done = countdown.begin(n)
        loop.call_soon(step)
        loop.run_until_complete(done)

    return run


@path("tasks/sleep", 600, ("io_uring",))
def sleep_zero(loop: Loop) -> Run:
    """20 tasks that only yield to each other."""

    async def task(n: int) -> None:
        for _ in range(n):
            await asyncio.sleep(0)

    async def body(n: int) -> None:
        await asyncio.gather(*[task(n // TASKS) for _ in range(TASKS)])

    return running(loop, body)


@path("tasks/create", 200, ("io_uring",))
def create_task(loop: Loop) -> Run:
    """A task that ends in its first step."""

    async def nothing() -> None:
        pass

    async def body(n: int) -> None:
        for _ in range(n // BATCH):
            for _ in range(BATCH):
                loop.create_task(nothing())
            await asyncio.sleep(0)

    return running(loop, body)


@path("tasks/future", 150, ("io_uring",))
def future_wakeup(loop: Loop) -> Run:
    """A callback resolves the future that a task waits for."""

    async def body(n: int) -> None:
        for _ in range(n):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    return running(loop, body)


@path("timers/cancel", 300, ("io_uring",))
def timers_cancel(loop: Loop) -> Run:
    """A timeout that does not expire: made and cancelled."""

    async def body(n: int) -> None:
        for _ in range(n // BATCH):
            for _ in range(BATCH):
                loop.call_later(30, _nop).cancel()
            await asyncio.sleep(0)

    return running(loop, body)


@path("timers/due", 150)
def timers_due(loop: Loop) -> Run:
    """Each timer, which is due at once, makes the next."""
    countdown = Countdown(loop)

    def step() -> None:
        if not countdown.is_last():
            loop.call_at(0.0, step)

    def run(n: int) -> None:
        done = countdown.begin(n)
        loop.call_at(0.0, step)
        loop.run_until_complete(done)

    return run


# Traffic; each has its peer in the same process.


def socket_pair() -> tuple[socket.socket, socket.socket]:
    ours, peers = socket.socketpair()
    ours.setblocking(False)
    peers.setblocking(False)
    return ours, peers


@path("protocol/data_received", 100)
def data_received(loop: Loop) -> Run:
    """One message of 1 KiB in each turn; the callback has the peer send the next."""
    ours, peers = socket_pair()
    countdown = Countdown(loop)

    class Receiver(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            if not countdown.is_last():
                peers.send(MESSAGE)

    loop.run_until_complete(loop.create_unix_connection(Receiver, sock=ours))

    def run(n: int) -> None:
        done = countdown.begin(n)
        peers.send(MESSAGE)
        loop.run_until_complete(done)

    return run


@path("transport/write", 100)
def transport_write(loop: Loop) -> Run:
    """One write of 1 KiB in each turn, which the next turn takes from the peer: an error if it is not there."""
    ours, peers = socket_pair()
    countdown = Countdown(loop)
    buffer = bytearray(2 * len(MESSAGE))
    transport, _ = loop.run_until_complete(loop.create_unix_connection(asyncio.Protocol, sock=ours))

    def step() -> None:
        if peers.recv_into(buffer) != len(MESSAGE):
            raise RuntimeError("the message is not there, or not in one piece")
        if not countdown.is_last():
            transport.write(MESSAGE)
            loop.call_soon(step)

    def run(n: int) -> None:
        done = countdown.begin(n)
        loop.call_soon(transport.write, MESSAGE)
        loop.call_soon(loop.call_soon, step)
        loop.run_until_complete(done)

    return run


@path("streams/echo", 40, limit=0.03)
def streams_echo(loop: Loop) -> Run:
    """There and back through two StreamReaders and StreamWriters."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await reader.readexactly(len(MESSAGE)))
            await writer.drain()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, peers = socket_pair()
        servers.append(loop.create_task(serve(*await asyncio.open_unix_connection(sock=peers))))
        return await asyncio.open_unix_connection(sock=ours)

    async def body(n: int) -> None:
        if servers[0].done():  # this also keeps a reference to the task
            raise RuntimeError("the server has ended")
        for _ in range(n):
            writer.write(MESSAGE)
            await reader.readexactly(len(MESSAGE))

    servers: list[asyncio.Task[None]] = []
    reader, writer = loop.run_until_complete(connect())
    return running(loop, body)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.write(data)


@path("tls/echo", 30)
def tls_echo(loop: Loop) -> Run:
    """There and back, encrypted, through two protocols."""
    ours, peers = socket_pair()
    countdown = Countdown(loop)
    servers = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.load_cert_chain(CERTIFICATES / "cert.pem", CERTIFICATES / "key.pem")
    clients = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    clients.check_hostname = False
    clients.verify_mode = ssl.CERT_NONE

    class Client(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            if not countdown.is_last():
                transport.write(MESSAGE)

    async def connect() -> asyncio.Transport:
        made = await asyncio.gather(
            loop.connect_accepted_socket(Echo, peers, ssl=servers),
            loop.create_unix_connection(Client, sock=ours, ssl=clients, server_hostname=""),
        )
        return made[1][0]  # type: ignore[return-value]

    transport = loop.run_until_complete(connect())

    def run(n: int) -> None:
        done = countdown.begin(n)
        transport.write(MESSAGE)
        loop.run_until_complete(done)

    return run


@path("datagrams/echo", 40, limit=0.07)
def datagrams_echo(loop: Loop) -> Run:
    """There and back by UDP over the loopback interface."""
    countdown = Countdown(loop)

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.sendto = transport.sendto  # type: ignore[attr-defined]

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.sendto(data, addr)

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            if not countdown.is_last():
                client.sendto(MESSAGE)

    async def connect() -> asyncio.DatagramTransport:
        server, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
        address = server.get_extra_info("sockname")
        made, _ = await loop.create_datagram_endpoint(Client, remote_addr=address)
        return made

    client = loop.run_until_complete(connect())

    def run(n: int) -> None:
        done = countdown.begin(n)
        client.sendto(MESSAGE)
        loop.run_until_complete(done)

    return run


@path("server/accept", 20)
def server_accept(loop: Loop) -> Run:
    """A connection over TCP is accepted, gets its transport and protocol, and is closed."""
    countdown = Countdown(loop)
    peers: list[socket.socket] = []

    def connect() -> None:
        peer = socket.socket()
        peer.setblocking(False)
        peer.connect_ex(address)
        peers.append(peer)

    class Accepted(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            peers.pop().close()
            if not countdown.is_last():
                connect()

    server = loop.run_until_complete(loop.create_server(Accepted, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()

    def run(n: int) -> None:
        done = countdown.begin(n)
        connect()
        loop.run_until_complete(done)

    return run


@path("sockets/send_receive", 100, ("io_uring",))
def sock_send_receive(loop: Loop) -> Run:
    """sock_sendall() and sock_recv() of 1 KiB."""
    ours, peers = socket_pair()

    async def body(n: int) -> None:
        for _ in range(n):
            await loop.sock_sendall(ours, MESSAGE)
            await loop.sock_recv(peers, 2 * len(MESSAGE))

    return running(loop, body)


@path("reader/add_reader", 100)
def reader(loop: Loop) -> Run:
    """The callback of add_reader(), which reads the message and has the peer send the next."""
    ours, peers = socket_pair()
    countdown = Countdown(loop)
    buffer = bytearray(2 * len(MESSAGE))

    def is_readable() -> None:
        ours.recv_into(buffer)
        if not countdown.is_last():
            peers.send(MESSAGE)

    loop.add_reader(ours, is_readable)

    def run(n: int) -> None:
        done = countdown.begin(n)
        peers.send(MESSAGE)
        loop.run_until_complete(done)

    return run


@path("files/read", 50, ("io_uring",))
def files_read(loop: Loop) -> Run:
    """4 KiB from the page cache by uringloop.open(). On epoll threads do it, whose switches cannot be counted."""
    import uringloop

    source = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    source.write(bytes(16384))
    source.flush()
    file = loop.run_until_complete(
        uringloop.open(f"/proc/self/fd/{source.fileno()}", "rb", buffering=0).__aenter__()
    )

    async def body(n: int) -> None:
        for _ in range(n):
            if len(await file.pread(4096, 4096)) != 4096:
                raise RuntimeError("short read")

    return running(loop, body)


@path("requests/nop", 100, ("io_uring",))
def requests_nop(loop: Loop) -> Run:
    """await loop.add_sqe() of a NOP."""
    from uringloop.liburing import lib

    async def body(n: int) -> None:
        for _ in range(n):
            await loop.add_sqe(lib.io_uring_prep_nop)  # type: ignore[attr-defined]

    return running(loop, body)


@path("polling/watch", 30, ("io_uring",))
def polling_watch(loop: Loop) -> Run:
    """Polling as it is by default, while waits are too long for it: what watching them costs."""
    loop.set_poll_params(None)  # type: ignore[attr-defined]
    countdown = Countdown(loop)

    def step() -> None:
        if not countdown.is_last():
            loop.call_later(WATCHED_WAIT_S, step)

    def run(n: int) -> None:
        done = countdown.begin(n)
        loop.call_later(WATCHED_WAIT_S, step)
        loop.run_until_complete(done)

    return run


@path("loop/new_close", 10, limit=0.08)
def loop_new_close(loop: Loop) -> Run:
    """Make a loop, run it once, close it."""
    import uringloop

    monitor = loop.fdmon  # type: ignore[attr-defined]

    async def nothing() -> None:
        pass

    def run(n: int) -> None:
        for _ in range(n):
            new = uringloop.new_event_loop(fdmon=monitor)
            new.run_until_complete(nothing())
            new.close()

    return run


# The process.


class Counter:
    """Callgrind's client requests (requests.c)."""

    def __init__(self, library: str) -> None:
        self.requests = ctypes.CDLL(library)
        if not self.requests.gate_is_counting():
            raise RuntimeError("not under valgrind")

    def count(self, name: str, one: GatePath, run: Run) -> None:
        """Dump the counts of run(n) and run(2 n) REPETITIONS times; counting.py reads the files."""
        for _ in range(WARM_UPS):
            run(one.n)
        gc.collect()
        gc.disable()
        self.requests.gate_start()
        run(one.n)
        self.requests.gate_dump(b"")
        kept = []
        for repetition in range(REPETITIONS):
            # Where an operation's first allocation of a size class is the last one of its 4 KiB pool, each operation
            # pays for a change of pools. Objects that stay move the others on, so that it is not so in each repetition.
            kept.append([bytearray(size) for size in range(1, 512, 16) for _ in range(3)])
            self.requests.gate_dump(b"")  # without a label: these instructions are no part of run(n)
            for factor in (1, 2):
                run(factor * one.n)
                self.requests.gate_dump(f"{name} {repetition} {factor}".encode())


def run_path(name: str, counter: Counter) -> None:
    """In a process of its own; the loop is not closed, since the process ends."""
    import uringloop

    base, _, monitor = name.rpartition("/")
    loop = uringloop.new_event_loop(fdmon=monitor)
    if loop.fdmon != monitor:
        raise RuntimeError(f"the loop got the monitor {loop.fdmon}")
    # By default the time that waits take decides whether they are timed; a count must not depend on it.
    loop.set_poll_params(0)
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    asyncio.set_event_loop(loop)
    one = PATHS[base]
    counter.count(name, one, one.prepare(loop))
    if errors:
        raise RuntimeError(f"the loop reported {errors[0]}")


def _in_child(name: str, counter: Counter) -> int:
    """Fork; the child exits with 0 if it has counted, else after a traceback."""
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(LIFETIME_S)
    try:
        run_path(name, counter)
    except BaseException:
        sys.stderr.write(f"{name}:\n{traceback.format_exc()}")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def run_all(wanted: list[str], counter: Counter) -> None:
    """Print a line for each path that ends: its name and its wait status."""
    waiting, children = list(reversed(wanted)), {}
    while waiting or children:
        while waiting and len(children) < AT_A_TIME:
            name = waiting.pop()
            children[_in_child(name, counter)] = name
        pid, status = os.wait()
        print(children.pop(pid), status, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tree", required=True, help="the folder that has uringloop/")
    parser.add_argument("--requests", required=True, help="requests.c, compiled")
    parser.add_argument("--layout", type=int, required=True, help="where in memory things lie; any number")
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    # CPython's cache of methods goes by the addresses of their names and by the numbers of types: two methods of a path
    # that share a place cost some per cent. Strings that stay move the names that are imported next; types that have
    # been looked at use up numbers.
    chance = random.Random(options.layout)
    kept = ["x" * size for size in range(1, 200, 8) for _ in range(chance.randrange(200))]
    for _ in range(chance.randrange(200)):
        getattr(type("Numbered", (), {}), "name", None)
    # Without site, which would put editable installs first: what other packages do at start-up is no part of this.
    sys.path[:0] = [options.tree]
    sys.path.append(sysconfig.get_path("purelib"))
    import uringloop
    import uringloop.liburing

    found = Path(uringloop.__file__).parents[1]
    if found != Path(options.tree):
        raise RuntimeError(f"uringloop is from {found}")
    run_all(options.names, Counter(options.requests))
    del kept


if __name__ == "__main__":
    main()
