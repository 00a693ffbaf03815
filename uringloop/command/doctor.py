"""`python -m uringloop doctor`: which monitor runs here, and why.

Makes a loop as an application would, reads its properties, closes it, and probes the kernel.  Exit status 0 if a loop
can be made, on any monitor; 1 if none can ($URINGLOOP_FDMON forces one that is not available).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
from typing import Any

from .. import __version__, new_event_loop
from ..liburing import features


def _loop() -> dict[str, Any]:
    """The monitor that a loop with default settings gets, and why; or why there is no loop."""
    try:
        loop = new_event_loop()
    except (OSError, ValueError) as error:  # MonitorUnavailable is an OSError
        return {"fdmon": None, "fdmon_reason": str(error)}
    try:
        return {"fdmon": loop.fdmon, "fdmon_reason": loop.fdmon_reason}
    finally:
        loop.close()


def _liburing() -> dict[str, Any] | None:
    build = features.liburing_build()
    return None if build is None else {"version": build[0], "is_static": build[1]}


def _memlock_bytes() -> int | None:
    """The soft limit of locked memory; None for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def report(findings: list[features.Finding]) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "uringloop": __version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_loop(),
        "liburing": _liburing(),
        "memlock_bytes": _memlock_bytes(),
        "cpus": len(os.sched_getaffinity(0)),
        "features": [
            {
                "name": one.feature.name.replace("`", ""),
                "since": one.feature.since,
                "is_available": one.is_available,
                "reason": one.reason,
                "without": one.feature.without.replace("`", ""),
            }
            for one in findings
        ],
    }


def _because(facts: dict[str, Any]) -> str:
    if facts["fdmon_reason"] is not None:
        return str(facts["fdmon_reason"])
    return "best available monitor; nothing disables it"


def _describe(facts: dict[str, Any], findings: list[features.Finding]) -> str:
    """Everything, for people."""
    build, limit = facts["liburing"], facts["memlock_bytes"]
    if build is None:
        liburing = "none in this build"
    else:
        liburing = f"{build['version']}, linked {'statically' if build['is_static'] else 'dynamically'}"
    lines = [
        ("monitor", facts["fdmon"] or "none: no loop can be made here"),
        ("because", _because(facts)),
        ("uringloop", facts["uringloop"]),
        ("Python", facts["python"]),
        ("kernel", facts["kernel"]),
        ("liburing", liburing),
        ("memlock", "unlimited" if limit is None else f"{limit // 1024} KiB (RLIMIT_MEMLOCK)"),
        ("CPUs", f"{facts['cpus']} usable"),
    ]
    text = "\n".join(f"{name:10} {value}" for name, value in lines)
    n_there = sum(one.is_available is True for one in findings)
    table = "\n".join("  " + features.describe(one) for one in findings)
    return f"{text}\n\nfeatures of the kernel, {n_there} of {len(findings)}:\n{table}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def main(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    findings = features.try_all()
    facts = report(findings)
    print(json.dumps(facts, indent=2) if arguments.json else _describe(facts, findings))
    return 0 if facts["fdmon"] else 1
