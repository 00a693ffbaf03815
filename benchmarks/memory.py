"""What connections cost in memory, and what stays once they are closed; micro.py runs it, in a fresh process.

The server accepts 10,000 connections (fewer where the limit of open files is lower) of a second process, over TCP on
loopback, and answers one message on each.  Figures per connection, of the server's process:

 * `idle_bytes`: private memory (`Anonymous` of /proc/self/smaps_rollup) after `gc.collect()`, minus that before;
   `young_bytes`: the same before the collection, with what waits for it.
 * `kernel_bytes`: growth of `Slab` in /proc/meminfo: sockets, files and requests, both ends of the connections, which
   cost the same on each loop.
 * `still_us`: CPU time of the process in a second in which nothing happens on them, in us.

And of the process, in MiB more than before the first connection:

 * `peak_mib`: the most while connections were opened, held, and closed (VmHWM).
 * `stays_mib`: when all are closed and collected; `closed_mib`: before the collection; `later_mib`: after another 1,000
   connections, one after the other.
 * `rss_mib`: `stays_mib` as top(1) shows it: the whole process.

`cpu_ns` is the CPU time to accept one connection and to answer on it, `wall_ns` includes the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.loops import new_event_loop
from benchmarks.machine import REPOSITORY, child_environment
from benchmarks.server import BACKLOG, Echo, serve

MEMORY = ("protocol", "streams", "tls")
COLUMNS = {
    "idle_bytes": "idle B",
    "young_bytes": "uncollected B",
    "kernel_bytes": "kernel B",
    "still_us": "CPU us of an idle second",
    "peak_mib": "peak MiB",
    "closed_mib": "closed MiB",
    "stays_mib": "stays MiB",
    "later_mib": "later MiB",
    "rss_mib": "RSS MiB",
}
CONNECTIONS = 10_000
LATER = 1_000
WARM = 20
# A source address has 28,000 ports, which closed connections keep for a minute.
PER_ADDRESS = 1_000
MESSAGE = b"x" * 64
MIB = 1024 * 1024


def _kib(path: str, *names: str) -> int:
    """The sum of these fields of a file in /proc, in KiB."""
    fields = dict(line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) for name in names)


def _private_bytes() -> int:
    return 1024 * _kib("/proc/self/smaps_rollup", "Anonymous")


# -- the client, a process of its own ------------------------------------------------------------------------


class _Client:
    """Opens connections and closes them; blocking, one after the other."""

    def __init__(self, port: int, style: str) -> None:
        self.port = port
        self.n_made = 0
        self.held: list[Any] = []
        self.context: ssl.SSLContext | None = None
        self.net = f"127.{time.time_ns() // 1_000_000_000 % 120 + 100}"  # another one than the run before
        if style == "tls":
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE

    def connect(self) -> Any:
        """A connection with one message sent and received."""
        number = self.n_made // PER_ADDRESS
        self.n_made += 1
        source = (f"{self.net}.{number // 250}.{number % 250 + 1}", 0)
        sock: Any = socket.create_connection(("127.0.0.1", self.port), 20, source)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.context is not None:
            sock = self.context.wrap_socket(sock)
        sock.sendall(MESSAGE)
        n_left = len(MESSAGE)
        while n_left:
            received = sock.recv(n_left)
            if not received:
                raise EOFError("the server closed a connection")
            n_left -= len(received)
        return sock

    def run(self, command: str, n: int) -> None:
        if command == "open":
            self.held.extend(self.connect() for _ in range(n))
        elif command == "close":
            for sock in self.held:
                sock.close()
            self.held.clear()
        else:
            for _ in range(n):
                self.connect().close()


def _client(port: int, style: str) -> None:
    _raise_limit()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # not only on the server's CPU
    client = _Client(port, style)
    for line in sys.stdin:
        command, n = line.split()
        client.run(command, int(n))
        os.write(1, b".")


# -- the server ------------------------------------------------------------------------------------------------


class _Counted(Echo):
    n_open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        _Counted.n_open += 1
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        _Counted.n_open -= 1
        super().connection_lost(exc)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _Counted.n_open += 1
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
        _Counted.n_open -= 1


async def _listen(style: str) -> int:
    """The port of a server of this style."""
    if style == "streams":
        server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=BACKLOG)
    else:
        server = await serve(style, None, len(MESSAGE), _Counted)
    return server.sockets[0].getsockname()[1]


class _Remote:
    """The client's process, ordered by lines."""

    def __init__(self, loop: asyncio.AbstractEventLoop, port: int, style: str) -> None:
        self.loop = loop
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.memory", str(port), style],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            env=child_environment(),
        )

    async def order(self, command: str, n: int = 0) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        done = self.loop.create_future()
        fd = self.process.stdout.fileno()

        def answered() -> None:
            self.loop.remove_reader(fd)
            if os.read(fd, 1):
                done.set_result(None)
            else:
                done.set_exception(EOFError("the client of the benchmark ended"))

        self.loop.add_reader(fd, answered)
        self.process.stdin.write(f"{command} {n}\n".encode())
        self.process.stdin.flush()
        await done

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


async def _all_closed() -> None:
    while _Counted.n_open:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # the loop's own work after connection_lost


def _raise_limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def _measure(remote: _Remote, n: int) -> dict[str, float]:
    figures: dict[str, float] = {"connections": n}
    await remote.order("cycle", WARM)  # what is made once
    await _all_closed()
    gc.collect()
    private, slab = _private_bytes(), _kib("/proc/meminfo", "Slab")
    rss = 1024 * _kib("/proc/self/status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    await remote.order("open", n)
    figures["wall_ns"] = (time.perf_counter_ns() - wall_ns) / n
    figures["cpu_ns"] = (time.process_time_ns() - cpu_ns) / n
    figures["young_bytes"] = (_private_bytes() - private) / n
    gc.collect()
    figures["idle_bytes"] = (_private_bytes() - private) / n
    figures["kernel_bytes"] = 1024 * (_kib("/proc/meminfo", "Slab") - slab) / n
    cpu_ns = time.process_time_ns()
    await asyncio.sleep(1)
    figures["still_us"] = (time.process_time_ns() - cpu_ns) / 1000
    await remote.order("close")
    await _all_closed()
    figures["closed_mib"] = (_private_bytes() - private) / MIB
    gc.collect()
    figures["stays_mib"] = (_private_bytes() - private) / MIB
    figures["rss_mib"] = _kib("/proc/self/status", "VmRSS") / 1024
    figures["peak_mib"] = (1024 * _kib("/proc/self/status", "VmHWM") - rss) / MIB
    await remote.order("cycle", LATER)
    await _all_closed()
    gc.collect()
    figures["later_mib"] = (_private_bytes() - private) / MIB
    return figures


def measure_memory(loop_name: str, style: str, scale: float) -> dict[str, float]:
    """The figures of one loop."""
    n = min(round(CONNECTIONS * scale), _raise_limit() - 200)
    loop = new_event_loop(loop_name)
    asyncio.set_event_loop(loop)
    remote = _Remote(loop, loop.run_until_complete(_listen(style)), style)
    try:
        return loop.run_until_complete(_measure(remote, n))
    finally:
        remote.end()


if __name__ == "__main__":
    _client(int(sys.argv[1]), sys.argv[2])
