"""The charts of the reports: functions from numbers to a `Chart`, which holds the drawing and the numbers drawn. Lines
are in `reports.lines`, strips in `reports.strips`.

The drawings are altair specifications rendered while the page is built (`reports.vector`); the page offers each as SVG
and PNG, and its numbers as CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import altair as alt
from markupsafe import Markup

from reports.vector import colour, inline_svg

WIDE, TALL = 380, 240  # units of the scatter plot
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")  # hollow: none covers another
CHARACTER = 7.2  # units of a character at the size of labels, in the wider ones of the fonts a browser may have
# Numbers beside an axis: 20, 0.05, 12k, 1e-5. Vega's own choice of digits makes 1e+2 of 100.
TICKS = (
    "abs(datum.value) >= 10000 ? format(datum.value, '~s') : "
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '.2~e') : format(datum.value, '~g')"
)


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


def short(value: float) -> str:
    """A number for people in a hurry: 1e-04, 0.05, 3, 2k, 1.5M."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}"
    rounded = float(f"{value:.3g}")  # first, so that 999.6 is 1k
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(rounded) >= limit:
            return f"{rounded / limit:g}{unit}"
    return f"{rounded:g}"


def scatter(title: str, points: Sequence[tuple[Interval, Interval]]) -> Chart | None:
    """PC (across) against IP (up), a cross of both intervals through each dot: up and to the right is better."""
    if not points:
        return None
    values = [
        {"pc": pc.mean, "pc0": pc.ends[0], "pc1": pc.ends[1], "ip": ip.mean, "ip0": ip.ends[0], "ip1": ip.ends[1]}
        | {"label": ip.label, "tone": colour(ip.tone), "said": f"{ip.label}: IP {ip.mean:.3f}, PC {pc.mean:.3f}"}
        | {"shape": SHAPES[number % len(SHAPES)]}
        for number, (pc, ip) in enumerate(points)
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
    dots = base.mark_point(filled=False, size=90, opacity=1, strokeWidth=2.4).encode(
        x=x, y=y, description="said:N", shape=alt.Shape("shape:N", scale=None)
    )
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
    """(point, alignment, shift down) of the names that find room beside their dots and off all others, inside the plot;
    the rest keep their tooltip."""
    places: list[tuple[Literal["left", "right"], int]] = [
        (align, shift) for shift in (-9, 11, -22, 24) for align in ("left", "right")
    ]
    dots = [
        ((x - xs[0]) / (xs[1] - xs[0]) * WIDE, (ys[1] - y) / (ys[1] - ys[0]) * TALL) for x, y in points
    ]  # as pixels of the drawing, y downwards
    taken = [(across - 6, across + 6, down) for across, down in dots]  # left and right end, height
    found = []
    for index, ((across, down), label) in enumerate(zip(dots, labels, strict=True)):
        for align, shift in places:
            start = across + 8 if align == "left" else across - 8 - CHARACTER * len(label)
            end, middle = start + CHARACTER * len(label), down + shift
            free = all(end < a or start > b or abs(middle - other) > 13 for a, b, other in taken)
            if free and start >= 0 and end <= WIDE:
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
            x=alt.X("from:Q", bin="binned", title=None, axis=alt.Axis(labelExpr=TICKS, tickCount=4)),
            x2="to:Q",
            y=alt.Y("n:Q", title=None, axis=alt.Axis(tickCount=2, labelExpr=TICKS, minExtent=44, maxExtent=44)),
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
    room = alt.Axis(minExtent=8 + CHARACTER * max((len(label) for label, _, _ in rows), default=0))
    base = alt.Chart(alt.Data(values=values)).encode(y=alt.Y("row:N", sort=None, title=None, axis=room))
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
