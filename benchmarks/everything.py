"""The plan of `python -m benchmarks all`: every figure that we publish, in one file per machine.

Most cases run on our loops, the baseline and the servers in C. The peers, which take most of the time, join the cases
by which loops are compared; a few cases have loops of their own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection

from benchmarks.cases import CASES, Case, is_for
from benchmarks.loops import BASELINE, COLLECTING, IN_GLIB, LIMITS

OURS = ("uringloop", "uringloop-epoll", BASELINE, *LIMITS)
PEERS = ("asyncio", "rloop", "zuvloop", "rsloop", "blazio", "loopmini", "talyn", "wreath")
COMPARED = ("echo/*/1KiB/*", "echo/protocol/16KiB/100", "datagram/*", "churn/*", "micro/*", "lifecycle/*")
COMPARED += ("imports/*", "tail/*", "pipelined/*", "sock/*", "handshakes/*", "fanout/*", "slow/*", "idle/*")
# Adaptive polling by its limit: what polling_plot.py draws.
SWEEP_NS = (5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000)
SWEEP = tuple(f"uringloop-polling:{limit_ns}" for limit_ns in SWEEP_NS)
# Cases whose loops differ from the rule, added to it.
EXTRA: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("echo/protocol/1KiB/1", ("uringloop-polling", *SWEEP)),
    ("echo/protocol/1KiB/*", ("uringloop-poll", *IN_GLIB)),
    ("echo/tls/*", ("uringloop-aiofastnet", "uvloop-aiofastnet")),
    ("polling/*", ("uringloop-polling", "uringloop-polling-shared")),
    ("gc/*", tuple(COLLECTING)),
    ("files/*", ("asyncio", "asyncio-anyio", "blazio")),
    ("sendfile/*", ("asyncio",)),
    ("app/*", ("asyncio",)),
)


def loops_of(case: Case) -> list[str]:
    """The names of the loops that this case is measured on, whether or not they run here."""
    names = dict.fromkeys(OURS)
    if any(fnmatch.fnmatch(case.name, pattern) for pattern in COMPARED):
        names |= dict.fromkeys(PEERS)
    for pattern, loops in EXTRA:
        if fnmatch.fnmatch(case.name, pattern):
            names |= dict.fromkeys(loops)
    return [name for name in names if is_for(case, name)]


def all_loops() -> list[str]:
    """Every loop of the plan."""
    return list(dict.fromkeys(name for case in CASES for name in loops_of(case)))


def plan(usable: Collection[str]) -> list[tuple[Case, list[str]]]:
    """Each case with those of its loops that run here."""
    found = [(case, [name for name in loops_of(case) if name in usable]) for case in CASES]
    return [(case, loops) for case, loops in found if loops]
