#!/usr/bin/env python3
"""Run uringloop's tests on other kernels: Debian's, each in QEMU, with an emulated CPU, x86-64 or arm64.

    python tools/kernels [--kernels 5.10 6.1 6.12 newest] [--mirror URL] [--limit SECONDS] [--record]
    python tools/kernels --kernels 6.12-arm64 newest-arm64
    python tools/kernels --document       # docs/kernel-support.md from the table of features and the recorded runs

A kernel is named by its series ("6.12"), and by its architecture if it is not amd64; "newest" is the newest that Debian
has packaged. Needs qemu-system-x86, debootstrap, cpio and gpgv, and root or sudo for debootstrap; for arm64 on another
machine qemu-system-arm and gcc-aarch64-linux-gnu. All that is downloaded or made stays in build/kernels, in a folder
for each architecture: the kernels, a file system with Python, for each run its console and the report of the guest.

How it works: `debian` finds and unpacks a kernel; `image` makes the initramfs; `machine` boots it; in it `guest` runs
`python -m uringloop doctor` and the tests of plan.toml; a test that fails gets a second try, and the table says so.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import debian
import document
import image
import machine
from architectures import Architecture, Kernel

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "kernels"
REQUIREMENTS = ROOT / "build" / "requirements-test.txt"
PLAN = Path(__file__).parent / "plan.toml"
KERNELS = ["5.10", "6.1", "6.12", debian.NEWEST]
# pytest's statuses: passed, failed, no test was left; none for a suite of another monitor. Not: it could not start.
RAN = (0, 1, 5, None)
MIRROR = "http://deb.debian.org/debian"


def plan(architecture: Architecture, tests: list[str], with_slow: bool) -> dict[str, Any]:
    """plan.toml, or the tests that are named instead."""
    found = tomllib.loads(PLAN.read_text())
    if tests:
        monitors = found["suites"][0]["monitors"]
        return {"suites": [{"name": "tests", "arguments": tests, "monitors": monitors}], "left_out": {}}
    if not with_slow:
        for suite in found["suites"]:
            suite["arguments"] += ["-m", "not slow"]
    left_out = found["left_out"] | found.get(f"left_out_{architecture.name}", {})
    return {"suites": found["suites"], "left_out": left_out}


def commit() -> str:
    """Of the checkout, with -dirty if it has changes."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def summary(package: debian.Package, outcome: machine.Outcome) -> dict[str, Any]:
    """What the table shows of a run, and what failed."""
    of_kind = {
        kind: [one for one in outcome.lines if one["kind"] == kind] for kind in ("kernel", "doctor", "test")
    }
    suites = [one for one in outcome.lines if one["kind"] == "suite"]
    doctor = of_kind["doctor"][0]["facts"] if of_kind["doctor"] else {}
    tests = of_kind["test"]
    return {
        "release": of_kind["kernel"][0]["release"] if of_kind["kernel"] else "did not boot",
        "package": f"{package.name} {package.version}",
        "date": datetime.date.today().isoformat(),
        "is_whole": outcome.is_whole and all(one["status"] in RAN for one in suites),
        "monitor": doctor.get("fdmon") or "none",
        "missing": [one["name"] for one in doctor.get("features", []) if one["is_available"] is False],
        "passed": sum(one["passed"] for one in suites),
        "second_try": sorted(one["test"] for one in tests if "first" in one and one["outcome"] == "passed"),
        "failed": sorted(one["test"] for one in tests if one["outcome"] in ("failed", "started")),
        "skipped": sum(one["outcome"] == "skipped" for one in tests),
        "left_out": sum(one["outcome"] == "left out" for one in tests),
        "suites": {one["suite"]: one["passed"] for one in suites},
        "seconds": round(outcome.seconds),
    }


def show_failures(outcome: machine.Outcome) -> None:
    for one in outcome.lines:
        if one["kind"] == "broken":
            print(one["text"])
        if one["kind"] == "test" and ("first" in one or one["outcome"] in ("failed", "started")):
            state = {"passed": "passed on the second try", "started": "ended the process"}
            print(f"\n--- {one['test']}: {state.get(one['outcome'], one['outcome'])}")
            print(one.get("first", ["", one["text"]])[1] or one["text"])


def run(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Each kernel's summary; those of one architecture boot the same initramfs."""
    tested, images, results = commit(), {}, []
    for kernel in arguments.kernels:
        name, architecture = str(kernel), kernel.architecture
        cache = CACHE / architecture.name
        cache.mkdir(parents=True, exist_ok=True)
        if architecture not in images:
            wanted = plan(architecture, arguments.tests, arguments.slow)
            images[architecture] = image.image(cache, architecture, arguments.mirror, REQUIREMENTS, wanted)
        package, file = debian.Archive(arguments.mirror, cache, architecture.name).kernel(kernel.series)
        print(f"{name}: {package.name} {package.version}", flush=True)
        outcome = machine.run(name, architecture, file, images[architecture], cache, arguments.limit)
        result = summary(package, outcome) | {"series": name, "commit": tested}
        results.append(result)
        (cache / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        show_failures(outcome)
        print(f"{name}: console in {cache / f'{name}.console'}", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/kernels", description="The tests on other kernels, in QEMU.")
    parser.add_argument(
        "--kernels",
        nargs="+",
        default=[Kernel.of(name) for name in KERNELS],
        type=Kernel.of,
        metavar="KERNEL",
        help=f"series, or newest, and -arm64 or none; default {' '.join(KERNELS)}",
    )
    parser.add_argument("--mirror", default=MIRROR, help=f"of Debian, default {MIRROR}")
    parser.add_argument(
        "--limit", type=float, default=1800, metavar="SECONDS", help="for each kernel, default 1800"
    )
    parser.add_argument(
        "--tests", nargs="+", default=[], help="only these (files, or ids), whatever plan.toml says"
    )
    parser.add_argument("--slow", action="store_true", help="the tests that are marked slow, too")
    parser.add_argument(
        "--record", action="store_true", help="keep the figures, and write docs/kernel-support.md"
    )
    parser.add_argument("--document", action="store_true", help="only write docs/kernel-support.md")
    arguments = parser.parse_args()
    if arguments.document:
        document.write()
        return 0
    results = run(arguments)
    if arguments.record:
        document.record(results)
        document.write()
    print("\n".join(document.table(results)))
    return int(any(one["failed"] or not one["is_whole"] for one in results))


if __name__ == "__main__":
    sys.exit(main())
