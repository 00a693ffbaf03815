"""Medians and ratios of a result document; all readers of results use this module.

A ratio is formed within a round, in which both loops ran within seconds of each other, and the median is taken
over the rounds' ratios, so that temporary conditions of the machine cancel out. More than 1 always means better
than the baseline.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

LATENCIES = {"p50_us": "p50", "p90_us": "p90", "p99_us": "p99", "p999_us": "p99.9"}


@dataclass(frozen=True)
class Ratio:
    """A median over rounds with its spread."""

    median: float
    lowest: float
    highest: float
    n_rounds: int

    def __str__(self) -> str:
        if self.n_rounds < 2:
            return f"{self.median:.2f}"
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


@dataclass(frozen=True)
class Row:
    """One loop in one case. Times are per message, operation, cycle or loop, depending on the case.

    latencies_us: of each percentile, by its key (LATENCIES).
    share: of the limit, which is the CPU per message of the better server in C (limits.py); 1 is all of it.
    """

    case: str
    loop: str
    n_samples: int
    values: dict[str, float]
    cpu_ratio: Ratio | None
    rate_ratio: Ratio | None
    p50_ratio: Ratio | None
    latencies_us: dict[str, Ratio]
    share: Ratio | None
    syscalls: float | None
    errors: list[str]


def _ratio(pairs: list[tuple[float, float]]) -> Ratio | None:
    ratios = [top / bottom for top, bottom in pairs if bottom]
    if not ratios:
        return None
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def _good_pairs(case: dict[str, Any], loop: str, other: str | None) -> list[tuple[dict, dict]]:
    """The samples of both in the rounds in which neither failed."""
    return [
        (turn[loop], turn[other])
        for turn in case["rounds"]
        if loop in turn and other in turn and "error" not in turn[loop] and "error" not in turn[other]
    ]


def better_limit(case: dict[str, Any]) -> str | None:
    """The server in C with the lower median of CPU per message; chosen once, so that no round picks its luckier one."""
    medians = {}
    for loop in case.get("limits", {}):
        cpu_ns = [turn[loop]["cpu_ns"] for turn in case["rounds"] if "cpu_ns" in turn.get(loop, {})]
        if cpu_ns:
            medians[loop] = statistics.median(cpu_ns)
    return min(medians, key=medians.__getitem__, default=None)


def _row(case: dict[str, Any], loop: str, baseline: str) -> Row:
    samples = [turn[loop] for turn in case["rounds"] if loop in turn]
    good = [sample for sample in samples if "error" not in sample]
    both = _good_pairs(case, loop, baseline)
    keys = good[0].keys() if good else ()
    return Row(
        case=case["name"],
        loop=loop,
        n_samples=len(good),
        values={key: statistics.median(sample[key] for sample in good) for key in keys},
        cpu_ratio=_ratio([(base["cpu_ns"], ours["cpu_ns"]) for ours, base in both]),
        rate_ratio=_ratio([(ours["rate"], base["rate"]) for ours, base in both]),
        p50_ratio=_ratio(
            [(base["p50_us"], ours["p50_us"]) for ours, base in both if "p50_us" in ours and "p50_us" in base]
        ),
        latencies_us={
            key: found for key in LATENCIES if (found := _ratio([(s[key], 1.0) for s in good if key in s]))
        },
        share=_ratio(
            [(limit["cpu_ns"], ours["cpu_ns"]) for ours, limit in _good_pairs(case, loop, better_limit(case))]
        ),
        syscalls=case["syscalls"].get(loop, {}).get("value"),
        errors=[sample["error"] for sample in samples if "error" in sample],
    )


def rows(document: dict[str, Any]) -> list[Row]:
    """Every (case, loop) of the document, in the order of the run."""
    return [
        _row(case, loop, document["baseline"])
        for case in document["cases"]
        for loop in document["loops"]
        if any(loop in turn for turn in case["rounds"])
    ]


def foreign_load(document: dict[str, Any]) -> Ratio | None:
    """CPUs used by other processes, of those of the timed runs, median and extremes: how quiet the machine was."""
    loads = [
        sample["others_busy"]
        for case in document["cases"]
        for turn in case["rounds"]
        for sample in turn.values()
        if "others_busy" in sample
    ]
    return _ratio([(load, 1.0) for load in loads])
