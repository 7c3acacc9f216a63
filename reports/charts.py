"""The charts of the reports: functions from numbers to a `Chart`, which holds the drawing and the numbers drawn.

The drawings are altair specifications rendered while the page is built (`reports.vector`); the page offers each as SVG
and PNG, and its numbers as CSV.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import altair as alt
from markupsafe import Markup

from reports.vector import colour, inline_svg

WIDE, TALL = 380, 240  # units of the scatter plot
POINTS = 240  # more would be finer than a pixel of the widest chart
HOVERED = 30  # points of a line that say their value when pointed at
DASHES = ([1, 0], [5, 3], [2, 2])  # lines differ in more than colour


@dataclass(frozen=True)
class Chart:
    """A drawing with its title and the rows it was drawn from, header first."""

    title: str
    svg: Markup
    rows: Sequence[Sequence[object]]

    @property
    def file(self) -> str:
        """A name for exported files: the title in lower case letters, digits and hyphens."""
        return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in self.title.lower()).split())

    @property
    def csv_link(self) -> str:
        """The rows as a data URI."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(self.rows)
        return "data:text/csv;charset=utf-8," + quote(stream.getvalue())


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

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the mean twice where there is none."""
        return (self.low, self.high) if self.low is not None and self.high is not None else (self.mean, self.mean)

    @property
    def said(self) -> str:
        """The figure in words."""
        if self.low is None or self.high is None:
            return f"{self.label}: {self.mean:.3f}"
        return f"{self.label}: {self.mean:.3f}, 95 % interval {self.low:.3f} to {self.high:.3f}"


def thin(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` points, each the mean of a run of neighbours: no peak hides, and none is invented."""
    size = max(1, math.ceil(len(xs) / points))
    runs = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [sum(xs[run]) / len(xs[run]) for run in runs], [sum(ys[run]) / len(ys[run]) for run in runs]


def short(value: float) -> str:
    """A number for people in a hurry: 1e-04, 0.05, 3, 2k, 1.5M."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def line_chart(
    title: str, lines: Sequence[Line], *, x: str = "step", low: float | None = None, high: float | None = None
) -> Chart | None:
    """Lines over `x`. `low` and `high` fix the y range, else the data does. None without a point."""
    drawn = [(line, *thin(line.xs, line.ys)) for line in lines if line.xs]
    if not drawn:
        return None
    y_scale = (
        alt.Scale(domain=[low, high]) if low is not None and high is not None else alt.Scale(zero=False, nice=True)
    )
    y = alt.Y("y:Q", title=None, scale=y_scale, axis=alt.Axis(tickCount=4, format="~g"))
    x_axis = alt.X("x:Q", title=x, scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=5, format="~s"))
    layers = []
    for number, (line, xs, ys) in enumerate(drawn):
        points = [
            {"x": a, "y": b, "said": f"{line.label}, {x} {short(a)}: {b:.4g}"} for a, b in zip(xs, ys, strict=True)
        ]
        base = alt.Chart(alt.Data(values=points)).encode(x=x_axis, y=y)
        dash = DASHES[number % len(DASHES)]
        layers.append(base.mark_line(color=colour(line.tone), strokeWidth=1.8, strokeDash=dash, aria=False))
        every = math.ceil(len(points) / HOVERED)
        shown = alt.Chart(alt.Data(values=points[::-every])).encode(x=x_axis, y=y, description="said:N")
        layers.append(shown.mark_point(filled=True, size=90, opacity=0.001, color=colour(line.tone)))
        last = alt.Chart(alt.Data(values=points[-1:])).encode(x=x_axis, y=y)
        layers.append(last.mark_point(filled=True, size=34, opacity=1, color=colour(line.tone), aria=False))
    said = "; ".join(f"{line.label}: {short(ys[0])} at the first, {short(ys[-1])} at the last" for line, _, ys in drawn)
    rows: list[Sequence[object]] = [["series", x, "value"]]
    rows += [[line.label, a, b] for line, xs, ys in drawn for a, b in zip(xs, ys, strict=True)]
    chart = alt.layer(*layers).properties(width=380, height=150)
    return Chart(title, inline_svg(chart, f"{title}. {said}."), rows)


def interval_strip(title: str, rows: Sequence[Interval], *, low: float, high: float) -> Markup:
    """One row per method: a dot at the mean and a bar over its interval, on a common scale low..high, no axes. Its
    numbers stand beside it, so it is no `Chart` of its own."""
    values = [
        {"row": i, "from": max(row.ends[0], low), "to": min(row.ends[1], high), "mean": min(max(row.mean, low), high)}
        | {"tone": colour(row.tone), "said": row.said, "low": low, "high": high}
        for i, row in enumerate(rows)
    ]
    scale = alt.Scale(domain=[low, high], nice=False)
    base = alt.Chart(alt.Data(values=values)).encode(y=alt.Y("row:O", axis=None), color=alt.Color("tone:N", scale=None))
    rule = base.mark_rule(color=colour("line"), aria=False).encode(
        x=alt.X("low:Q", axis=None, scale=scale), x2="high:Q", color=alt.value(colour("line"))
    )
    bar = base.mark_rule(strokeWidth=3, opacity=0.5, strokeCap="round", aria=False).encode(x="from:Q", x2="to:Q")
    dot = base.mark_point(filled=True, size=60, opacity=1).encode(x="mean:Q", description="said:N")
    chart = alt.layer(rule, bar, dot).properties(width=250, height=alt.Step(13))
    return inline_svg(chart, f"{title}. {'; '.join(row.said for row in rows)}.", "strip")


def scatter(title: str, points: Sequence[tuple[Interval, Interval]]) -> Chart | None:
    """PC (across) against IP (up), a cross of both intervals through each dot: up and to the right is better."""
    if not points:
        return None
    values = [
        {"pc": pc.mean, "pc0": pc.ends[0], "pc1": pc.ends[1], "ip": ip.mean, "ip0": ip.ends[0], "ip1": ip.ends[1]}
        | {"label": ip.label, "tone": colour(ip.tone), "said": f"{ip.label}: IP {ip.mean:.3f}, PC {pc.mean:.3f}"}
        for pc, ip in points
    ]
    xs, ys = _padded([v for pc, _ in points for v in pc.ends]), _padded([v for _, ip in points for v in ip.ends])
    across: dict[str, Any] = {"title": "prompt consistency (PC) →", "scale": alt.Scale(domain=xs, nice=False)}
    up: dict[str, Any] = {"title": "identity (IP) →", "scale": alt.Scale(domain=ys, nice=False)}
    x, y = alt.X("pc:Q", axis=alt.Axis(tickCount=5), **across), alt.Y("ip:Q", axis=alt.Axis(tickCount=5), **up)
    base = alt.Chart(alt.Data(values=values)).encode(color=alt.Color("tone:N", scale=None))
    bars = base.mark_rule(strokeWidth=2.2, opacity=0.45, aria=False)
    crosses = [
        bars.encode(x=alt.X("pc0:Q", **across), x2="pc1:Q", y=y),
        bars.encode(x=x, y=alt.Y("ip0:Q", **up), y2="ip1:Q"),
    ]
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x=x, y=y, description="said:N")
    names = [
        alt.Chart(alt.Data(values=[values[index]]))
        .mark_text(align=align, dx=8 if align == "left" else -8, dy=dy, fontSize=12, color=colour("ink"), aria=False)
        .encode(x=x, y=y, text="label:N")
        for index, align, dy in _labels(
            [(pc.mean, ip.mean) for pc, ip in points], [ip.label for _, ip in points], xs, ys
        )
    ]
    chart = alt.layer(*crosses, dots, *names).properties(width=WIDE, height=TALL)
    header: Sequence[object] = ["method", "pc", "pc_low", "pc_high", "ip", "ip_low", "ip_high"]
    rows = [header, *([v["label"], v["pc"], v["pc0"], v["pc1"], v["ip"], v["ip0"], v["ip1"]] for v in values)]
    return Chart(title, inline_svg(chart, f"{title}. {'; '.join(str(v['said']) for v in values)}."), rows)


def _labels(
    points: Sequence[tuple[float, float]], labels: Sequence[str], xs: list[float], ys: list[float]
) -> list[tuple[int, Literal["left", "right"], int]]:
    """(point, alignment, shift down) of the names that find room beside their dots and off all others; the rest keep
    their tooltip."""
    places: list[tuple[Literal["left", "right"], int]] = [("left", -9), ("left", 11), ("right", -9), ("right", 11)]
    dots = [
        ((x - xs[0]) / (xs[1] - xs[0]) * WIDE, (ys[1] - y) / (ys[1] - ys[0]) * TALL) for x, y in points
    ]  # as pixels of the drawing, y downwards
    taken = [(across - 6, across + 6, down) for across, down in dots]  # left and right end, height
    found = []
    for index, ((across, down), label) in enumerate(zip(dots, labels, strict=True)):
        for align, shift in places:
            start = across + 8 if align == "left" else across - 8 - 6.5 * len(label)
            end, middle = start + 6.5 * len(label), down + shift
            free = all(end < a or start > b or abs(middle - other) > 13 for a, b, other in taken)
            if free and start >= 0 and end <= WIDE + 70:
                taken.append((start, end, middle))
                found.append((index, align, shift))
                break
    return found


def histogram(title: str, edges: Sequence[float], counts: Sequence[float]) -> Chart | None:
    """Bars over bins; empty bins at both ends but one are cut off. None when every bin is empty."""
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return None
    bins = range(max(filled[0] - 1, 0), min(filled[-1] + 1, len(counts) - 1) + 1)
    values = [
        {"from": edges[i], "to": edges[i + 1], "n": counts[i]}
        | {"said": f"{short(edges[i])} to {short(edges[i + 1])}: {counts[i]:,}"}
        for i in bins
    ]
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(color=colour("prior"), binSpacing=1)
        .encode(
            x=alt.X("from:Q", bin="binned", title=None, axis=alt.Axis(format="~g", tickCount=4)),
            x2="to:Q",
            y=alt.Y("n:Q", title=None, axis=alt.Axis(tickCount=2, format="~s")),
            description="said:N",
        )
        .properties(width=300, height=90)
    )
    said = "; ".join(str(value["said"]) for value in values if value["n"])
    rows: list[Sequence[object]] = [["from", "to", "count"], *([v["from"], v["to"], v["n"]] for v in values)]
    return Chart(title, inline_svg(chart, f"{title}. {said}."), rows)


def spans(
    title: str, rows: Sequence[tuple[str, float, float]], tones: tuple[str, str], names: tuple[str, str]
) -> Chart:
    """One line per row between two shares 0..1, a round dot at the first and a square at the second, rows in order."""
    values = [
        {"row": label, "first": a, "second": b}
        | {"said": f"{label}: {names[0]} {a:.3f}", "said2": f"{label}: {names[1]} {b:.3f}"}
        for label, a, b in rows
    ]
    base = alt.Chart(alt.Data(values=values)).encode(y=alt.Y("row:N", sort=None, title=None))
    axis: dict[str, Any] = {"title": "prior share", "scale": alt.Scale(domain=[0, 1])}
    x, other = (alt.X(f"{name}:Q", axis=alt.Axis(tickCount=5, grid=True), **axis) for name in ("first", "second"))
    bar = base.mark_rule(strokeWidth=2, color=colour("line"), aria=False).encode(x=x, x2="second:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1, color=colour(tones[0])).encode(x=x, description="said:N")
    squares = base.mark_point(filled=True, size=60, opacity=1, shape="square", color=colour(tones[1]))
    chart = alt.layer(bar, dots, squares.encode(x=other, description="said2:N"))
    said = "; ".join(f"{label}: {names[0]} {a:.2f}, {names[1]} {b:.2f}" for label, a, b in rows)
    table: list[Sequence[object]] = [["layer", *names], *([label, a, b] for label, a, b in rows)]
    return Chart(title, inline_svg(chart.properties(width=300, height=alt.Step(17)), f"{title}. {said}."), table)


def _padded(values: Sequence[float]) -> list[float]:
    """A range a little wider than the values."""
    pad = 0.12 * (max(values) - min(values)) or 0.05
    return [min(values) - pad, max(values) + pad]
