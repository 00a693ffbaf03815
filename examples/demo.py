"""Two unmodified web applications on uringloop: they are checked, then compared with asyncio and uvloop.

    python examples/demo.py            # what `make demo` runs
    python examples/demo.py --quick

1. aiohttp and uvicorn + Starlette serve on uringloop, chosen once by policy and once by loop factory. Each
   kind of request (text, JSON, echoed bodies, a chunked stream, a websocket) is made concurrently, and each
   response is checked.
2. The same requests go to asyncio, uvloop and uringloop in turn, A B C, C B A, A B C ...: they are interleaved,
   since with one long run of each, changes of the machine's load would show. Ratios are taken within a round, then
   the median. Rounds disturbed by other processes do not count (`demo_compare.py`). If a server was neither running
   nor kept from running, it waited for something, and its rate does not show how fast its loop is: there is no ratio.
3. The statistics of uringloop's loops.

The exit status is 0 only if every request was answered correctly, on the intended loop.
"""

import argparse
import asyncio
import faulthandler
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import demo_checks
from demo_compare import APPS, TITLES, Comparison
from demo_processes import DemoError, Server, choose_cpus, require_wanted, say

WATCHDOG_S = 300
# Above this share of a CPU the client may have limited the server.
CLIENT_SHARE_LIMIT = 0.7


def ways_in() -> list[str]:
    """Policies are removed in Python 3.16."""
    return ["policy", "factory"] if hasattr(asyncio, "set_event_loop_policy") else ["factory"]


def monitor(report: dict[str, Any]) -> str:
    """`io_uring`, or `epoll: why not io_uring`; the class for other loops."""
    if report["fdmon"] is None:
        return report["loop"]
    return f"{report['fdmon']}: {report['fdmon_reason']}" if report["fdmon_reason"] else report["fdmon"]


def introduce(args: argparse.Namespace, cpus: tuple[int, int]) -> None:
    """Print what runs where; without it the numbers below mean little."""
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
    if done.returncode in (1, 2):  # no loop can be made; the others say which monitor it is
        raise DemoError(f"python -m uringloop: exit status {done.returncode}")


def check_applications(args: argparse.Namespace, server_cpu: int) -> int:
    """Part 1; returns the number of requests that were answered correctly."""
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
    say(f"   {args.rounds} interleaved rounds of {args.seconds:g} s, disturbed ones repeated")
    loops = choose_loops(args)
    comparisons = [Comparison(app, loops, cpus, args.rounds, args.seconds) for app in APPS]
    for comparison in comparisons:
        comparison.run(args.connections)
    say("   Medians of the quiet rounds, and the ratios within a round (lowest to highest):")
    for comparison in comparisons:
        comparison.show()
    share = max(comparison.client_share for comparison in comparisons)
    verdict = "it did not limit" if share < CLIENT_SHARE_LIMIT else "TOO MUCH: it may have limited the server"
    say(f"   The client used at most {share:.0%} of a CPU: {verdict}")
    return comparisons


def show_statistics(comparisons: list[Comparison]) -> None:
    """Part 3: the candidate's statistics after the load."""
    say("\n3. The loops' statistics after the load")
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
    parser.add_argument("--quick", action="store_true", help="two short rounds, to see if it works")
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
        figures = {comparison.app: comparison.figures() for comparison in comparisons}
        args.json.write_text(json.dumps({"served": n_served, "rounds": figures}, indent=1) + "\n")
    say(f"\ndemo: ok, {n_served:,} requests served and checked, 0 failed, {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
