"""Builds loadgen.c and runs it against one server process; returns one sample."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import limits
from benchmarks.build import build, library_flags, liburing_flags
from benchmarks.machine import (
    PACKAGE,
    REPOSITORY,
    busy_cpu_ns,
    child_environment,
    children_cpu_ns,
    congestion_control,
    peak_rss_mib,
    process_cpu_ns,
    say,
    settle_in,
)

if TYPE_CHECKING:
    from benchmarks.cases import Case

START_TIMEOUT_S = 20
# The last two come from the open mode only.
LATENCY_KEYS = ("p50_us", "p90_us", "p99_us", "p999_us", "late_p99_us", "unanswered")

_strace_is_announced = False


class SampleFailed(Exception):
    """A server or client failed; the text gives the reason."""


def run_module(name: str, arguments: list[str], timeout_s: float) -> dict[str, Any]:
    """The JSON that a module of ours prints, in a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", name, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=REPOSITORY,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        raise SampleFailed(f"not finished within {timeout_s:g} s") from None
    if done.returncode:
        raise SampleFailed(f"exit status {done.returncode}: {_last_line(done.stderr)}")
    return json.loads(done.stdout)


def build_loadgen() -> Path:
    """Compile the client at first use. On epoll it would be near its own limit; without OpenSSL it has no TLS."""
    parts = ("options", "crowd", "datagram", "fanout", "handshakes", "open", "ring", "tls", "websocket")
    headers = [PACKAGE / f"loadgen_{part}.h" for part in parts]
    flags = liburing_flags() + library_flags("openssl", "WITH_OPENSSL")
    return build("loadgen", PACKAGE / "loadgen.c", headers, flags)


def end(process: subprocess.Popen) -> None:
    """End a process that was started here, at once and by its pid."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def _server_command(case: Case, loop: str, path: str | None, cpu: int, lifetime_s: int) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.server", "--loop", loop, "--style", case.style]
    command += ["--size-bytes", str(case.size_bytes), "--cpu", str(cpu), "--lifetime-s", str(lifetime_s)]
    return [*command, "--path", path] if path else command


@contextmanager
def serving(
    command: list[str], environment: dict[str, str], preexec_fn: Callable[[], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Start a server that prints a line of JSON once it listens; yields its pid and that line's content."""
    with tempfile.TemporaryFile("w+") as errors:
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=REPOSITORY,
            env=environment,
            preexec_fn=preexec_fn,
        )

        def complaint() -> str:
            errors.seek(0)
            return _last_line(errors.read())

        try:
            assert server.stdout is not None
            if not select.select([server.stdout], [], [], START_TIMEOUT_S)[0]:
                raise SampleFailed(f"server did not listen within {START_TIMEOUT_S} s: {complaint()}")
            line = server.stdout.readline()
            if not line:
                server.wait(5)
                raise SampleFailed(f"server ended with status {server.returncode}: {complaint()}")
            yield server.pid, json.loads(line)
            if server.poll() is not None:
                raise SampleFailed(f"server died with status {server.returncode}: {complaint()}")
        except SampleFailed as failure:
            if server.poll() is not None and "server" not in str(failure):
                # The client only noticed a broken connection; the server has the reason.
                raise SampleFailed(f"{failure}; server: {complaint()}") from None
            raise
        finally:
            end(server)
            if server.stdout is not None:
                server.stdout.close()


@contextmanager
def running_server(case: Case, loop: str, cpu: int, lifetime_s: int) -> Iterator[tuple[int, list[str]]]:
    """Start the echo server; yields its pid and its address as arguments for the client."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        path = os.path.join(folder, "socket") if case.is_unix else None
        is_limit = limits.is_limit(loop)
        command = (
            limits.command(loop, case, path)
            if is_limit
            else _server_command(case, loop, path, cpu, lifetime_s)
        )
        settle = (lambda: settle_in(cpu, lifetime_s)) if is_limit else None
        with serving(command, child_environment(), settle) as (pid, found):
            yield pid, ["-x", path] if path else ["-p", str(found["port"])]


def run_client(case: Case, arguments: list[str], seconds: float, warmup_s: float, cpu: int) -> dict[str, Any]:
    """The load client's result, from a server that listens where *arguments* say."""
    command = [os.fspath(build_loadgen()), "-m", case.mode, "-n", str(case.n_connections)]
    command += ["-s", str(case.size_bytes), "-t", str(seconds), "-w", str(warmup_s), *arguments]
    command += ["-d", str(case.window), "-i", str(case.n_idle), "-l", str(case.n_slow)]
    command += ["-C", congestion_control()]
    command += ["-r", str(case.rate_per_s)] if case.rate_per_s else []
    command += ["-T"] if case.style == "tls" else []
    command += ["-W"] if case.style == "websocket" else []
    limit_s = seconds + warmup_s + 25
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            # The client replaces this alarm with an earlier one.
            preexec_fn=lambda: settle_in(cpu, int(limit_s) + 1),
        )
    except subprocess.TimeoutExpired:
        raise SampleFailed("the client did not end in time") from None
    if done.returncode:
        reason = _last_line(done.stderr)
        if done.returncode == -signal.SIGALRM:
            reason = "the server stalled: the client ended by its alarm"
        raise SampleFailed(reason)
    result = json.loads(done.stdout)
    if not result["messages"]:
        raise SampleFailed("the server echoed nothing in the measured window")
    return result


def measure(case: Case, loop: str, seconds: float, warmup_s: float, cpus: tuple[int, int]) -> dict[str, Any]:
    """One timed run of *case* on *loop* in a fresh process."""
    lifetime_s = int(seconds + warmup_s) + 40
    with running_server(case, loop, cpus[0], lifetime_s) as (pid, where):

        def our_cpu_ns() -> int:
            return process_cpu_ns(pid) + children_cpu_ns()

        begin_ns, busy_ns, ours_ns = time.monotonic_ns(), busy_cpu_ns(cpus), our_cpu_ns()
        raw = run_client(case, [*where, "-P", str(pid)], seconds, warmup_s, cpus[1])
        elapsed_ns = time.monotonic_ns() - begin_ns
        others_ns = (busy_cpu_ns(cpus) - busy_ns) - (our_cpu_ns() - ours_ns)
        peak = {"rss_mib": peak_rss_mib(pid)} if case.n_idle or case.n_slow else {}
    n = raw["messages"]
    return {
        "messages": n,
        "rate": raw["messages_per_s"],
        "cpu_ns": raw["server_cpu_ns"] / n,
        **{key: value for key, value in raw.items() if key in LATENCY_KEYS},
        **({"offered_per_s": case.rate_per_s} if case.rate_per_s else {}),
        **peak,
        "server_busy": raw["server_cpu_ns"] / raw["elapsed_ns"],
        "client_busy": raw["client_cpu_ns"] / raw["elapsed_ns"],
        "others_busy": max(0.0, others_ns / elapsed_ns),
    }


def count_syscalls(case: Case, loop: str, seconds: float, cpus: tuple[int, int]) -> dict[str, Any]:
    """System calls of the server per message, from a separate run; None if nothing can count them."""
    try:
        with running_server(case, loop, cpus[0], int(seconds) + 40) as (pid, where):
            raw = run_client(case, [*where, "-P", str(pid), "-S"], seconds, 0.3, cpus[1])
        return {"value": raw["syscalls"] / raw["messages"], "method": "perf"}
    except SampleFailed as failure:
        if not re.search("tracepoint|perf", str(failure)):
            return {"value": None, "method": str(failure)}
        if not shutil.which("strace"):
            return {"value": None, "method": f"{failure}; no strace"}
        return _count_with_strace(case, loop, seconds, cpus, str(failure))


def _count_with_strace(
    case: Case, loop: str, seconds: float, cpus: tuple[int, int], reason: str
) -> dict[str, Any]:
    """The slow way. It also counts the calls for connecting, so the figure of a short run is a little too high."""
    global _strace_is_announced
    if not _strace_is_announced:
        say(f"note: {reason}; counting system calls with strace instead")
        _strace_is_announced = True
    try:
        with (
            running_server(case, loop, cpus[0], int(seconds) + 60) as (pid, where),
            tempfile.NamedTemporaryFile("r") as table,
        ):
            tracer = subprocess.Popen(
                ["strace", "-c", "-f", "-o", table.name, "-p", str(pid)],
                stderr=subprocess.PIPE,
                text=True,
            )
            assert tracer.stderr is not None
            try:
                # "strace: Process N attached" is its first line.
                ready = select.select([tracer.stderr], [], [], 10)[0]
                if not ready or "attached" not in tracer.stderr.readline():
                    return {"value": None, "method": f"{reason}; strace could not attach"}
                raw = run_client(case, where, seconds, 0.0, cpus[1])
                tracer.send_signal(signal.SIGINT)
                tracer.wait(10)
            finally:
                end(tracer)
                tracer.stderr.close()
            total = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d*\s+(\d+).*\btotal$", table.read(), re.MULTILINE)
    except (SampleFailed, subprocess.TimeoutExpired) as failure:
        return {"value": None, "method": f"{reason}; strace: {failure}"}
    value = int(total.group(1)) / raw["messages"] if total else None
    return {"value": value, "method": "strace"}
