"""Compares counts; pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gate.callgrind import Dump

# RESULTS.md has the noise that these limits stand above.
MOST_SLOWER_OURS = 0.03  # of those in our own modules, which vary less
LEAST_OURS = 0.005  # of all instructions: a rise of ours that is less says nothing
MOST_SYSCALLS = 0.5  # more in an operation


@dataclass(frozen=True)
class Counts:
    """Of one operation: all instructions in user space, those in our modules, system calls."""

    instructions: float
    ours: float
    syscalls: float

    def as_json(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Verdict:
    """kind: "slower", "faster" or "same"; reasons: why, in words."""

    kind: str
    reasons: tuple[str, ...] = ()


def lowest(counts: Iterable[Counts]) -> Counts:
    """Each count's lowest: what disturbs one, such as a completion that the kernel delivers a turn later, adds."""
    rows = list(counts)
    return Counts(
        min(row.instructions for row in rows),
        min(row.ours for row in rows),
        min(row.syscalls for row in rows),
    )


def per_operation(dumps: Iterable[Dump], sizes: dict[str, int]) -> dict[str, Counts]:
    """The counts of each path, from dumps that are labelled "NAME REPETITION FACTOR".

    sizes: the n of each path; FACTOR is 1 after a run of n operations and 2 after one of 2 n. Their difference is n
    operations without what a run takes besides. Raises ValueError if a path has no run of either kind.
    """
    found: dict[tuple[str, int], list[Counts]] = {}
    for dump in dumps:
        name, _, factor = dump.label.split()
        counts = Counts(dump.instructions, dump.ours, dump.syscalls)
        found.setdefault((name, int(factor)), []).append(counts)
    result = {}
    for name, n in sizes.items():
        if (name, 1) not in found or (name, 2) not in found:
            raise ValueError(f"{name} was not counted")
        one, two = lowest(found[name, 1]), lowest(found[name, 2])
        result[name] = Counts(
            (two.instructions - one.instructions) / n,
            (two.ours - one.ours) / n,
            (two.syscalls - one.syscalls) / n,
        )
    return result


def change(reference: float, present: float) -> float:
    """The rise relative to the reference: 0.03 for 3 % more."""
    return present / reference - 1 if reference else float(present > 0)


def judge(reference: Counts, present: Counts, limit: float) -> Verdict:
    """limit: the rise of all instructions that is too much, of this path."""
    total = change(reference.instructions, present.instructions)
    ours = change(reference.ours, present.ours)
    syscalls = present.syscalls - reference.syscalls
    slower = []
    if total > limit:
        slower.append(f"{total:+.1%} instructions")
    elif (
        ours > MOST_SLOWER_OURS
        and present.ours - reference.ours > LEAST_OURS * reference.instructions
        and total > 0
    ):
        slower.append(f"{ours:+.1%} instructions in uringloop's modules ({total:+.1%} of all)")
    if syscalls > MOST_SYSCALLS:
        slower.append(f"{syscalls:+.1f} system calls")
    if slower:
        return Verdict("slower", tuple(slower))
    if total < -limit:
        return Verdict("faster", (f"{total:+.1%} instructions",))
    if syscalls < -MOST_SYSCALLS:
        return Verdict("faster", (f"{syscalls:+.1f} system calls",))
    return Verdict("same")


def table(reference: dict[str, Counts], present: dict[str, Counts], limits: dict[str, float]) -> list[str]:
    """Lines: a row for each path, then a line for each that changed."""
    lines = [f"{'per operation':<32}{'instructions':>22}{'in our modules':>22}{'system calls':>16}"]
    ends = []
    for name, now in present.items():
        before = reference[name]
        lines.append(
            f"{name:<32}{now.instructions:>13,.0f} {change(before.instructions, now.instructions):>+8.2%}"
            f"{now.ours:>13,.0f} {change(before.ours, now.ours):>+8.2%}"
            f"{now.syscalls:>9.2f} {now.syscalls - before.syscalls:>+6.2f}"
        )
        verdict = judge(before, now, limits[name])
        if verdict.kind != "same":
            ends.append(f"{verdict.kind.upper()}: {name}: {', '.join(verdict.reasons)}")
    return lines + ends


def from_json(document: dict[str, dict[str, Any]]) -> dict[str, Counts]:
    return {name: Counts(**row) for name, row in document.items()}
