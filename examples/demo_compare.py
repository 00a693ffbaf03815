"""One application on several loops under the same load, and the conclusions from that.

A round measures each loop once. It is *quiet* if neither a server nor the client was kept from running by
other processes for more than STARVED_SHARE_LIMIT of the time. Disturbed rounds are left out completely,
regardless of their result, and repeated within limits: contention changes the ratios themselves, not only their
spread. On a busy machine, single rounds had ratios from 0.03 to 19.
"""

import asyncio
import contextlib
import dataclasses
import os
import statistics
from pathlib import Path
from typing import Any

import demo_checks
from demo_processes import (
    BUILD,
    DemoError,
    Server,
    build_load_client,
    require_wanted,
    run_load,
    say,
    write_plan,
)

APPS = {"aiohttp": "aiohttp_app:make_app", "uvicorn": "starlette_app:app"}
TITLES = {"aiohttp": "aiohttp", "uvicorn": "uvicorn + Starlette"}
ECHO_BODY = bytes(range(256)) * 4
STARVED_SHARE_LIMIT = 0.1
QUIET_ROUNDS_MIN = 3
# Share of the time in which it could have run; below this a server under load was waiting for something.
BUSY_SHARE = 0.6


@dataclasses.dataclass
class Sample:
    """One loop in one round."""

    rate: float  # requests per second
    cpu_us: float  # of the server, per request
    busy_share: float  # of the time in which the server could have run
    starved_share: float  # of the time, the worse of server and client


def make_plan(app: str, port: int) -> Path:
    """Record the requests and the expected responses for the load client: text, JSON and an echoed KiB, in turn."""
    exchanges = []
    for method, path, body in (("GET", "/", b""), ("GET", "/json", b""), ("POST", "/echo", ECHO_BODY)):
        expected = asyncio.run(demo_checks.expected_body(port, method, path, body))
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n{length}\r\n"
        exchanges.append((head.encode() + body, expected))
    if exchanges[0][1] != demo_checks.HELLO or exchanges[2][1] != ECHO_BODY:
        raise DemoError(f"{app}: the recorded answers are wrong")
    path = BUILD / f"{app}.{os.getpid()}.plan"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_plan(path, exchanges)
    return path


class Comparison:
    """The servers of all loops keep running and get the load in turn; the candidate is the last loop."""

    def __init__(
        self, app: str, loops: list[str], cpus: tuple[int, int], rounds: int, seconds: float
    ) -> None:
        self.app = app
        self.loops = loops
        self.candidate = loops[-1]
        self.quiet: list[dict[str, Sample]] = []
        self.disturbed: list[dict[str, Sample]] = []
        self.n_answers = 0
        self.client_share = 0.0
        self.last_report: dict[str, Any] = {}
        self._cpus = cpus
        self._rounds = rounds
        self._seconds = seconds
        self._program = build_load_client()

    def run(self, connections: int) -> None:
        with contextlib.ExitStack() as stack:
            servers = {}
            for loop in self.loops:
                servers[loop] = Server(APPS[self.app], loop, "factory", self._cpus[0])
                stack.callback(servers[loop].kill)
                require_wanted(servers[loop], servers[loop].first_report)
            plan = make_plan(self.app, servers[self.loops[0]].port)
            stack.callback(plan.unlink)
            for loop in self.loops:
                self._load(servers[loop], plan, connections, min(0.5, self._seconds))
            for number in range(2 * self._rounds):
                if len(self.quiet) == self._rounds:
                    break
                order = self.loops if number % 2 == 0 else self.loops[::-1]
                samples = {loop: self._measure(servers[loop], plan, connections) for loop in order}
                self._file(number, samples)
            for loop in self.loops:
                self.last_report = servers[loop].report()
                require_wanted(servers[loop], self.last_report)
                servers[loop].stop()

    def _load(self, server: Server, plan: Path, connections: int, seconds: float) -> dict[str, Any]:
        result = run_load(self._program, server.port, plan, connections, seconds, self._cpus[1])
        self.n_answers += result["answers"]
        self.client_share = max(self.client_share, result["cpu_s"] / result["seconds"])
        return result

    def _measure(self, server: Server, plan: Path, connections: int) -> Sample:
        before = server.report()
        result = self._load(server, plan, connections, self._seconds)
        after = server.report()
        require_wanted(server, after)
        wall_s, cpu_s, starved_s = (after[key] - before[key] for key in ("wall_s", "cpu_s", "starved_s"))
        return Sample(
            rate=result["measured"] / result["seconds"],
            cpu_us=cpu_s / result["answers"] * 1e6,
            busy_share=cpu_s / max(wall_s - starved_s, 1e-9),
            starved_share=max(starved_s / wall_s, result["starved_s"] / result["seconds"]),
        )

    def _file(self, number: int, samples: dict[str, Sample]) -> None:
        """File a round as quiet or disturbed; with one CPU all are quiet, since server and client starve each other."""
        starved = max(sample.starved_share for sample in samples.values())
        is_quiet = self._cpus[0] < 0 or starved <= STARVED_SHARE_LIMIT
        (self.quiet if is_quiet else self.disturbed).append(samples)
        figures = "  ".join(f"{loop} {samples[loop].rate:,.0f}/s" for loop in self.loops)
        note = "" if is_quiet else f"  left out: other processes took {starved:.0%} of a CPU"
        say(f"   {TITLES[self.app]:19}  round {number + 1:2}: {figures}{note}")

    def was_busy(self, loop: str) -> bool:
        return statistics.median(samples[loop].busy_share for samples in self.quiet) >= BUSY_SHARE

    def ratios(self, baseline: str) -> list[float]:
        """The ratios of the candidate's rate to another loop's, round by round."""
        return [samples[self.candidate].rate / samples[baseline].rate for samples in self.quiet]

    def show(self) -> None:
        n_rounds = len(self.quiet) + len(self.disturbed)
        say(f"   {TITLES[self.app]}: {len(self.quiet)} of {n_rounds} rounds were quiet enough")
        if len(self.quiet) < min(QUIET_ROUNDS_MIN, self._rounds):
            say("      NO RATIO: other processes kept the CPUs busy; run it again on a quiet machine")
            return
        for loop in self.loops:
            rate = statistics.median(samples[loop].rate for samples in self.quiet)
            cpu_us = statistics.median(samples[loop].cpu_us for samples in self.quiet)
            line = f"      {loop:10} {rate:8,.0f} requests/s, {cpu_us:4.0f} us CPU each"
            if not self.was_busy(loop):
                line += "   NOT BUSY: no ratio"
            elif loop != self.candidate and self.was_busy(self.candidate):
                ratios = self.ratios(loop)
                middle = f"{statistics.median(ratios):.2f}"
                line += (
                    f"   {self.candidate} serves {middle} times this ({min(ratios):.2f} to {max(ratios):.2f})"
                )
            say(line)

    def figures(self) -> dict[str, Any]:
        """Everything that was measured, including the rounds left out."""
        kinds = {"quiet": self.quiet, "disturbed": self.disturbed}
        return {
            kind: [
                {loop: dataclasses.asdict(sample) for loop, sample in samples.items()} for samples in rounds
            ]
            for kind, rounds in kinds.items()
        }
