"""Charts: the marks stand where the numbers say, text is escaped, and nothing breaks on thin data.

pytest tests/reports/test_charts.py
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from reports.charts import Interval, Line, histogram, interval_strip, line_chart, scatter, short, thin, ticks

WIDTH, LEFT, RIGHT, HEIGHT, TOP, BOTTOM = 440, 42, 10, 210, 10, 26


def points(svg: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]*)"', svg)[0].split()]  # type: ignore[misc]


def test_line_spans_the_plot_and_keeps_the_scale() -> None:
    svg = line_chart("share", [Line("a", "moa", [0, 50, 100], [0.0, 0.5, 1.0])], low=0.0, high=1.0)
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert points(svg) == [(LEFT, HEIGHT - BOTTOM), (middle, (TOP + HEIGHT - BOTTOM) / 2), (WIDTH - RIGHT, TOP)]


def test_long_series_are_thinned_to_means() -> None:
    xs, ys = thin(list(range(1000)), [1.0] * 999 + [101.0], points=100)
    assert len(xs) == 100 and xs[0] == 4.5
    assert ys[-1] == pytest.approx(11.0)
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 100, [0, 50, 100]), (0.02, 0.09, [0.02, 0.04, 0.06, 0.08]), (3, 3, [3])],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.05, "0.05"), (1e-4, "1e-04"), (2000, "2k"), (1.5e6, "1.5M")])
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    "svg",
    [
        line_chart("<b>", [Line("<a>&", "moa", [1], [2.0])]),
        line_chart("flat", [Line("x", "moa", [1, 2], [0.0, 0.0])]),
        interval_strip("s", [Interval("<x>", "moa", 0.5), Interval("y", "prior", 0.1, 0.0, 2.0)], low=0, high=1),
        scatter("s", [(Interval("<p>", "moa", 0.2, 0.1, 0.3), Interval("<p>", "moa", 0.5))]),
        histogram("h", [0, 1, 2, 3], [0, 5, 0]),
    ],
)
def test_charts_are_well_formed_and_escaped(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"]
    assert "nan" not in svg and "inf" not in svg


def test_nothing_to_draw_is_nothing() -> None:
    assert line_chart("none", []) == line_chart("none", [Line("a", "moa", [], [])]) == ""
    assert scatter("none", []) == histogram("none", [0, 1], [0]) == ""


def test_interval_bar_spans_its_interval() -> None:
    svg = interval_strip("s", [Interval("a", "moa", 0.5, 0.25, 0.75)], low=0, high=1)
    ends = re.search(r'class="bar" x1="([\d.]+)" x2="([\d.]+)"', svg)
    assert ends and [float(end) for end in ends.groups()] == [5 + 0.25 * 250, 5 + 0.75 * 250]
    assert "95 % interval 0.250 to 0.750" in svg


def test_histogram_cuts_empty_ends() -> None:
    svg = histogram("h", list(range(11)), [0] * 4 + [3, 6] + [0] * 4)
    assert svg.count("<rect") == 4  # two filled bins and one empty neighbour on each side
    assert "4 to 5: 3; 5 to 6: 6" in svg
