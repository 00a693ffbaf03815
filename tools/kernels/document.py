"""docs/kernel-support.md: the table of features, and what was run on which kernel (results.json)."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "kernel-support.md"
RESULTS = Path(__file__).parent / "results.json"

HEAD = """
## Run on

Not only probed: `make kernels` boots these kernels of Debian in QEMU and runs the tests there, on the monitor that the
loop chooses. The CPU is emulated, so tests of exact times and the longest ones are left out; `tools/kernels/plan.toml`
has the reason for each. A test that fails gets a second try. To record another run:

    make kernels KERNELS='6.1 newest' KERNELS_ARGS=--record

For arm64, `make kernels KERNELS='6.12-arm64 newest-arm64'` cross-compiles the package and boots Debian's kernels for
that. These machines, too, have one CPU, and the emulation keeps x86-64's order of memory accesses: that nothing depends
on it is not tested.
"""


def notes(one: dict[str, Any]) -> list[str]:
    """What a kernel lacks, and which tests failed there."""
    lacks = f"* {one['release']} lacks {', '.join(one['missing']) or 'nothing'}."
    lines = textwrap.wrap(lacks, 120, subsequent_indent="  ", break_on_hyphens=False)
    return lines + [f"  * failed: `{test}`" for test in one["failed"]]


def table(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| kernel | monitor | passed | second try | failed | skipped | left out | seconds | date | commit |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        figures = [one["passed"], len(one["second_try"]), len(one["failed"]), one["skipped"], one["left_out"]]
        end = "" if one["is_whole"] else ", did not end"
        cells = [one["release"] + end, one["monitor"], *figures, one["seconds"], one["date"], one["commit"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def section() -> str:
    results = list(json.loads(RESULTS.read_text()).values()) if RESULTS.exists() else []
    if not results:
        return ""
    noted = [line for one in results for line in notes(one)]
    return "\n".join([HEAD, *table(results), "", *noted, ""])


def markdown() -> str:
    from uringloop.liburing.features import markdown as features_markdown

    return features_markdown() + section()


def record(results: list[dict[str, Any]]) -> None:
    """By architecture and series; those of other kernels stay."""

    def order(name: str) -> tuple[str, list[int]]:
        series, _, architecture = name.partition("-")
        return architecture, [int(part) for part in series.split(".")] if series[0].isdigit() else [99]

    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept |= {one["series"]: one for one in results}
    RESULTS.write_text(json.dumps({name: kept[name] for name in sorted(kept, key=order)}, indent=1) + "\n")


def write() -> None:
    DOCUMENT.write_text(markdown())
