"""`python -m uringloop doctor`: which monitor runs here, and why; what to change for io_uring.

How it works:
 1. A child makes the system calls of io_uring, because a seccomp filter may end the process that does.
 2. A loop is made as an application would, its properties are read, and it is closed.
 3. If it does not run on io_uring, a loop is made that must; its error, with `surroundings`, gives the kind
    (`diagnosis`).
 4. The kernel's features and the limits are probed.

Exit status: 0 if loops run on io_uring, or on the monitor that $URINGLOOP_FDMON forces; 1 if no loop can be made; else
the kind's (`diagnosis.EXIT_STATUS`).
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import errno
import json
import logging
import os
import platform
import resource
import signal
from typing import Any

from .. import __version__, new_event_loop
from ..fdmon.select import ANY, ENVIRONMENT, NAMES
from ..liburing import features
from . import diagnosis, surroundings
from .diagnosis import EXIT_STATUS, FORCED, NO_LOOP, OK, Advice, Refusal
from .surroundings import Surroundings

RING_CALLS = (425, 426, 427)  # io_uring_setup, _enter, _register: the same on every architecture
KILLED = "a seccomp filter ends each process that uses io_uring"


def _is_killed() -> bool:
    """Whether a seccomp filter ends processes that use io_uring; the arguments are invalid, so nothing else happens."""
    call = ctypes.CDLL(None).syscall
    try:
        child = os.fork()
    except OSError:  # no process is free; then the attempt has to be made without
        return False
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number in RING_CALLS:
                call(number, -1, 0, 0, 0, 0, 0)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def _forced() -> str | None:
    """The monitor that the environment forces."""
    name = os.environ.get(ENVIRONMENT, "")
    return None if name in ("", ANY) else name


def _loop(fdmon: str | None = None) -> tuple[dict[str, Any], OSError | ValueError | None]:
    """The monitor that a loop gets, and why; or why there is no loop."""
    try:
        loop = new_event_loop(fdmon=fdmon)
    except (OSError, ValueError) as error:  # MonitorUnavailable is an OSError
        return {"fdmon": None, "fdmon_reason": str(error)}, error
    try:
        return {"fdmon": loop.fdmon, "fdmon_reason": loop.fdmon_reason}, None
    finally:
        loop.close()


def _examine(is_killed: bool, place: Surroundings) -> dict[str, Any]:
    """The loop, whether io_uring works, the kind, and what to change."""
    refusal: Refusal | None = None
    if is_killed and _forced() in (None, "io_uring"):
        loop: dict[str, Any] = {"fdmon": None, "fdmon_reason": f"io_uring: SIGSYS: {KILLED}"}
    else:
        loop, _ = _loop()
    if is_killed:
        refusal = Refusal(0, is_killed=True)
    elif loop["fdmon"] != "io_uring":
        _, error = _loop("io_uring")
        if isinstance(error, OSError):
            refusal = Refusal(error.errno or 0, has_liburing=features.liburing_build() is not None)
    kind = _kind(loop["fdmon"], refusal, place)
    return {
        **loop,
        "kind": kind,
        "exit_status": EXIT_STATUS[kind] if loop["fdmon"] else NO_LOOP,
        "io_uring": {
            "is_available": refusal is None,
            "errno": errno.errorcode.get(refusal.errno) if refusal else None,
        },
        "changes": diagnosis.changes(kind, place, is_killed),
    }


def _kind(fdmon: str | None, refusal: Refusal | None, place: Surroundings) -> str:
    forced = _forced()
    if forced and fdmon:
        return FORCED
    if forced and forced not in NAMES:
        return "setting"
    if refusal:
        return diagnosis.kind_of(refusal, place)
    return OK if fdmon == "io_uring" else "other"


def _warnings(facts: dict[str, Any], place: Surroundings, findings: list[features.Finding]) -> list[Advice]:
    """What makes loops slower than they could be, or will stop them; not what `changes` says already."""
    found = []
    if facts["fdmon"] == "io_uring":
        found += diagnosis.feature_warnings(findings)
        found += diagnosis.memlock_warnings(place)
    if facts["kind"] != "nofile":
        found += diagnosis.nofile_warnings(place)
    return found


def _liburing() -> dict[str, Any] | None:
    build = features.liburing_build()
    return None if build is None else {"version": build[0], "is_static": build[1]}


def report(findings: list[features.Finding], is_killed: bool = False) -> dict[str, Any]:
    """Everything, for machines."""
    place = surroundings.read()
    facts = _examine(is_killed, place)
    return {
        "uringloop": __version__,
        "python": platform.python_version(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        **facts,
        "warnings": [dataclasses.asdict(one) for one in _warnings(facts, place, findings)],
        "place": dataclasses.asdict(place),
        "liburing": _liburing(),
        "memlock_bytes": place.memlock_bytes,
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


def _where(place: dict[str, Any]) -> str:
    """The hints of the surroundings, in a line."""
    found = []
    if place["container"]:
        found.append(f"{place['container']} ({place['container_hint']})")
    if place["unit"]:
        found.append(f"systemd service {place['unit']}")
    if place["emulator"]:
        found.append(str(place["emulator"]))
    if place["has_filter"]:
        found.append("a seccomp filter")
    found += place["security_modules"]
    return ", ".join(found) or "no container, filter or security module found"


def _io_uring_anyway(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What a forced monitor leaves aside."""
    if facts["kind"] != FORCED or facts["fdmon"] == "io_uring":
        return []
    found = facts["io_uring"]
    if found["is_available"]:
        return [("io_uring", "would work")]
    return [("io_uring", f"would not work: {found['errno'] or 'SIGSYS'}")]


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
        ("kind", f"{facts['kind']} (exit status {facts['exit_status']})"),
        *_io_uring_anyway(facts),
        *(("change", text) for text in facts["changes"]),
        *(("warning", f"{one['text']}: {one['change']}") for one in facts["warnings"]),
        ("uringloop", facts["uringloop"]),
        ("Python", facts["python"]),
        ("kernel", facts["kernel"]),
        ("place", _where(facts["place"])),
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
    logging.getLogger("uringloop").disabled = True  # of the loops made here; the report says it all
    is_killed = _is_killed()
    findings = features.unprobed(KILLED) if is_killed else features.try_all()
    facts = report(findings, is_killed)
    print(json.dumps(facts, indent=2) if arguments.json else _describe(facts, findings))
    return int(facts["exit_status"])
