"""A server among hostile clients: do the others get their answers in time, and does its memory stay flat?

    python -m tests.stress.hostile --monitor io_uring --hostile 1000 --good 100 --seconds 600 --seed 1

Three processes: the server, an echo by asyncio.Protocol with flow control and by streams; the hostile clients, which
flood, never read, send a byte at a time, pass urgent data, half-close, reset, or connect and leave; and the good ones,
each with a message every 50 ms, which compare what comes back and measure how long it takes.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

from support.helpers import STOCK, URING_MONITORS, make_loop, reset_on_close  # noqa: E402

PERIOD_S = 0.05
PATIENCE_S = 60
KINDS = ("flood", "flood and read", "never read", "trickle", "urgent", "half-close", "reset", "leave")
CHUNK = bytes(64 * 1024)


# The server


class Echo(asyncio.Protocol):
    """Stops reading while what it has written is not taken, as a server that faces anyone must."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        if not self.transport.is_closing():
            self.transport.resume_reading()


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()


def rss_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


async def serve(seconds):
    """Print the ports, then, at SIGTERM, what the memory and the fds were."""
    loop = asyncio.get_running_loop()
    errors = []
    loop.set_exception_handler(
        lambda _, context: errors.append(f"{context['message']} {context.get('exception')!r}")
    )
    by_protocol = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1000)
    by_streams = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1000)
    print(
        json.dumps([server.sockets[0].getsockname()[1] for server in (by_protocol, by_streams)]), flush=True
    )
    is_over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, is_over.set)
    samples = []
    while not is_over.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(is_over.wait(), max(0.2, seconds / 50))
        samples.append([rss_kib(), len(os.listdir("/proc/self/fd"))])
    print(json.dumps({"samples": samples, "errors": errors[:5], "n_errors": len(errors)}), flush=True)
    os._exit(0)  # the hostile connections are not worth an orderly end


# The clients


class Attack:
    """One hostile connection; step() does the next bad thing, and returns whether there is more to do."""

    def __init__(self, ports, chosen):
        self.chosen = chosen
        self.kind = chosen.choice(KINDS)
        self.n_steps = 0
        # Small pieces that are not read pin whole pages, which the kernel does not count: if each connection lived for
        # long, the memory of the machine would be gone after some minutes, on every loop.
        self.ends_at_s = time.monotonic() + chosen.random() * 6
        self.sock = socket.socket()
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self.sock.connect(("127.0.0.1", chosen.choice(ports)))

    def step(self):
        self.n_steps += 1
        send, kind = self.sock.send, self.kind
        if kind == "flood":
            send(CHUNK)
        elif kind == "flood and read":
            send(CHUNK)
            self.sock.recv(len(CHUNK))
        elif kind == "never read":
            send(CHUNK[:1000])
        elif kind == "trickle":
            send(b"x")
            return self.n_steps < 200
        elif kind == "urgent":
            self.sock.send(b"!", socket.MSG_OOB)
            send(CHUNK[:100])
        elif kind == "half-close":
            send(CHUNK)
            self.sock.shutdown(socket.SHUT_WR)
            return False
        elif kind == "reset":
            send(CHUNK[:100])
            reset_on_close(self.sock)
            return False
        else:
            return False
        return time.monotonic() < self.ends_at_s


def attack(ports, n, seconds, seed):
    """Keep n hostile connections busy; each that is over is replaced."""
    chosen = random.Random(seed)
    attacks = [Attack(ports, chosen) for _ in range(n)]
    counts = dict.fromkeys(KINDS, 0)
    ends_at_s = time.monotonic() + seconds
    while time.monotonic() < ends_at_s:
        for number in range(n):
            one = attacks[number]
            try:
                goes_on = one.step()
            except BlockingIOError:
                goes_on = time.monotonic() < one.ends_at_s
            except OSError:
                goes_on = False
            if not goes_on:
                counts[one.kind] += 1
                one.sock.close()
                attacks[number] = Attack(ports, chosen)
        select.select([], [], [], 0.001)  # leave the CPU to the good ones
    print(json.dumps(counts), flush=True)


async def be_good(port, number, n_messages_of, latencies, ends_at_s):
    chosen = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(chosen.random() * PERIOD_S)
    while time.monotonic() < ends_at_s:
        message = struct.pack("II", number, n_messages_of[number]) * chosen.randrange(1, 200)
        began_s = time.monotonic()
        writer.write(message)
        found = await asyncio.wait_for(reader.readexactly(len(message)), PATIENCE_S)
        latencies.append(time.monotonic() - began_s)
        if found != message:
            raise AssertionError(f"connection {number} got other bytes than it sent")
        n_messages_of[number] += 1
        await asyncio.sleep(PERIOD_S)
    writer.close()


async def be_good_all(ports, n, seconds):
    latencies, n_messages_of = [], [0] * n
    ends_at_s = time.monotonic() + seconds
    await asyncio.gather(
        *[be_good(ports[number % 2], number, n_messages_of, latencies, ends_at_s) for number in range(n)]
    )
    latencies.sort()
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    found = {f"{name}_ms": latencies[int(len(latencies) * share)] * 1000 for name, share in shares.items()}
    found |= {"most_ms": latencies[-1] * 1000, "messages": len(latencies), "fewest": min(n_messages_of)}
    print(json.dumps(found), flush=True)


# All of it


def start(role, options, *arguments):
    command = [sys.executable, "-m", "tests.stress.hostile", "--role", role, "--monitor", options.monitor]
    command += ["--seconds", str(options.seconds), "--seed", str(options.seed)]
    command += ["--hostile", str(options.hostile), "--good", str(options.good), *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True)


def line_of(process, role):
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{role} ended with status {process.wait()}")
    return json.loads(line)


def measure(options):
    """What the three processes saw."""
    children = []
    try:
        children.append(start("serve", options))
        ports = [str(port) for port in line_of(children[0], "the server")]
        children += [start("attack", options, *ports), start("good", options, *ports)]
        try:
            good, attacks = line_of(children[2], "good"), line_of(children[1], "attack")
        except RuntimeError as error:
            children[0].terminate()
            error.add_note(f"the server: {line_of(children[0], 'the server')}")
            raise
        children[0].terminate()
        return {"good": good, "attacks": attacks, "server": line_of(children[0], "the server")}
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--monitor", choices=[*URING_MONITORS, STOCK], default="io_uring")
    parser.add_argument("--hostile", type=int, default=1000)
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--role", choices=["serve", "attack", "good"], help=argparse.SUPPRESS)
    parser.add_argument("ports", nargs="*", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.role == "serve":
        with asyncio.Runner(loop_factory=lambda: make_loop(options.monitor)) as runner:
            runner.run(serve(options.seconds))
    elif options.role == "attack":
        attack(options.ports, options.hostile, options.seconds, options.seed)
    elif options.role == "good":
        asyncio.run(be_good_all(options.ports, options.good, options.seconds))
    else:
        found = measure(options)
        samples = found["server"].pop("samples")
        middle = samples[len(samples) // 5 :]
        print(json.dumps(found, indent=1))
        print(
            f"RSS of the server, MiB: {' '.join(str(one[0] // 1024) for one in middle[:: max(1, len(middle) // 20)])}"
        )


if __name__ == "__main__":
    main()
