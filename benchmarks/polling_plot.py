"""Draw the round-trip latency by limit of adaptive polling, from saved results.

    python -m benchmarks run --loops uvloop uringloop uringloop-polling:{5000,10000,...} \\
        --cases echo/protocol/1KiB/1 --json sweep.json
    python -m benchmarks.polling_plot sweep.json docs/adaptive-polling.svg

The loop `uringloop` stands for a limit of 0; uvloop is a line across. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

CASE = "echo/protocol/1KiB/1"


def latencies_us(document: dict[str, Any], loop: str) -> list[float]:
    """The median latency of each round."""
    rounds = next(case["rounds"] for case in document["cases"] if case["name"] == CASE)
    return [turn[loop]["p50_us"] for turn in rounds if "p50_us" in turn.get(loop, {})]


def draw(document: dict[str, Any], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # The same input gives the same file: no random ids, no date; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "uringloop", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    limits_us = {"uringloop": 0.0} | {
        loop: int(loop.partition(":")[2]) / 1000 for loop in document["loops"] if ":" in loop
    }
    loops = sorted((loop for loop in limits_us if loop in document["loops"]), key=limits_us.__getitem__)
    found = [latencies_us(document, loop) for loop in loops]
    middle = [statistics.median(one) for one in found]
    below = [median - min(one) for median, one in zip(middle, found, strict=True)]
    above = [max(one) - median for median, one in zip(middle, found, strict=True)]
    baseline = statistics.median(latencies_us(document, document["baseline"]))

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axhline(baseline, color="#c00", linestyle="--", linewidth=1)
    axes.annotate(f"{document['baseline']}, {baseline:.0f} us", (1, baseline), (-4, 4), color="#c00", ha="right",
                  xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    axes.errorbar([limits_us[loop] for loop in loops], middle, yerr=[below, above], color="#1b6ca8",
                  marker="o", markersize=4, linewidth=1.2, capsize=2)  # fmt: skip
    axes.set(xlabel="max_ns / 1000 (us)", ylabel="round trip, median (us)", ylim=(0, None))
    axes.set_title("One connection, 1 KiB: medians of the rounds, lowest and highest", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency against the limit of adaptive polling.")
    parser.add_argument("file", type=Path)
    parser.add_argument("output", type=Path, help="SVG or PNG")
    options = parser.parse_args()
    draw(json.loads(options.file.read_text()), options.output)


if __name__ == "__main__":
    main()
