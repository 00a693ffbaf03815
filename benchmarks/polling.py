"""The gain and the cost of adaptive polling, beyond the echo cases; see micro.py, which runs this.

The loop under test has one peer, a plain process on another CPU:

* `alone`: ping-pong, the loop begins; the next ping follows the pong at once.
* `mixed`: the same in bursts of ten, and each burst begins when an fd with a latency of 5 ms becomes readable, as if a
  server reads from a slow disk and then queries a cache.  `kept`: the share of polling's gain in `alone` that is left;
  both are measured alternately in this process, with polling and without.
* `beside`: the slow fd is in use all the time, independently of the ping-pong.
* `paced_N`: the peer sends every N us, without waiting for answers; the loop echoes.
* `ticker_N`: a timer every N ms, after a ping-pong from which the loop has learned to poll.
* `idle`: one second without events, after such a ping-pong.
* `crowd`: as `paced_1000us`, beside 3,000 connections that are idle.
* `contended`: as `alone`, with a process on each of the two CPUs that never sleeps, at the loop's own priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator

from benchmarks.loops import new_event_loop, set_polling, spec_of

SIZE_BYTES = 1024
BURST = 10
SLOW_S = 0.005
LEARN = 300  # round trips from which a loop learns
REPETITIONS = 3

# name -> round trips, messages or ticks
POLLING = {
    "alone": 4000,
    "mixed": 600,
    "beside": 4000,
    "paced_20us": 20_000,
    "paced_50us": 10_000,
    "paced_90us": 6000,
    "paced_100us": 6000,
    "paced_200us": 3000,
    "paced_300us": 3000,
    "paced_1000us": 1000,
    "paced_3000us": 500,
    "paced_10000us": 150,
    "ticker_1ms": 1000,
    "ticker_10ms": 100,
    "ticker_100ms": 10,
    "idle": 1,
    "crowd": 1000,
    "contended": 3000,
}
N_IDLE = 3000


@contextlib.contextmanager
def _child(work: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """Run *work* on one end of a connection in a process on the other CPUs; yields the other end."""
    ours, theirs = _tcp_pair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            ours.close()
            others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
            os.sched_setaffinity(0, others or os.sched_getaffinity(0))
            work(theirs)
        os._exit(0)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    for end in (ours, theirs):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, theirs


def _echo(sock: socket.socket) -> None:
    """In a child: echo."""
    while data := sock.recv(SIZE_BYTES):
        sock.send(data)


def _paced(interval_ns: int) -> Callable[[socket.socket], None]:
    def send(sock: socket.socket) -> None:
        """In a child: send at fixed times, without sleeping, and discard the echoes."""
        message = bytes(SIZE_BYTES)
        sock.recv(1)
        sock.setblocking(False)
        next_ns = time.perf_counter_ns()
        while True:
            while time.perf_counter_ns() < next_ns:
                pass
            next_ns += interval_ns
            with contextlib.suppress(BlockingIOError):
                sock.send(message)
                sock.recv(1 << 20, socket.MSG_TRUNC)

    return send


class Pings(asyncio.Protocol):
    """Sends a message, and again as soon as it is back; records the times."""

    def __init__(self) -> None:
        self.message = bytes(SIZE_BYTES)
        self.times_ns: list[int] = []
        self.n_left = self.n_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def start(self, n: int) -> asyncio.Future[None]:
        self.n_left = n
        self.done = asyncio.get_running_loop().create_future()
        self.sent_ns = time.perf_counter_ns()
        self.transport.write(self.message)  # type: ignore[attr-defined]
        return self.done

    def data_received(self, data: bytes) -> None:
        self.n_bytes += len(data)
        if self.n_bytes < SIZE_BYTES:
            return
        self.n_bytes = 0
        now_ns = time.perf_counter_ns()
        self.times_ns.append(now_ns - self.sent_ns)
        self.n_left -= 1
        if self.n_left:
            self.sent_ns = now_ns
            self.transport.write(self.message)  # type: ignore[attr-defined]
        else:
            self.done.set_result(None)


class Echo(asyncio.Protocol):
    """Echoes, and sets `reached` after `wanted` bytes."""

    def __init__(self) -> None:
        self.n_bytes, self.wanted, self.reached = 0, 1 << 62, asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]
        self.n_bytes += len(data)
        if self.n_bytes >= self.wanted:
            self.wanted = 1 << 62
            self.reached.set()


class SlowFd:
    """An fd that is readable 5 ms after each request: a timerfd, since a process would need a CPU of its own."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self.delay = struct.pack("qqqq", 0, 0, 0, int(SLOW_S * 1e9))
        self.answered = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(self.fd, self.ready)

    def ready(self) -> None:
        os.read(self.fd, 8)
        self.answered.set_result(None)

    def ask(self) -> asyncio.Future[None]:
        self.answered = asyncio.get_running_loop().create_future()
        self.libc.timerfd_settime(self.fd, 0, self.delay, None)
        return self.answered

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)


async def _connect(make: Callable[[], asyncio.Protocol], sock: socket.socket) -> asyncio.Protocol:
    sock.setblocking(False)
    return (await asyncio.get_running_loop().create_connection(make, sock=sock))[1]


async def _trips(pings: Pings, slow: SlowFd, case: str, n: int) -> dict[str, float]:
    """Round trips of one pattern; the wall time is that of the round trips, the CPU time includes everything."""

    is_over = False

    async def keep_asking() -> None:
        while not is_over:
            await slow.ask()

    pings.times_ns.clear()
    asking = asyncio.ensure_future(keep_asking()) if case == "beside" else None
    cpu_ns = time.process_time_ns()
    if case == "mixed":
        for _ in range(n // BURST):
            await slow.ask()
            await pings.start(BURST)
    else:
        await pings.start(n)
    cpu_ns = time.process_time_ns() - cpu_ns
    if asking is not None:
        is_over = True
        await asking
    return {
        "wall_ns": statistics.fmean(pings.times_ns),
        "p50_us": statistics.median(pings.times_ns) / 1000,
        "cpu_ns": cpu_ns / len(pings.times_ns),
    }


async def _ping_pong(loop_name: str, case: str, n: int, peer: socket.socket) -> dict[str, float]:
    """The best of three; loops that poll also run it without polling, and `alone`, and report how much gain is kept."""
    loop, spec = asyncio.get_running_loop(), spec_of(loop_name)
    pings = await _connect(Pings, peer)
    assert isinstance(pings, Pings)
    slow = SlowFd()
    has_gain = case in ("mixed", "beside") and bool(spec.poll_max_ns)
    kinds = [(case, True), *([(case, False), ("alone", True), ("alone", False)] if has_gain else [])]
    results: dict[tuple[str, bool], list[dict[str, float]]] = {kind: [] for kind in kinds}
    await pings.start(LEARN)
    for _ in range(REPETITIONS):
        for kind in kinds:
            set_polling(loop, spec, kind[1])
            results[kind].append(await _trips(pings, slow, kind[0], n if kind[0] == case else 10 * LEARN))
    slow.close()
    pings.transport.abort()  # type: ignore[attr-defined]
    best = {kind: min(found, key=lambda one: one["wall_ns"]) for kind, found in results.items()}
    if not has_gain:
        return best[case, True]
    gain = best[case, False]["wall_ns"] / best[case, True]["wall_ns"]
    gain_alone = best["alone", False]["wall_ns"] / best["alone", True]["wall_ns"]
    return {**best[case, True], "kept": (gain - 1) / (gain_alone - 1)}


async def _echo_paced(n: int, peer: socket.socket, n_idle: int = 0) -> dict[str, float]:
    async with _idle_connections(n_idle):
        return await _echo_paced_alone(n, peer)


async def _echo_paced_alone(n: int, peer: socket.socket) -> dict[str, float]:
    peer.send(b"x")
    echo = await _connect(Echo, peer)
    assert isinstance(echo, Echo)

    async def messages(count: int) -> None:
        echo.reached.clear()
        echo.wanted = echo.n_bytes + count * SIZE_BYTES
        await echo.reached.wait()

    await messages(LEARN)
    start_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    await messages(n)
    wall_ns, cpu_ns = time.perf_counter_ns() - start_ns, time.process_time_ns() - cpu_ns
    echo.transport.abort()  # type: ignore[attr-defined]
    return {"wall_ns": wall_ns / n, "cpu_ns": cpu_ns / n}


@contextlib.asynccontextmanager
async def _idle_connections(n: int) -> AsyncIterator[None]:
    """Connections of the loop on which nothing happens."""
    pairs = [socket.socketpair() for _ in range(n)]
    protocols = [await _connect(Echo, ours) for ours, _ in pairs]
    try:
        yield
    finally:
        for protocol, (_, theirs) in zip(protocols, pairs, strict=True):
            protocol.transport.abort()  # type: ignore[attr-defined]
            theirs.close()


@contextlib.contextmanager
def _busy_processes() -> Iterator[None]:
    """One on each of the first two CPUs, each of which never sleeps."""
    pids = []
    for cpu in sorted(range(os.cpu_count() or 1))[:2]:
        pid = os.fork()
        if pid == 0:
            os.sched_setaffinity(0, {cpu})
            signal.alarm(60)
            while True:
                pass
        pids.append(pid)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


async def _tick(interval_s: float, n: int, peer: socket.socket) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    pings = await _connect(Pings, peer)
    assert isinstance(pings, Pings)
    await pings.start(LEARN)
    done = loop.create_future()
    start_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()

    def tick(left: int) -> None:
        if left:
            loop.call_later(interval_s, tick, left - 1)
        else:
            done.set_result(None)

    tick(n)
    await done
    wall_ns, cpu_ns = time.perf_counter_ns() - start_ns, time.process_time_ns() - cpu_ns
    pings.transport.abort()  # type: ignore[attr-defined]
    return {"wall_ns": wall_ns / n, "cpu_ns": cpu_ns / n}


def measure_polling(loop_name: str, case: str, scale: float) -> dict[str, float]:
    """One case in a fresh process; the peers are started before the loop is made."""
    n = max(1, round(POLLING[case] * scale))
    kind, _, parameter = case.partition("_")
    with contextlib.ExitStack() as children:
        interval_ns = None
        if kind in ("paced", "crowd"):
            interval_ns = 1000 * int(parameter.removesuffix("us")) if parameter else 1_000_000
        if kind == "contended":
            children.enter_context(_busy_processes())
        peer = children.enter_context(_child(_echo if interval_ns is None else _paced(interval_ns)))
        loop = new_event_loop(loop_name)
        asyncio.set_event_loop(loop)
        children.callback(loop.close)
        if interval_ns is not None:
            work = _echo_paced(n, peer, N_IDLE if kind == "crowd" else 0)
        elif kind == "ticker":
            work = _tick(int(parameter.removesuffix("ms")) / 1000, n, peer)
        elif kind == "idle":
            work = _tick(1, n, peer)
        else:
            work = _ping_pong(loop_name, case, max(n, BURST), peer)
        return {"operations": n, **loop.run_until_complete(work)}
