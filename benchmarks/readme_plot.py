"""Draw the plot of README.md from the tables of RESULTS.md: CPU time per message, compared with uvloop.

    python -m benchmarks.readme_plot benchmarks/RESULTS.md docs/cpu-per-message.svg

The newest run of a case is the first one in the file. A result file (JSON) does as well. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.summary import rows

LABELS = {
    "echo/protocol/1KiB/1": "TCP, 1 KiB, 1 connection",
    "echo/protocol/1KiB/10": "TCP, 1 KiB, 10 connections",
    "echo/protocol/1KiB/100": "TCP, 1 KiB, 100",
    "echo/protocol/1KiB/1000": "TCP, 1 KiB, 1,000",
    "echo/protocol/16KiB/100": "TCP, 16 KiB, 100",
    "echo/protocol/128KiB/10": "TCP, 128 KiB, 10",
    "echo/streams/1KiB/100": "streams, 1 KiB, 100",
    "datagram/64B/window64": "UDP, 64 bytes",
    "echo/tls/1KiB/100": "TLS, 1 KiB, 100",
}
ROW = re.compile(r"^\| (\S+) +\| uringloop +\| ([\d.]+) \(([\d.]+)-([\d.]+)\)", re.MULTILINE)


def ratios(text: str) -> dict[str, tuple[str, float, float]]:
    """case -> (median, lowest, highest) of the rounds' ratios; the median as it is printed."""
    found: dict[str, tuple[str, float, float]] = {}
    for case, median, lowest, highest in ROW.findall(text):
        found.setdefault(case, (median, float(lowest), float(highest)))
    return found


def ratios_of(document: dict[str, Any]) -> dict[str, tuple[str, float, float]]:
    """The same from a result document."""
    return {
        row.case: (f"{row.cpu_ratio.median:.2f}", row.cpu_ratio.lowest, row.cpu_ratio.highest)
        for row in rows(document)
        if row.loop == "uringloop" and row.cpu_ratio
    }


def draw(found: dict[str, tuple[str, float, float]], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # The same input gives the same file: no random ids, no date; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "uringloop", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 3.1), layout="constrained")
    for place, case in enumerate(reversed(LABELS)):
        median, lowest, highest = found[case]
        axes.barh(place, float(median), color="#1b6ca8", height=0.62)
        axes.plot([lowest, highest], [place, place], color="#333", linewidth=1)
        axes.annotate(median, (highest, place), (5, 0), va="center", textcoords="offset points")
    axes.axvline(1, color="#c00", linestyle="--", linewidth=1)
    axes.annotate("uvloop", (1, len(LABELS) - 0.5), (3, 0), color="#c00", textcoords="offset points")
    axes.set_yticks(range(len(LABELS)), list(reversed(LABELS.values())))
    axes.set(
        xlabel="messages for the same CPU time, uvloop = 1", xlim=(0, 7.2), ylim=(-0.6, len(LABELS) + 0.1)
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="RESULTS.md, or a result file")
    parser.add_argument("output", type=Path, help="SVG or PNG")
    arguments = parser.parse_args()
    text = arguments.file.read_text()
    is_document = arguments.file.suffix == ".json"
    draw(ratios_of(json.loads(text)) if is_document else ratios(text), arguments.output)


if __name__ == "__main__":
    main()
