"""Strips: intervals on one scale without axes, drawn as they are. Their numbers stand beside them, so a strip is no
`Chart` of its own, and a page has too many of them for Vega, which takes 0.1 s for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from markupsafe import Markup

from reports.charts import Interval
from reports.vector import colour

WIDTH, ROW, PAD, RADIUS = 250, 13, 5, 4  # units of the drawing: the scale, a row, the room around the scale, a dot
LINE = Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="{}"/>')
BAR = Markup(
    '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="3" stroke-linecap="round" opacity="0.5"/>'
)
DOT = Markup('<circle cx="{}" cy="{}" r="{}" fill="{}"><title>{}</title></circle>')
SHADE = Markup('<rect x="{}" y="0" width="{}" height="{}" fill="{}" opacity="0.16"/>')


def interval_strip(title: str, rows: Sequence[Interval], *, low: float, high: float) -> Markup:
    """One row per method: a dot at the mean and a bar over its interval, on a common scale low..high."""
    marks = []
    for number, row in enumerate(rows):
        height = ROW * (number + 0.5)
        marks.append(LINE.format(PAD, height, PAD + WIDTH, height, colour("line"), 1))
        marks += _interval(row, height, colour(row.tone), low, high)
    return _svg(f"{title}. {'; '.join(row.said for row in rows)}.", marks, ROW * len(rows))


def bound_strip(found: Interval, bound: float, side: Literal["above", "below"]) -> Markup:
    """An interval and the bound it is held against: a tick at the bound, a shade over the side that is claimed."""
    low, high = min(bound, *found.ends), max(bound, *found.ends)
    pad = 0.12 * (high - low) or 0.05
    low, high = low - pad, high + pad
    tick = _place(bound, low, high)
    start, end = (tick, PAD + WIDTH) if side == "above" else (PAD, tick)
    marks = [
        SHADE.format(start, _round(end - start), ROW, colour("good")),
        LINE.format(PAD, ROW / 2, PAD + WIDTH, ROW / 2, colour("line"), 1),
        LINE.format(tick, 0, tick, ROW, colour("soft"), 1.5),
        *_interval(found, ROW / 2, colour("ink"), low, high),
    ]
    return _svg(f"{found.said}; claimed {side} {bound:g}.", marks, ROW)


def _interval(row: Interval, height: float, tone: str, low: float, high: float) -> list[Markup]:
    start, end = (_place(value, low, high) for value in row.ends)
    dot = DOT.format(_place(row.mean, low, high), height, RADIUS, tone, row.said)
    return [BAR.format(start, height, end, height, tone), dot]


def _place(value: float, low: float, high: float) -> float:
    """Where a value stands across the drawing; one outside the scale stands at its end."""
    share = (min(max(value, low), high) - low) / ((high - low) or 1.0)
    return _round(PAD + WIDTH * share)


def _round(place: float) -> float:
    return round(place, 1)


def _svg(said: str, marks: Sequence[Markup], height: float) -> Markup:
    start = Markup('<svg class="strip" role="img" aria-label="{}" viewBox="0 0 {} {}">')
    return start.format(said, WIDTH + 2 * PAD, height) + Markup("").join(marks) + Markup("</svg>")
