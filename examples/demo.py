"""Two unmodified web applications on uringloop: checked, then compared with asyncio and uvloop.

    python examples/demo.py            # what `make demo` runs
    python examples/demo.py --quick

1. aiohttp and uvicorn + Starlette serve on uringloop, chosen once by policy and once by loop factory. Each
   kind of request (text, JSON, echoed bodies, a chunked stream, a websocket) is made concurrently and each
   answer checked.
2. The same requests go to asyncio, uvloop and uringloop in turn, A B C, C B A, A B C ...: interleaved, as one
   long run of each would compare moods of the machine. Ratios are taken within a round, then the median.
   Where a server was neither running nor kept from running by other processes, its figure measures waiting
   and not the loop: then there is no ratio.
3. What uringloop's loops say about themselves.

The exit status is 0 only if every request was answered rightly by the loop that was meant to.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import demo_checks
from demo_processes import BUILD, DemoError, Server, build_load_client, choose_cpus, run_load, write_plan

APPS = {"aiohttp": "aiohttp_app:make_app", "uvicorn": "starlette_app:app"}
TITLES = {"aiohttp": "aiohttp", "uvicorn": "uvicorn + Starlette"}
ECHO_BODY = bytes(range(256)) * 4
WATCHDOG_S = 300
# Of the time in which it could have run; below this a server under load was waiting for something.
BUSY_SHARE = 0.6
# Of the time other processes had the server's CPU; above this the figures deserve a warning.
STARVED_SHARE_LIMIT = 0.1
# Above this share the client may have been what limited the server.
CLIENT_SHARE_LIMIT = 0.7


def say(text: str = "") -> None:
    print(text, flush=True)


def ways_in() -> list[str]:
    """Policies leave Python with 3.16."""
    return ["policy", "factory"] if hasattr(asyncio, "set_event_loop_policy") else ["factory"]


def require_wanted(server: Server, report: dict[str, Any]) -> None:
    if not report["is_wanted"]:
        raise DemoError(f"{server.name}: the wrong loop serves: {report['loop']}")


def monitor(report: dict[str, Any]) -> str:
    """`io_uring`, or `epoll: why not io_uring`; other loops do not say."""
    if report["fdmon"] is None:
        return report["loop"]
    return f"{report['fdmon']}: {report['fdmon_reason']}" if report["fdmon_reason"] else report["fdmon"]


def introduce(args: argparse.Namespace, cpus: tuple[int, int]) -> None:
    """Who runs where: the line that makes the numbers below worth something."""
    pinned = (
        f"server on CPU {cpus[0]}, client on CPU {cpus[1]}"
        if cpus[0] >= 0
        else "one CPU for both, not pinned"
    )
    parser = "httptools" if importlib.util.find_spec("httptools") else "h11"
    say(f"Python {platform.python_version()}, Linux {platform.release()}, {pinned}")
    say(f"uvicorn parses with {parser}")
    if args.candidate != "uringloop":
        say(f"NOT A REAL RUN: {args.candidate} stands in for uringloop")
        return
    say("\n$ python -m uringloop")
    command = [sys.executable, "-m", "uringloop"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    say((done.stdout + done.stderr).rstrip())
    if done.returncode != 0:
        raise DemoError(f"python -m uringloop: exit status {done.returncode}")


def check_applications(args: argparse.Namespace, server_cpu: int) -> int:
    """Part 1; returns the number of requests that were answered rightly."""
    say(f"\n1. Two unmodified applications on {args.candidate}; every answer is checked")
    n_correct = 0
    for app in APPS:
        for via in ways_in():
            server = Server(APPS[app], args.candidate, via, server_cpu)
            try:
                require_wanted(server, server.first_report)
                outcome = asyncio.run(demo_checks.run_checks(server.port, app))
                last = server.report()
                require_wanted(server, last)
                server.stop()
            finally:
                server.kill()
            if outcome.failures:
                shown = "\n  ".join(outcome.failures[:10])
                raise DemoError(f"{server.name}: {len(outcome.failures)} requests failed:\n  {shown}")
            counts = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.correct.items()))
            say(f"   {TITLES[app]:19}  by {via:7}  {monitor(last)}: {outcome.n_correct} right ({counts})")
            for text in outcome.not_checked:
                say(f"   {'':19}  not checked: {text}")
            n_correct += outcome.n_correct
    return n_correct


def make_plan(app: str, port: int) -> Path:
    """Record what the load client sends and must get back: text, JSON and an echoed KiB, in turn."""
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
    """One application on several loops; the servers stay up, the load goes round."""

    def __init__(self, app: str, loops: list[str], cpus: tuple[int, int], args: argparse.Namespace) -> None:
        self.app = app
        self.loops = loops
        self.rates: dict[str, list[float]] = {loop: [] for loop in loops}
        self.n_answers = 0
        self.client_share = 0.0
        self.starved_share = 0.0
        self.busy_shares: dict[str, list[float]] = {loop: [] for loop in loops}
        self.cpu_us: dict[str, list[float]] = {loop: [] for loop in loops}
        self.last_report: dict[str, Any] = {}
        self._cpus = cpus
        self._args = args
        self._program = build_load_client()

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            servers = {}
            for loop in self.loops:
                servers[loop] = Server(APPS[self.app], loop, "factory", self._cpus[0])
                stack.callback(servers[loop].kill)
                require_wanted(servers[loop], servers[loop].first_report)
            plan = make_plan(self.app, servers[self.loops[0]].port)
            stack.callback(plan.unlink)
            for loop in self.loops:
                self._load(servers[loop], plan, min(0.5, self._args.seconds))
            for number in range(self._args.rounds):
                order = self.loops if number % 2 == 0 else self.loops[::-1]
                for loop in order:
                    self._measure(loop, servers[loop], plan)
                figures = "  ".join(f"{loop} {self.rates[loop][-1]:,.0f}/s" for loop in self.loops)
                say(f"   {TITLES[self.app]:19}  round {number + 1}/{self._args.rounds}: {figures}")
            for loop in self.loops:
                report = servers[loop].report()
                require_wanted(servers[loop], report)
                self.last_report = report if loop == self.loops[-1] else self.last_report
                servers[loop].stop()

    def _load(self, server: Server, plan: Path, seconds: float) -> dict[str, Any]:
        result = run_load(self._program, server.port, plan, self._args.connections, seconds, self._cpus[1])
        self.n_answers += result["answers"]
        self.client_share = max(self.client_share, result["cpu_s"] / result["seconds"])
        return result

    def _measure(self, loop: str, server: Server, plan: Path) -> None:
        """One round of one loop: its rate, and what its process did with the time."""
        before = server.report()
        result = self._load(server, plan, self._args.seconds)
        after = server.report()
        require_wanted(server, after)
        wall_s, cpu_s, starved_s = (after[key] - before[key] for key in ("wall_s", "cpu_s", "starved_s"))
        self.rates[loop].append(result["measured"] / result["seconds"])
        self.cpu_us[loop].append(cpu_s / result["answers"] * 1e6)
        self.busy_shares[loop].append(cpu_s / max(wall_s - starved_s, 1e-9))
        self.starved_share = max(self.starved_share, starved_s / wall_s)

    def was_busy(self, loop: str) -> bool:
        return statistics.median(self.busy_shares[loop]) >= BUSY_SHARE

    def ratios(self, baseline: str) -> list[float]:
        """Of the candidate, the last in `loops`, to another one, round by round."""
        pairs = zip(self.rates[self.loops[-1]], self.rates[baseline], strict=True)
        return [ours / theirs for ours, theirs in pairs]

    def show(self) -> None:
        candidate = self.loops[-1]
        say(f"   {TITLES[self.app]}")
        for loop in self.loops:
            cpu = f"{statistics.median(self.cpu_us[loop]):.0f} us CPU each"
            line = f"      {loop:10} {statistics.median(self.rates[loop]):8,.0f} requests/s, {cpu:15}"
            if loop != candidate and self.was_busy(loop) and self.was_busy(candidate):
                ratios = self.ratios(loop)
                middle = f"{statistics.median(ratios):.2f}"
                line += f"   {candidate} serves {middle} times this ({min(ratios):.2f} to {max(ratios):.2f})"
            elif not self.was_busy(loop):
                line += "   NOT BUSY: no ratio"
            say(line.rstrip())


def choose_loops(args: argparse.Namespace) -> list[str]:
    """The baselines that can be imported, and the candidate last."""
    loops = []
    for name in args.baselines.split(","):
        if importlib.util.find_spec(name):
            loops.append(name)
        else:
            say(f"   {name} is not installed: no comparison with it")
    return [name for name in loops if name != args.candidate] + [args.candidate]


def compare(args: argparse.Namespace, cpus: tuple[int, int]) -> list[Comparison]:
    """Part 2."""
    say("\n2. The same requests on each loop: text, JSON and an echoed KiB in turn; every answer is checked")
    say(f"   {args.connections} connections, keep-alive, no pipelining")
    say(f"   {args.rounds} interleaved rounds of {args.seconds:g} s")
    loops = choose_loops(args)
    comparisons = [Comparison(app, loops, cpus, args) for app in APPS]
    for comparison in comparisons:
        comparison.run()
    say("   Medians, and the ratios of single rounds (lowest to highest):")
    for comparison in comparisons:
        comparison.show()
    starved = max(comparison.starved_share for comparison in comparisons)
    if cpus[0] >= 0 and starved > STARVED_SHARE_LIMIT:
        say(f"   OTHER PROCESSES had the server's CPU for up to {starved:.0%} of a round: unsure figures")
    share = max(comparison.client_share for comparison in comparisons)
    verdict = "it did not limit" if share < CLIENT_SHARE_LIMIT else "TOO MUCH: it may have limited the server"
    say(f"   The client used at most {share:.0%} of a CPU: {verdict}")
    return comparisons


def show_statistics(comparisons: list[Comparison]) -> None:
    """Part 3: the candidate's own words after the load."""
    say("\n3. What the loops say about themselves after the load")
    for comparison in comparisons:
        report = comparison.last_report
        say(f"   {TITLES[comparison.app]}: {report['loop']} on {monitor(report)}")
        for key, value in (report["statistics"] or {}).items():
            if key != "fdmon":
                say(f"      {key:14} {value:,}" if isinstance(value, int) else f"      {key:14} {value}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--candidate", default="uringloop", help="loop module under test")
    parser.add_argument("--baselines", default="asyncio,uvloop", help="loop modules to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.8, help="length of one measurement")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="two short rounds: does it work, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 2, 0.3
    return args


def main() -> int:
    args = arguments()
    faulthandler.dump_traceback_later(WATCHDOG_S, exit=True)
    begin = time.monotonic()
    cpus = choose_cpus()
    if cpus[1] >= 0:
        os.sched_setaffinity(0, {cpus[1]})
    try:
        introduce(args, cpus)
        n_correct = check_applications(args, cpus[0])
        comparisons = compare(args, cpus)
        show_statistics(comparisons)
    except DemoError as error:
        say(f"\ndemo: FAILED: {error}")
        return 1
    n_served = n_correct + sum(comparison.n_answers for comparison in comparisons)
    if args.json:
        figures = {comparison.app: comparison.rates for comparison in comparisons}
        args.json.write_text(json.dumps({"requests_per_s": figures, "served": n_served}, indent=1) + "\n")
    say(f"\ndemo: ok, {n_served:,} requests served and checked, 0 failed, {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
