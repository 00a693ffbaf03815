"""What a second CPU gains: uvicorn on one loop and on several loops of one process, with 100 us of Python a request.

    python -m benchmarks.cores [--rounds 5] [--seconds 4] [--members N] [--ways WAY ...] [--json FILE]

Ways to use several CPUs, each with one member and with as many as there are CPUs, in turn within each round:

* `interpreters`, `threads`: uringloop.LoopGroup with one listening socket. Only one thread of a Python with a GIL runs.
* `asyncio-interpreters`, `asyncio-threads`: the same with asyncio's own loop and a socket per loop (SO_REUSEPORT).
* `uvloop-processes`: `uvicorn --workers N --loop uvloop`.

`rate` is that of wrk with 16 connections per member that always ask again, relative to one member of the same way.
`p50` and `p99` are measured with 16 connections per member which wait 10 ms in the mean before they ask again, so that
the load per loop is the same. wrk has no CPU of its own: it runs on those of the server, which it also takes time from.
`memory` is what a further member adds to the process, in MB (proportional set size).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.applications import wrk
from benchmarks.applications.programs import asgi_busy
from benchmarks.client import SampleFailed
from benchmarks.machine import REPOSITORY, child_environment, describe, one_at_a_time, say

WAYS = ("interpreters", "threads", "asyncio-interpreters", "asyncio-threads", "uvloop-processes")
CONNECTIONS_PER_MEMBER = 16
THINK_MS = 10
WORK_US = 100
START_S = 30.0


# What is measured of them


def steps_of_work() -> int:
    """How many steps of the application's loop take 100 us on this machine."""
    n_steps, best_ns = 20_000, 1 << 62
    for _ in range(20):
        started_ns = time.perf_counter_ns()
        asgi_busy.work(n_steps)
        best_ns = min(best_ns, time.perf_counter_ns() - started_ns)
    return n_steps * WORK_US * 1000 // best_ns


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def wait_for_answer(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise SampleFailed(f"the server ended at once, with status {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(START_S)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if sock.recv(100).startswith(b"HTTP/1.1 200"):
                time.sleep(1)  # others of several members may have to import their application yet
                return
        time.sleep(0.05)
    raise SampleFailed("the server did not answer in time")


def memory_mb(group_id: int) -> float:
    """The proportional set sizes of the processes of a session."""
    total_kb = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(folder.name)) == group_id:
                found = re.search(r"^Pss:\s*(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)
                total_kb += int(found[1]) if found else 0
    return total_kb * 1024 / 1e6


@contextlib.contextmanager
def started(way: str, n_members: int, port: int, n_steps: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "benchmarks.cores_server", way, str(n_members), str(port)]
    environment = child_environment() | {"BENCHMARK_STEPS": str(n_steps)}
    process = subprocess.Popen(command, env=environment, cwd=REPOSITORY, start_new_session=True)
    try:
        wait_for_answer(process, port)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def sample(way: str, n_members: int, seconds: int, n_steps: int) -> dict[str, float]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    n_connections = CONNECTIONS_PER_MEMBER * n_members
    with started(way, n_members, port, n_steps) as process:
        wrk.run(url, n_connections, 1, 1, None)
        fast = wrk.run(url, n_connections, 1, seconds, None)
        paced = wrk.run(url, n_connections, 1, seconds, None, think_ms=THINK_MS)
        used_mb = memory_mb(process.pid)
    return {
        "rate": fast["requests"] / fast["duration_us"] * 1e6,
        "paced_rate": paced["requests"] / paced["duration_us"] * 1e6,
        "p50_us": paced["p50_us"],
        "p99_us": paced["p99_us"],
        "memory_mb": used_mb,
    }


def missing(way: str) -> str | None:
    """Why this interpreter cannot serve this way, if so."""
    if "interpreters" in way:
        if way.startswith("asyncio") and sys.version_info < (3, 14):
            return "needs Python 3.14"
        if sys.version_info < (3, 13):
            return "needs Python 3.13"
    return None


# The report


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


def table(rounds: list[dict[str, dict[str, float]]], ways: list[str], n_members: int) -> str:
    lines = [
        "| way | members | requests/s | of one member | paced: requests/s | p50 us | p99 us | MB per further member |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        for n in (1, n_members):
            taken = [one[f"{way}/{n}"] for one in rounds if f"{way}/{n}" in one]
            if not taken:
                continue
            both = [one for one in rounds if f"{way}/1" in one and f"{way}/{n}" in one]
            gains = [one[f"{way}/{n}"]["rate"] / one[f"{way}/1"]["rate"] for one in both]
            added = [one[f"{way}/{n}"]["memory_mb"] - one[f"{way}/1"]["memory_mb"] for one in both]
            cells = [way, str(n), f"{statistics.median(one['rate'] for one in taken):.0f}"]
            cells.append(_spread(gains, ".2f") if n > 1 and gains else "")
            cells.append(f"{statistics.median(one['paced_rate'] for one in taken):.0f}")
            cells += [_spread([one[name] for one in taken], ".0f") for name in ("p50_us", "p99_us")]
            cells.append(f"{statistics.median(added) / (n - 1):.1f}" if n > 1 and added else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> int:
    ways = [way for way in options.ways if missing(way) is None]
    for way in set(options.ways) - set(ways):
        say(f"no {way}: {missing(way)}")
    n_steps = steps_of_work()
    document: dict[str, Any] = {
        "machine": describe(),
        "settings": {name: getattr(options, name) for name in ("rounds", "seconds", "members")},
        "rounds": [],
    }
    n_failed = 0
    with one_at_a_time():
        for number in range(1, options.rounds + 1):
            found: dict[str, dict[str, float]] = {}
            document["rounds"].append(found)
            for way in ways:
                for n_members in (1, options.members):
                    name = f"{way}/{n_members}"
                    try:
                        found[name] = sample(way, n_members, options.seconds, n_steps)
                    except SampleFailed as error:
                        n_failed += 1
                        say(f"round {number}: {name} failed: {error}")
                        continue
                    figures = ", ".join(f"{key} {value:.1f}" for key, value in found[name].items())
                    say(f"round {number} of {options.rounds}: {name}: {figures}")
            if options.json:
                options.json.write_text(json.dumps(document, indent=1))
    print(table(document["rounds"], ways, options.members))
    return int(n_failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--members", type=int, default=max(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.members < 2 or options.rounds < 1 or options.seconds < 1:
        parser.error("at least two members, one round, one second")
    if reason := wrk.missing():
        parser.error(reason)
    return measure(options)


if __name__ == "__main__":
    sys.exit(main())
