"""The CPU ratios of a result document as an SVG drawing, written by hand: no plotting library is needed."""

from __future__ import annotations

from html import escape
from typing import Any

from benchmarks.summary import Row, rows

_COLOURS = ("#1b6ca8", "#6fa8dc", "#b7d2ea", "#8c8c8c", "#d98032", "#3a9a5b", "#a64d79", "#c9a227", "#5b5b9e")
_LEFT, _BAR, _GAP, _WIDTH, _RIGHT = 210, 12, 12, 560, 150


def _group(row: Row, y: int, unit: float, colour: str) -> list[str]:
    assert row.cpu_ratio is not None
    length = row.cpu_ratio.median * unit
    low, high = (_LEFT + bound * unit for bound in (row.cpu_ratio.lowest, row.cpu_ratio.highest))
    middle = y + _BAR / 2
    return [
        f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR - 2}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle - 1}" y2="{middle - 1}" stroke="#222"/>',
        f'<text x="{max(high, _LEFT + length) + 5:.1f}" y="{middle + 3}">'
        f"{row.cpu_ratio.median:.2f} {escape(row.loop)}</text>",
    ]


def svg(document: dict[str, Any]) -> str:
    """One group of horizontal bars per case; the dashed line is the baseline."""
    baseline = document["baseline"]
    shown = [row for row in rows(document) if row.cpu_ratio and row.loop != baseline]
    if not shown:
        raise ValueError("no ratio to draw: the document has only one loop, or no baseline")
    names = list(dict.fromkeys(row.loop for row in shown))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    unit = _WIDTH / max(1.2, *(row.cpu_ratio.highest for row in shown if row.cpu_ratio))
    body: list[str] = []
    y, last_case = 34, ""
    for row in shown:
        if row.case != last_case:
            y += _GAP
            body.append(f'<text x="{_LEFT - 8}" y="{y + 9}" text-anchor="end">{escape(row.case)}</text>')
            last_case = row.case
        body += _group(row, y, unit, colours[row.loop])
        y += _BAR
    x = _LEFT + unit
    width, height = _LEFT + _WIDTH + _RIGHT, y + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            ' font-family="sans-serif" font-size="10">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="{_LEFT}" y="20" font-size="13">CPU time, ratio to {escape(baseline)}: longer is better'
            "</text>",
            *body,
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="30" y2="{y + 6}" stroke="#c00" stroke-dasharray="4 3"/>',
            "</svg>",
            "",
        ]
    )
