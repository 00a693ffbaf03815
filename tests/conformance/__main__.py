"""`python -m tests.conformance SUITE`: run a suite on a loop, with this interpreter; see README.md."""

import argparse
import json
import platform
import signal
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from . import cpython, engine, projects, targets
from .judge import Verdict
from .suite import Suite

SUITES: dict[str, Suite] = {cpython.suite.name: cpython.suite, **projects.SUITES}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--loop", choices=targets.LOOPS, default="uringloop")
    parser.add_argument("--monitor", choices=(*targets.MONITORS, "all"), default="all", help="uringloop only")
    parser.add_argument("--module", action="append", help="only this module of the suite (repeatable)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--jobs", type=int, default=1, help="modules at once; more is quicker but flakier")
    parser.add_argument("--timeout", type=float, help="seconds that one test may take")
    parser.add_argument("--rebaseline", action="store_true", help="measure asyncio anew")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tracebacks, exceptions with their reasons"
    )
    return parser.parse_args()


def show(place: targets.Target, name: str, verdict: Verdict, verbose: bool) -> None:
    """Print the lines about one module; in a single call, since other modules may be running."""
    lines = [f"{place.label:20s}{name:26s}{summary(verdict)}  {verdict.seconds:.1f} s"]
    for test_id, record in verdict.failed.items():
        lines.append(f"  FAILED  {test_id}: {record['o']}: {record['m']}")
        if verbose and record.get("trace"):
            lines.append(textwrap.indent(record["trace"].rstrip(), "      "))
    lines += [f"  STALE   {test_id}: {what}" for test_id, what in verdict.stale.items()]
    lines += [f"  FLAKY   {test_id}: passed on the second try only" for test_id in verdict.flaky]
    lines += [f"  PROBLEM {problem}" for problem in verdict.problems]
    if verbose:
        lines += [f"  skipped {test_id}: {reason}" for test_id, reason in verdict.excepted.items()]
    print("\n".join(lines), flush=True)


def summary(verdict: Verdict) -> str:
    return f"{len(verdict.passed)} passed, {len(verdict.failed)} failed, {len(verdict.excepted)} skipped"


def run_target(args: argparse.Namespace, place: targets.Target, names: list[str]) -> Verdict:
    """The whole suite on one target."""
    suite, total = SUITES[args.suite], Verdict()

    def one(name: str) -> Verdict:
        verdict = suite.check(name, place, test_seconds=args.timeout, renew=args.rebaseline)
        show(place, name, verdict, args.verbose)
        return verdict

    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        try:
            for verdict in pool.map(one, names):
                total.merge(verdict)
        except BaseException:  # including KeyboardInterrupt and the SystemExit of SIGTERM
            pool.shutdown(wait=False, cancel_futures=True)
            engine.stop()
            raise
    return total


def write(path: str, args: argparse.Namespace, verdicts: dict[str, Verdict]) -> None:
    data = {
        "suite": args.suite,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "runs": {label: asdict(verdict) for label, verdict in verdicts.items()},
    }
    with open(path, "w") as file:
        json.dump(data, file, indent=1)
        file.write("\n")


def main() -> int:
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    monitors = (
        [None] if args.loop != "uringloop" else targets.MONITORS if args.monitor == "all" else [args.monitor]
    )
    verdicts: dict[str, Verdict] = {}
    missing = False
    for monitor in monitors:
        try:
            names = SUITES[args.suite].modules(args.module)
            place = targets.find(args.loop, monitor)
            facts = targets.describe(place)
        except targets.Unavailable as ex:
            print(f"UNAVAILABLE: {ex}", flush=True)
            missing = True
            continue
        version = f" {facts['version']}" if facts["version"] else ""
        print(f"{args.suite} on {facts['class']}{version}, {place.label}, Python {platform.python_version()}")
        verdicts[place.label] = run_target(args, place, names)
        args.rebaseline = False  # once is enough
    if args.json:
        write(args.json, args, verdicts)
    passed, failed, skipped = (
        sum(len(getattr(verdict, kind)) for verdict in verdicts.values())
        for kind in ("passed", "failed", "excepted")
    )
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if missing or not passed + failed:
        return 2
    return 0 if all(verdict.is_good for verdict in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
