"""A soak: millions of messages, connections, loops, files and children, after which memory and fds are what they were.

    python -m tests.stress.soak --json soak.json [--monitor io_uring] [--scale 1] [--phase messages ...]

Each phase is a process of its own, which reports its memory and fds after each batch. Interrupted, it goes on after the
last batch that the file has. Exit status 1 if a phase failed or grew.
"""

import argparse
import asyncio
import gc
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

from support.helpers import STOCK, URING_MONITORS, make_loop  # noqa: E402

# name -> how many in all, how many in a batch
PHASES = {
    "messages": (100_000_000, 500_000),
    "connections": (1_000_000, 10_000),
    "loops": (100_000, 1000),
    "files": (100_000, 1000),
    "subprocesses": (10_000, 100),
}
N_PAIRS = 50
MESSAGE = bytes(1024)
MOST_GROWTH_MIB = 8  # from the first tenth of the batches to the last one
BAR = 40


class Counter(asyncio.Protocol):
    """Sends a message back, until the pair's share is sent."""

    def __init__(self, n_left, is_over):
        self.n_left, self.is_over = n_left, is_over
        self.n_missing = len(MESSAGE)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.n_missing -= len(data)
        if self.n_missing > 0:
            return
        self.n_missing = len(MESSAGE)
        self.n_left -= 1
        if self.n_left >= 0:
            self.transport.write(MESSAGE)
        if self.n_left <= 0 and not self.is_over.done():
            self.is_over.set_result(None)


async def messages(n):
    """Between pairs of connections in this process, back and forth."""
    loop = asyncio.get_running_loop()
    transports, ends = [], []
    for _ in range(N_PAIRS):
        is_over = loop.create_future()
        for sock in socket.socketpair():
            transport, _ = await loop.create_connection(
                lambda e=is_over: Counter(n // N_PAIRS // 2, e), sock=sock
            )
            transports.append(transport)
        ends.append(is_over)
        transports[-1].write(MESSAGE)
    await asyncio.gather(*ends)
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)


async def connections(n):
    """Connect, a message there and back by streams, close."""

    async def echo(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()

    async def client(port, n_each):
        for _ in range(n_each):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            assert await reader.read() == b"hello"
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=200)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*[client(port, n // 20) for _ in range(20)])
    server.close()
    await server.wait_closed()


async def files(n):
    """Write, read back, remove."""
    import uringloop

    with tempfile.TemporaryDirectory() as folder:
        for number in range(n):
            path = os.path.join(folder, str(number % 10))
            data = bytes([number % 256]) * (1 + number % 20_000)
            async with uringloop.open(path, "wb") as file:
                await file.write(data)
            async with uringloop.open(path, "rb") as file:
                assert await file.read() == data


async def subprocesses(n):
    """A line through a child, ten children at a time."""

    async def child():
        process = await asyncio.create_subprocess_exec(
            "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate(b"hello\n")
        assert (out, process.returncode) == (b"hello\n", 0)

    for _ in range(n // 10):
        await asyncio.gather(*[child() for _ in range(10)])


def loops(monitor, n):
    """Make, use and close."""

    async def use():
        near, far = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=near)
        with far:
            far.send(b"x")
            assert await reader.read(1) == b"x"
            writer.close()
            await writer.wait_closed()

    for _ in range(n):
        loop = make_loop(monitor)
        loop.run_until_complete(use())
        loop.close()


def state():
    gc.collect()
    with open("/proc/self/statm") as file:
        rss_kib = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    with open("/proc/meminfo") as file:
        slab_kib = next(int(line.split()[1]) for line in file if line.startswith("SUnreclaim:"))
    return {"rss_kib": rss_kib, "n_fds": len(os.listdir("/proc/self/fd")), "slab_kib": slab_kib}


def run_phase(name, monitor, n_total, n_batch, n_done):
    """In the child: a line of JSON after each batch."""
    phases = {"messages": messages, "connections": connections, "files": files, "subprocesses": subprocesses}
    loop = None if name == "loops" else make_loop(monitor)
    asyncio.set_event_loop(loop)
    while n_done < n_total:
        n = min(n_batch, n_total - n_done)
        if loop is None:
            loops(monitor, n)
        else:
            loop.run_until_complete(phases[name](n))
        n_done += n
        in_flight = loop.statistics()["in_flight"] if hasattr(loop, "statistics") else 0
        print(json.dumps({"done": n_done, "in_flight": in_flight, **state()}), flush=True)
    if loop is not None:
        loop.close()


def growth_mib(samples):
    """From the largest of the first tenth to the last."""
    first = samples[: max(1, len(samples) // 10)]
    return (samples[-1]["rss_kib"] - max(one["rss_kib"] for one in first)) / 1024


def show(name, n_done, n_total, began_s, is_last=False):
    filled = BAR * n_done // n_total
    bar = "#" * filled + "." * (BAR - filled)
    text = f"{name:13}[{bar}] {n_done:,} of {n_total:,}, {time.monotonic() - began_s:.0f} s"
    is_terminal = sys.stderr.isatty()
    if is_terminal or is_last:
        print(
            f"\r{text}" if is_terminal else text,
            end="" if is_terminal and not is_last else "\n",
            file=sys.stderr,
        )


def soak(name, options, document):
    """One phase, from where the document says; returns why it failed, or None."""
    n_total, n_batch = (max(100, round(number * options.scale)) for number in PHASES[name])
    runs = document.setdefault(f"{options.monitor} {options.scale:g}", {}).setdefault(name, [])
    n_done = runs[-1][-1]["done"] if runs else 0
    if n_done < n_total:
        samples = []
        runs.append(samples)
        command = [sys.executable, "-m", "tests.stress.soak", "--monitor", options.monitor]
        command += ["--child", name, str(n_total), str(n_batch), str(n_done)]
        began_s = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent) as child:
            for line in child.stdout:
                samples.append(json.loads(line))
                show(name, samples[-1]["done"], n_total, began_s)
                options.json.write_text(json.dumps(document, indent=1))
        if child.returncode:
            return f"exit status {child.returncode}"
        show(name, n_total, n_total, began_s, True)
    return judge(name, runs[-1])


def judge(name, samples):
    """Print what the process was; returns in which way it grew, or None."""
    first, last, fds = samples[0], samples[-1], [one["n_fds"] for one in samples]
    print(
        f"{name}: RSS {first['rss_kib'] / 1024:.1f} to {last['rss_kib'] / 1024:.1f} MiB, "
        f"{min(fds)} to {max(fds)} fds, at most {max(one['in_flight'] for one in samples)} requests in flight, "
        f"slab of the machine {first['slab_kib'] / 1024:.0f} to {last['slab_kib'] / 1024:.0f} MiB"
    )
    if growth_mib(samples) > MOST_GROWTH_MIB:
        return f"grew by {growth_mib(samples):.1f} MiB"
    return None if max(fds) - min(fds) <= 1 else f"from {min(fds)} to {max(fds)} fds"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", default=pathlib.Path("soak.json"))
    parser.add_argument("--monitor", choices=[*URING_MONITORS, STOCK], default="io_uring")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--phase", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *numbers = options.child
        run_phase(name, options.monitor, *map(int, numbers))
        return 0
    document = json.loads(options.json.read_text()) if options.json.exists() else {}
    failed = {}
    for name in options.phase:
        if reason := soak(name, options, document):
            failed[name] = reason
            print(f"{name} FAILED: {reason}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
