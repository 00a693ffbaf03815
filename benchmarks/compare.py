"""Two result documents side by side: what has changed between them, and what is only noise.

A document's samples of a loop in a case have a median and a range (lowest to highest). If the medians differ by less
than the larger range, the comparison says "no finding". The machine drifts between two runs, too; where both have the
same baseline, its ratio shows the change without that drift, and is the better witness.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.report import table
from benchmarks.summary import Row, rows

# What has to be the same; the memory of a virtual machine is not.
MACHINE_KEYS = ("cpu", "n_cpus", "is_virtual", "kernel")
NO_FINDING = "no finding"


@dataclass(frozen=True)
class Span:
    """A figure of one document: median and range of its rounds."""

    median: float
    lowest: float
    highest: float

    @property
    def width(self) -> float:
        return self.highest - self.lowest


def different_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """How the machines differ, as "kernel: 6.1, 6.18"; empty if it is one machine."""
    return [
        f"{key}: {old['machine'].get(key)}, {new['machine'].get(key)}"
        for key in MACHINE_KEYS
        if old["machine"].get(key) != new["machine"].get(key)
    ]


def span_of(case: dict[str, Any], loop: str, key: str) -> Span | None:
    """The samples of one loop in one case; None if there are none."""
    values = [turn[loop][key] for turn in case["rounds"] if key in turn.get(loop, {})]
    return Span(statistics.median(values), min(values), max(values)) if values else None


def is_finding(old: Span, new: Span) -> bool:
    """Whether the medians differ by more than the spread of either run."""
    return abs(new.median - old.median) > max(old.width, new.width)


def _change(old: Span | None, new: Span | None, unit: float, digits: int) -> list[str]:
    if old is None or new is None:
        return ["-", "-", "not in both"]
    texts = [
        f"{one.median / unit:,.{digits}f} ({one.lowest / unit:,.{digits}f}-{one.highest / unit:,.{digits}f})"
        for one in (old, new)
    ]
    change = new.median / old.median - 1
    return [*texts, f"{change:+.1%}" if is_finding(old, new) else f"{change:+.1%}, {NO_FINDING}"]


def _ratio_span(row: Row | None) -> Span | None:
    if row is None or row.cpu_ratio is None or row.cpu_ratio.n_rounds < 2:
        return None
    return Span(row.cpu_ratio.median, row.cpu_ratio.lowest, row.cpu_ratio.highest)


def markdown(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The table of changes of everything that is in both documents."""
    baseline = new["baseline"] if new["baseline"] == old["baseline"] else None
    old_rows = {(row.case, row.loop): row for row in rows(old)}
    old_cases = {case["name"]: case for case in old["cases"]}
    new_cases = {case["name"]: case for case in new["cases"]}
    head = ["case", "loop", "CPU us, old", "new", "change", "per second, old", "new", "change"]
    head += [f"CPU vs {baseline}, old", "new", "change"] if baseline else []
    lines = []
    for row in rows(new):
        if (row.case, row.loop) not in old_rows:
            continue
        cases = old_cases[row.case], new_cases[row.case]
        cpu, rate = ([span_of(case, row.loop, key) for case in cases] for key in ("cpu_ns", "rate"))
        line = [row.case, row.loop, *_change(*cpu, 1000, 2), *_change(*rate, 1, 0)]
        if baseline:
            ratios = _ratio_span(old_rows[row.case, row.loop]), _ratio_span(row)
            line += ["-"] * 3 if row.loop == baseline or None in ratios else _change(*ratios, 1, 2)
        lines.append(line)
    if not lines:
        raise ValueError("the files have no case and loop in common")
    notes = [f"* {name}: {document['machine']['date']}, {document['machine']['python']}, `{document['command']}`"
             for name, document in (("old", old), ("new", new))]  # fmt: skip
    notes += [f"* **different machines**: {difference}" for difference in different_keys(old, new)]
    notes += [
        "",
        f"{NO_FINDING}: the medians differ by less than the larger range (in parentheses) of the rounds.",
    ]
    return "\n".join(["# Comparison", "", *notes, "", *table(head, lines)]) + "\n"


def compare(old: dict[str, Any], new: dict[str, Any], may_differ: bool) -> str:
    """Raises ValueError for documents of different machines, unless *may_differ*."""
    differences = different_keys(old, new)
    if differences and not may_differ:
        raise ValueError(
            f"the files are of different machines ({'; '.join(differences)}); --other-machine compares them"
        )
    return markdown(old, new)
