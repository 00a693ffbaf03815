"""wrk, the load generator for HTTP: its command line, and what it says.

Its percentiles are those of a closed load: at the end it adds, for each latency of more than twice the mean, the ones
that requests at the mean interval would have had meanwhile. With several requests in one write this fails: it takes the
interval of single requests and the latency of all. So those have no percentiles here.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.build import build
from benchmarks.client import SampleFailed
from benchmarks.machine import child_environment, congestion_control, settle_in

FOLDER = Path(__file__).parent
LATENCIES = ("p50_us", "p90_us", "p99_us", "p999_us")


def missing() -> str | None:
    """Why it cannot be used, if so."""
    return None if shutil.which("wrk") else "wrk is not installed (Debian: wrk)"


def whole_seconds(seconds: float) -> int:
    """wrk takes whole seconds, at least one."""
    return max(1, math.ceil(seconds))


def parse(text: str) -> dict[str, Any]:
    """What wrk.lua has written; raises SampleFailed if a request failed, or if there is no result."""
    line = next((line for line in text.splitlines() if line.startswith("JSON ")), None)
    if line is None:
        raise SampleFailed(f"wrk gave no result: {text.strip()[-200:]}")
    found = json.loads(line.removeprefix("JSON "))
    errors = [f"{name} {n}" for name, n in found["errors"].items() if n]
    if errors:
        raise SampleFailed(f"wrk counted errors: {', '.join(errors)}")
    if not found["requests"]:
        raise SampleFailed("nothing was answered in the measured window")
    return found


def preload() -> Path:
    """The library that sets the congestion control of wrk's sockets."""
    return build("congestion.so", FOLDER / "congestion.c", [], ["-shared", "-fPIC", "-ldl"])


def _own_cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def run(
    url: str, n_connections: int, depth: int, seconds: int, cpu: int | None, think_ms: int = 0
) -> dict[str, Any]:
    """One run: requests, duration_us, latencies (of no use with a depth), and wrk's own CPU.

    cpu: the one that wrk runs on; None: any, without a higher priority.
    think_ms: how long a connection waits before it asks again, in the mean.
    """
    command = ["wrk", "--threads", "1", "--connections", str(n_connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "10s", "--script", str(FOLDER / "wrk.lua"), url, "--"]
    command += [str(depth), str(think_ms)]
    environment = child_environment() | {
        "TCP_CONGESTION": congestion_control(),
        "LD_PRELOAD": os.fspath(preload()),
    }
    limit_s = seconds + 20
    began_s = _own_cpu_s()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=environment,
            preexec_fn=None if cpu is None else lambda: settle_in(cpu, limit_s + 1),
        )
    except subprocess.TimeoutExpired:
        raise SampleFailed("wrk did not end in time") from None
    if done.returncode:
        raise SampleFailed(
            f"wrk ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}"
        )
    return parse(done.stdout) | {"client_cpu_s": _own_cpu_s() - began_s}
