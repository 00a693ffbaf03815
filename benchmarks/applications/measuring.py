"""Measures one application on one loop: a fresh server on one CPU, its load from another one."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks import client
from benchmarks.applications import postgresql, smtp, upstream, wrk
from benchmarks.applications.table import APPLICATIONS, Application
from benchmarks.client import LATENCY_KEYS, SampleFailed
from benchmarks.machine import busy_cpu_ns, child_environment, children_cpu_ns, process_cpu_ns

if TYPE_CHECKING:
    from benchmarks.cases import Case

FIRST_ANSWER_TIMEOUT_S = 20


def application_of(case: Case) -> Application:
    return APPLICATIONS[case.name.split("/")[1]]


def _check_answer(url: str, application: Application) -> None:
    """One request before the load; the server answers when it has started."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    give_up_s = time.monotonic() + FIRST_ANSWER_TIMEOUT_S
    while True:
        try:
            with opener.open(url, timeout=FIRST_ANSWER_TIMEOUT_S) as response:
                body = response.read()
            break
        except (OSError, urllib.error.URLError) as error:
            is_early = isinstance(
                getattr(error, "reason", error), (ConnectionRefusedError, ConnectionResetError)
            )
            if not is_early or time.monotonic() > give_up_s:
                raise SampleFailed(f"no answer: {error}") from None
            time.sleep(0.05)  # a server that makes its own socket does not listen yet
    try:
        is_right = application.is_right(body)
    except (ValueError, AttributeError):
        is_right = False
    if not is_right:
        raise SampleFailed(f"wrong answer: {body[:100]!r}")


def _sample(pid: int, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What *run* has measured of a window, with the CPU of the application meanwhile."""
    begin_ns, server_ns = time.monotonic_ns(), process_cpu_ns(pid)
    found = run()
    server_ns, elapsed_ns = process_cpu_ns(pid) - server_ns, time.monotonic_ns() - begin_ns
    n = found["requests"]
    return {
        "messages": n,
        "rate": n * 1e6 / found["duration_us"],
        "cpu_ns": server_ns / n,
        **{key: found[key] for key in wrk.LATENCIES},
        "server_busy": server_ns / elapsed_ns,
        "client_busy": found["client_cpu_s"] * 1e9 / elapsed_ns,
    }


def _load_by_wrk(application: Application, pid: int, port: int, seconds: float, cpu: int) -> dict[str, Any]:
    """The warm-up is a run of its own: wrk has none."""
    url = f"http://127.0.0.1:{port}{application.path}"
    _check_answer(url, application)
    load = (url, application.n_connections, application.depth)
    wrk.run(*load, 1, cpu)
    sample = _sample(pid, lambda: wrk.run(*load, wrk.whole_seconds(seconds), cpu))
    return {key: value for key, value in sample.items() if application.depth == 1 or key not in wrk.LATENCIES}


def _load_by_smtp(application: Application, pid: int, port: int, seconds: float, cpu: int) -> dict[str, Any]:
    smtp.run(port, application.n_connections, 0.3, cpu)
    return _sample(pid, lambda: smtp.run(port, application.n_connections, seconds, cpu))


def _load_by_loadgen(
    case: Case, pid: int, port: int, seconds: float, warmup_s: float, cpu: int
) -> dict[str, Any]:
    raw = client.run_client(case, ["-p", str(port), "-P", str(pid)], seconds, warmup_s, cpu)
    return {
        "messages": raw["messages"],
        "rate": raw["messages_per_s"],
        "cpu_ns": raw["server_cpu_ns"] / raw["messages"],
        **{key: value for key, value in raw.items() if key in LATENCY_KEYS},
        "server_busy": raw["server_cpu_ns"] / raw["elapsed_ns"],
        "client_busy": raw["client_cpu_ns"] / raw["elapsed_ns"],
    }


def measure(case: Case, loop: str, seconds: float, warmup_s: float, cpus: tuple[int, int]) -> dict[str, Any]:
    """One timed run in a fresh process. CPU is that of the application's process, without the other server's."""
    application = application_of(case)
    lifetime_s = int(seconds + warmup_s) + client.START_TIMEOUT_S + FIRST_ANSWER_TIMEOUT_S + 60
    command = [sys.executable, "-m", "benchmarks.applications.server", "--loop", loop]
    command += ["--program", application.program, "--cpu", str(cpus[0]), "--lifetime-s", str(lifetime_s)]
    database = postgresql.database(cpus[1]) if application.needs_database else None
    with upstream.running(application.upstream, cpus[1], lifetime_s) as (upstream_pid, where):
        environment = child_environment() | where | (database.environment if database else {})
        with client.serving(command, environment) as (pid, found):

            def our_cpu_ns() -> int:
                return process_cpu_ns(pid) + children_cpu_ns()

            def other_server_cpu_ns() -> int:
                found = process_cpu_ns(upstream_pid) if upstream_pid else 0
                return found + (database.cpu_ns() if database else 0)

            begin_ns, busy_ns, ours_ns = time.monotonic_ns(), busy_cpu_ns(cpus), our_cpu_ns()
            other_ns = other_server_cpu_ns()
            load = (pid, found["port"], seconds)
            if application.is_smtp:
                sample = _load_by_smtp(application, *load, cpus[1])
            elif application.path:
                sample = _load_by_wrk(application, *load, cpus[1])
            else:
                sample = _load_by_loadgen(case, *load, warmup_s, cpus[1])
            other_ns, elapsed_ns = other_server_cpu_ns() - other_ns, time.monotonic_ns() - begin_ns
            others_ns = (busy_cpu_ns(cpus) - busy_ns) - (our_cpu_ns() - ours_ns) - other_ns
    sample["others_busy"] = max(0.0, others_ns / elapsed_ns)
    sample |= {"database_busy": other_ns / elapsed_ns} if database else {}
    return sample | ({"upstream_busy": other_ns / elapsed_ns} if upstream_pid else {})
