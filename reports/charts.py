"""Charts as inline SVG: pure functions from numbers to markup.

Why not altair: a Vega-Lite chart is drawn by about 800 kB of JavaScript that would have to travel in every report and
shows nothing where scripts are off, and rendering it to SVG beforehand needs vl-convert, a compiled renderer this
project does not depend on. The few marks a report needs (lines, dots with intervals) are these functions; colours
come from the page's style sheet through the classes `t-<tone>`, so the same chart is right in light and dark, and
each chart names itself to a screen reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

POINTS = 240  # more would be finer than a pixel of the widest chart


@dataclass(frozen=True)
class Line:
    """One series. `tone` names a colour of the style sheet; `xs` ascending, `ys` the same length."""

    label: str
    tone: str
    xs: Sequence[float]
    ys: Sequence[float]


@dataclass(frozen=True)
class Interval:
    """A mean and its interval; `low` and `high` may be None."""

    label: str
    tone: str
    mean: float
    low: float | None = None
    high: float | None = None


def thin(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` points, each the mean of a run of neighbours: no peak hides, and none is invented."""
    size = max(1, math.ceil(len(xs) / points))
    runs = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [sum(xs[run]) / len(xs[run]) for run in runs], [sum(ys[run]) / len(ys[run]) for run in runs]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside low..high."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 1e-04, 0.05, 3, 2k, 1.5M."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def line_chart(title: str, lines: Sequence[Line], *, low: float | None = None, high: float | None = None) -> Markup:
    """Lines over whole-numbered steps, 440 x 210 units. `low` and `high` fix the y range, else the data does."""
    width, height, left, top, right, bottom = 440, 210, 42, 10, 10, 26
    thinned = [(line, *thin(line.xs, line.ys)) for line in lines if line.xs]
    if not thinned:
        return Markup("")
    all_x = [x for _, xs, _ in thinned for x in xs]
    all_y = [y for _, _, ys in thinned for y in ys]
    x0, x1 = min(all_x), max(all_x)
    y0, y1 = min(all_y) if low is None else low, max(all_y) if high is None else high
    if low is None and high is None:
        y0, y1 = (0.0, y1 * 1.05) if 0 <= y0 < y1 * 0.6 else (y0 - 0.05 * (y1 - y0), y1 + 0.05 * (y1 - y0))
    x_span, y_span = (x1 - x0) or 1.0, (y1 - y0) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / x_span * (width - left - right),
            height - bottom - (y - y0) / y_span * (height - top - bottom),
        )

    parts = []
    for value in ticks(y0, y1):
        _, y = at(x0, value)
        parts.append(
            Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, width - right, y, y)
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(left - 6, y + 3.5, short(value))
        )
    for value in (tick for tick in ticks(x0, x1, 5) if tick == int(tick)):
        x, _ = at(value, y0)
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(x, height - 8, short(value))
        )
    for line, xs, ys in thinned:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*pair) for pair in zip(xs, ys, strict=True)))
        end_x, end_y = at(xs[-1], ys[-1])
        parts.append(
            Markup(
                '<g class="t-{}"><title>{}</title><polyline points="{}"/><circle cx="{:.1f}" cy="{:.1f}" r="3"/></g>'
            ).format(line.tone, line.label, points, end_x, end_y)
        )
    said = "; ".join(
        f"{line.label}: {short(ys[0])} at the first, {short(ys[-1])} at the last point" for line, _, ys in thinned
    )
    return _svg("chart", width, height, f"{title}. {said}.", parts)


def interval_strip(title: str, rows: Sequence[Interval], *, low: float, high: float) -> Markup:
    """One row per method: a dot at the mean and a bar over its interval, on a common scale low..high."""
    width, step = 260, 14
    height = step * len(rows) + 4

    def at(value: float) -> float:
        return 5 + (min(max(value, low), high) - low) / ((high - low) or 1) * (width - 10)

    parts = []
    for index, row in enumerate(rows):
        y = step * index + step / 2 + 2
        said = f"{row.label}: {row.mean:.3f}" + (
            f", 95 % interval {row.low:.3f} to {row.high:.3f}" if row.low is not None and row.high is not None else ""
        )
        ends = (at(row.low), at(row.high)) if row.low is not None and row.high is not None else (at(row.mean),) * 2
        parts.append(
            Markup(
                '<g class="t-{0}"><title>{1}</title><line class="rule" x1="0" x2="{2}" y1="{3}" y2="{3}"/>'
                '<line class="bar" x1="{4:.1f}" x2="{5:.1f}" y1="{3}" y2="{3}"/>'
                '<circle cx="{6:.1f}" cy="{3}" r="4"/></g>'
            ).format(row.tone, said, width, y, *ends, at(row.mean))
        )
    return _svg("strip", width, height, title, parts)


def scatter(title: str, points: Sequence[tuple[Interval, Interval]]) -> Markup:
    """PC (across) against IP (up), a cross of both intervals through each dot: up and to the right is better, 440 x
    280 units."""
    width, height, left, top, right, bottom = 440, 280, 46, 14, 16, 40
    if not points:
        return Markup("")
    x0, x1 = _padded([value for pc, _ in points for value in (pc.mean, pc.low, pc.high) if value is not None])
    y0, y1 = _padded([value for _, ip in points for value in (ip.mean, ip.low, ip.high) if value is not None])

    def at_x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (width - left - right)

    def at_y(value: float) -> float:
        return height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom)

    parts = []
    for value in ticks(y0, y1):
        y = at_y(value)
        parts.append(
            Markup('<line class="rule" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(left, width - right, y, y)
        )
        parts.append(
            Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(left - 6, y + 3.5, short(value))
        )
    for value in ticks(x0, x1):
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                at_x(value), height - 24, short(value)
            )
        )
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">prompt consistency (PC) →</text>').format(
            (left + width) / 2, height - 6
        )
    )
    parts.append(
        Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">identity (IP) →</text>').format(
            (height - bottom) / 2
        )
    )
    for pc, ip in points:
        x, y = at_x(pc.mean), at_y(ip.mean)
        spans = [
            (at_x(pc.low if pc.low is not None else pc.mean), at_x(pc.high if pc.high is not None else pc.mean), y, y),
            (x, x, at_y(ip.low if ip.low is not None else ip.mean), at_y(ip.high if ip.high is not None else ip.mean)),
        ]
        bars = Markup("").join(
            Markup('<line class="bar" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(*span)
            for span in spans
        )
        side, shift = ("end", -9) if x > width * 0.7 else ("start", 9)
        parts.append(
            Markup(
                '<g class="t-{}"><title>{}: IP {:.3f}, PC {:.3f}</title>{}<circle cx="{:.1f}" cy="{:.1f}" r="5"/>'
                '<text class="name" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text></g>'
            ).format(ip.tone, ip.label, ip.mean, pc.mean, bars, x, y, x + shift, y - 8, side, ip.label)
        )
    said = "; ".join(f"{ip.label}: IP {ip.mean:.3f}, PC {pc.mean:.3f}" for pc, ip in points)
    return _svg("chart", width, height, f"{title}. {said}.", parts)


def histogram(title: str, edges: Sequence[float], counts: Sequence[float]) -> Markup:
    """Bars over equal bins, 320 x 120 units; empty bins at both ends are cut off, the edges of what is left are
    named."""
    width, height, bottom = 320, 120, 18
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return Markup("")
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 1, len(counts) - 1)
    shown, top = range(first, last + 1), max(counts)
    step = width / len(shown)
    parts = [Markup('<line class="rule" x1="0" x2="{0}" y1="{1}" y2="{1}"/>').format(width, height - bottom)]
    for place, index in enumerate(shown):
        tall = counts[index] / top * (height - bottom - 4)
        parts.append(
            Markup(
                '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{} to {}: {:,}</title></rect>'
            ).format(
                place * step + 0.5,
                height - bottom - tall,
                step - 1,
                tall,
                short(edges[index]),
                short(edges[index + 1]),
                counts[index],
            )
        )
    middle = (first + last + 1) // 2
    for index, anchor in {first: "start", middle: "middle", last + 1: "end"}.items():
        x = (index - first) * step
        parts.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x, height - 4, anchor, short(edges[index])
            )
        )
    said = "; ".join(f"{short(edges[i])} to {short(edges[i + 1])}: {counts[i]:,}" for i in shown if counts[i])
    return _svg("chart", width, height, f"{title}. {said}.", parts)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    pad = 0.12 * (max(values) - min(values)) or 0.05
    return min(values) - pad, max(values) + pad


def _svg(kind: str, width: int, height: float, said: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        kind, width, height, escape(said), Markup("").join(parts)
    )
