"""Charts of what changes: lines over training or denoising steps, and means with their intervals over runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import altair as alt

from reports.charts import CHARACTER, TICKS, Chart, Interval, short
from reports.vector import colour, inline_svg

POINTS = 240  # more would be finer than a pixel of the widest chart
HOVERED = 30  # points of a line that say their value when pointed at
DASHES = ([1, 0], [5, 3], [2, 2])  # lines differ in more than colour
WIDE, TALL, LEFT = 380, 150, 64  # units: the plot, and the room for numbers at its left, the same in every chart
NAMED, ANGLE = 84, -60  # units of height, and degrees, of the names of runs that do not fit side by side
ENDS = "length(datum.label) > 12 ? '…' + slice(datum.label, -11) : datum.label"  # runs differ in the end of their names


@dataclass(frozen=True)
class Line:
    """One series. `tone` names a colour of the style sheet; `xs` ascending, `ys` the same length."""

    label: str
    tone: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


def thin(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` points, each the mean of a run of neighbours: no peak hides, and none is invented."""
    size = max(1, math.ceil(len(xs) / points))
    runs = [slice(start, start + size) for start in range(0, len(xs), size)]
    return [sum(xs[run]) / len(xs[run]) for run in runs], [sum(ys[run]) / len(ys[run]) for run in runs]


def whole_ticks(low: float, high: float, count: int = 8) -> list[int]:
    """At most `count` round whole numbers in low..high: there is no half step."""
    power = 10 ** max(math.floor(math.log10(max(high - low, 1) / count)), 0)
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (high - low) / step < count)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def _values(name: str, low: float | None = None, high: float | None = None) -> alt.Y:
    """The field on the axis of values, which reaches from low to high, or as far as the data do."""
    fixed = low is not None and high is not None
    scale = alt.Scale(domain=[low, high]) if fixed else alt.Scale(zero=False, nice=True)
    axis = alt.Axis(tickCount=4, labelExpr=TICKS, minExtent=LEFT, maxExtent=LEFT)
    return alt.Y(f"{name}:Q", title=None, scale=scale, axis=axis)


def line_chart(
    title: str, lines: Sequence[Line], *, x: str = "step", low: float | None = None, high: float | None = None
) -> Chart | None:
    """Lines over `x`, a count. `low` and `high` fix the y range, else the data does. None without a point."""
    return _line_chart(title, tuple(line for line in lines if line.xs), x, low, high)


@lru_cache(maxsize=64)  # a page that is too large is made again, with the same lines
def _line_chart(title: str, lines: tuple[Line, ...], x: str, low: float | None, high: float | None) -> Chart | None:
    if not lines:
        return None
    drawn = [(line, *thin(line.xs, line.ys)) for line in lines]
    places = whole_ticks(min(xs[0] for _, xs, _ in drawn), max(xs[-1] for _, xs, _ in drawn))
    axis = alt.Axis(values=places, labelExpr=TICKS)
    across, up = alt.X("x:Q", title=x, scale=alt.Scale(nice=False, zero=False), axis=axis), _values("y", low, high)
    layers = []
    for number, (line, xs, ys) in enumerate(drawn):
        points = [
            {"x": a, "y": b, "said": f"{line.label}, {x} {short(a)}: {b:.4g}"} for a, b in zip(xs, ys, strict=True)
        ]
        base = alt.Chart(alt.Data(values=points)).encode(x=across, y=up)
        dash = DASHES[number % len(DASHES)]
        layers.append(base.mark_line(color=colour(line.tone), strokeWidth=1.8, strokeDash=dash, aria=False))
        every = math.ceil(len(points) / HOVERED)
        shown = alt.Chart(alt.Data(values=points[::-every])).encode(x=across, y=up, description="said:N")
        layers.append(shown.mark_point(filled=True, size=90, opacity=0.001, color=colour(line.tone)))
        last = alt.Chart(alt.Data(values=points[-1:])).encode(x=across, y=up)
        layers.append(last.mark_point(filled=True, size=34, opacity=1, color=colour(line.tone), aria=False))
    said = "; ".join(f"{line.label}: {short(ys[0])} at the first, {short(ys[-1])} at the last" for line, _, ys in drawn)
    rows: list[Sequence[object]] = [["series", x, "value"]]
    rows += [[line.label, a, b] for line, xs, ys in drawn for a, b in zip(xs, ys, strict=True)]
    chart = alt.layer(*layers).properties(width=WIDE, height=TALL)
    return Chart(title, inline_svg(chart, f"{title}. {said}."), rows)


def run_chart(title: str, runs: Sequence[str], series: Sequence[Sequence[Interval | None]]) -> Chart | None:
    """Means with their intervals, one place for each run; each series is parallel to `runs`, None where a run has no
    figure. None for fewer than two runs."""
    found = [
        {"run": run, "y": i.mean, "low": i.ends[0], "high": i.ends[1], "said": f"{run}, {i.said}", "label": i.label}
        | {"tone": colour(i.tone)}
        for line in series
        for run, i in zip(runs, line, strict=True)
        if i is not None
    ]
    if len(runs) < 2 or not found:
        return None
    flat = sum(len(run) + 2 for run in runs) * CHARACTER < WIDE  # the names fit side by side
    room = 22 if flat else NAMED
    ends = alt.Undefined if flat else ENDS
    angle, overlap = (0 if flat else ANGLE), len(runs) > 24
    axis = alt.Axis(labelAngle=angle, labelExpr=ends, minExtent=room, labelOverlap=overlap)
    across = alt.X("run:N", title=None, sort=None, axis=axis)
    base = alt.Chart(alt.Data(values=found)).encode(x=across, color=alt.Color("tone:N", scale=None))
    bars = base.mark_rule(strokeWidth=2.2, opacity=0.45, aria=False).encode(y=_values("low"), y2="high:Q")
    lines = base.mark_line(strokeWidth=1.4, aria=False).encode(y=_values("y"))
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(y=_values("y"), description="said:N")
    chart = alt.layer(lines, bars, dots).properties(width=WIDE, height=TALL)
    rows: list[Sequence[object]] = [["run", "series", "mean", "low", "high"]]
    rows += [[v["run"], v["label"], v["y"], v["low"], v["high"]] for v in found]
    return Chart(title, inline_svg(chart, f"{title}. {'; '.join(str(v['said']) for v in found)}."), rows)
