"""The server that an application is a client of: Redis, or a program of ours on asyncio; on the load's CPU.

A sample has one of its own. The application finds it by UPSTREAM_PORT or UPSTREAM_PATH.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import client
from benchmarks.machine import child_environment, settle_in

START_TIMEOUT_S = 20
REDIS = "redis"


def missing(name: str) -> str | None:
    """Why it cannot be used, if so."""
    if name == REDIS and shutil.which("redis-server") is None:
        return "redis-server is not installed (Debian: redis-server)"
    return None


def _ask_redis(path: Path) -> None:
    """Store the greeting; raises OSError until the server listens."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(START_TIMEOUT_S)
        sock.connect(str(path))
        sock.sendall(b'SET greeting "{\\"message\\": \\"Hello, World!\\"}"\r\n')
        answer = sock.recv(100)
    if answer != b"+OK\r\n":
        raise client.SampleFailed(f"Redis answers {answer!r}")


@contextlib.contextmanager
def _redis(cpu: int, lifetime_s: int) -> Iterator[tuple[int, dict[str, str]]]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        path = Path(folder) / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, preexec_fn=lambda: settle_in(cpu, lifetime_s)
        )
        try:
            give_up_s = time.monotonic() + START_TIMEOUT_S
            while True:
                try:
                    _ask_redis(path)
                    break
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > give_up_s:
                        raise client.SampleFailed(f"Redis does not start: {error}") from None
                    time.sleep(0.02)
            yield process.pid, {"UPSTREAM_PATH": str(path)}
        finally:
            client.end(process)


@contextlib.contextmanager
def running(name: str, cpu: int, lifetime_s: int) -> Iterator[tuple[int | None, dict[str, str]]]:
    """Yields its pid and the environment that names it; without a name there is none."""
    if not name:
        yield None, {}
    elif name == REDIS:
        with _redis(cpu, lifetime_s) as found:
            yield found
    else:
        command = [sys.executable, "-m", "benchmarks.applications.server", "--loop", "asyncio"]
        command += ["--program", name, "--cpu", str(cpu), "--lifetime-s", str(lifetime_s)]
        with client.serving(command, child_environment()) as (pid, where):
            yield pid, {"UPSTREAM_PORT": str(where["port"])}
