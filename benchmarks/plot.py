"""Drawings of a result document as SVG, written by hand: no plotting library is needed.

`bars`: a ratio with its range for each case and loop. `latency`: curves from p50 to p99.9 for each case, on a
logarithmic scale, with the range of the rounds at each point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from benchmarks.limits import is_limit
from benchmarks.summary import LATENCIES, Ratio, Row, rows

_COLOURS = ("#1b6ca8", "#6fa8dc", "#2b9c9c", "#8c8c8c", "#d98032", "#3a9a5b", "#a64d79", "#c9a227", "#5b5b9e")
_LEFT, _BAR, _GAP, _WIDTH, _RIGHT = 210, 12, 12, 560, 150
_PANEL_WIDTH, _PANEL_HEIGHT, _PANEL_LEFT, _PANEL_TOP = 520, 200, 70, 30

# what -> (the title, the figure of a row)
BARS: dict[str, tuple[str, Callable[[Row], Ratio | None]]] = {
    "cpu": ("CPU time, ratio to {}: longer is better", lambda row: row.cpu_ratio),
    "rate": ("Messages per second, ratio to {}: longer is better", lambda row: row.rate_ratio),
    "share": ("Share of the limit, which a server in C reaches: longer is better", lambda row: row.share),
}
KINDS = (*BARS, "latency")


def colours_of(loops: Sequence[str]) -> dict[str, str]:
    """The same colour for a loop in all parts of a drawing."""
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(dict.fromkeys(loops))}


def _page(width: int, height: int, title: str, body: list[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="10">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="16" y="20" font-size="13">{escape(title)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _bar(row: Row, figure: Ratio, y: int, unit: float, colour: str) -> list[str]:
    length = figure.median * unit
    low, high = (_LEFT + bound * unit for bound in (figure.lowest, figure.highest))
    middle = y + _BAR / 2
    return [
        f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle - 1}" y2="{middle - 1}" stroke="#222"/>',
        f'<text x="{max(high, _LEFT + length) + 5:.1f}" y="{middle + 3}">'
        f"{figure.median:.2f} {escape(row.loop)}</text>",
    ]


def bars(document: dict[str, Any], what: str) -> str:
    """One group of horizontal bars per case; the dashed line is the baseline, or the limit."""
    title, figure_of = BARS[what]
    baseline = document["baseline"]
    shown = [
        (row, figure)
        for row in rows(document)
        if (figure := figure_of(row))
        and not (is_limit(row.loop) if what == "share" else row.loop == baseline)
    ]
    if not shown:
        raise ValueError(f"nothing to draw: the document has no {what}, or only that of the baseline")
    colours = colours_of([row.loop for row, _ in shown])
    unit = _WIDTH / max(1.2, *(figure.highest for _, figure in shown))
    body: list[str] = []
    y, last_case = 34, ""
    for row, figure in shown:
        if row.case != last_case:
            y += _GAP
            body.append(f'<text x="{_LEFT - 8}" y="{y + 9}" text-anchor="end">{escape(row.case)}</text>')
            last_case = row.case
        body += _bar(row, figure, y, unit, colours[row.loop])
        y += _BAR
    x = _LEFT + unit
    body.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{y + 6}" stroke="#c00" stroke-dasharray="4 3"/>'
    )
    return _page(_LEFT + _WIDTH + _RIGHT, y + 16, title.format(baseline), body)


def _axis(lowest: float, highest: float) -> tuple[list[int], Callable[[float], float]]:
    """(the powers of ten that enclose both, the height of a value above the axis)."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    last = max(last, first + 1)
    return list(
        range(first, last + 1)
    ), lambda value: _PANEL_HEIGHT * (math.log10(value) - first) / (last - first)


def _panel(case: str, group: list[Row], top: int, colours: dict[str, str]) -> list[str]:
    spans = [span for row in group for span in row.latencies_us.values()]
    # A latency of 0 is below the resolution of the client; 0.1 us stands in for it on the logarithmic scale.
    lowest = max(0.1, min(span.lowest for span in spans))
    powers, height_of = _axis(lowest, max(lowest, *(span.highest for span in spans)))
    bottom = top + _PANEL_HEIGHT
    step = _PANEL_WIDTH / (len(LATENCIES) - 1)
    body = [f'<text x="{_PANEL_LEFT}" y="{top - 8}" font-size="11">{escape(case)}, us</text>']
    for power in powers:
        y = bottom - height_of(10.0**power)
        body.append(
            f'<line x1="{_PANEL_LEFT}" x2="{_PANEL_LEFT + _PANEL_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        body.append(
            f'<text x="{_PANEL_LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{10**power if power >= 0 else 0.1}</text>'
        )
    for i, name in enumerate(LATENCIES.values()):
        x = _PANEL_LEFT + i * step
        body.append(f'<text x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{name}</text>')
    for number, row in enumerate(group):
        colour, points = colours[row.loop], []
        for i, key in enumerate(LATENCIES):
            if (span := row.latencies_us.get(key)) is None:
                continue
            x = _PANEL_LEFT + i * step
            y, low, high = (
                bottom - height_of(max(lowest, value)) for value in (span.median, span.lowest, span.highest)
            )
            points.append(f"{x:.1f},{y:.1f}")
            body.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="3"'
                ' stroke-opacity="0.35"/>'
            )
        body.append(
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        x, y = _PANEL_LEFT + _PANEL_WIDTH + 16, top + 10 + 14 * number
        body.append(f'<text x="{x}" y="{y}" fill="{colour}">{escape(row.loop)}</text>')
    return body


def latency(document: dict[str, Any]) -> str:
    """One panel per case; cases without percentiles are left out."""
    groups: dict[str, list[Row]] = {}
    for row in rows(document):
        if len(row.latencies_us) > 1:
            groups.setdefault(row.case, []).append(row)
    if not groups:
        raise ValueError("no latencies to draw: the document has no traffic cases")
    colours = colours_of([row.loop for group in groups.values() for row in group])
    body: list[str] = []
    top = 30 + _PANEL_TOP
    for case, group in groups.items():
        body += _panel(case, group, top, colours)
        top += max(_PANEL_HEIGHT, 14 * len(group)) + 30 + _PANEL_TOP
    title = "Latency: medians of the rounds, with their ranges; lower is better"
    return _page(_PANEL_LEFT + _PANEL_WIDTH + 190, top, title, body)


def svg(document: dict[str, Any], kind: str) -> str:
    """The drawing of this kind, one of KINDS."""
    return latency(document) if kind == "latency" else bars(document, kind)
