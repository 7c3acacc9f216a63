"""Charts: the marks stand where the numbers say, text is escaped, colours follow the page, nothing breaks on thin data.

pytest tests/reports/test_charts.py
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from urllib.parse import unquote

import pytest

from reports.charts import Interval, Line, histogram, interval_strip, line_chart, scatter, short, spans, thin

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg: str) -> list[str]:
    """The tooltips, in document order."""
    return [element.text or "" for element in ElementTree.fromstring(str(svg)).iter(f"{SVG}title")]


def test_line_spans_the_plot_and_keeps_the_scale() -> None:
    chart = line_chart("share", [Line("a", "moa", [0, 50, 100], [0.0, 0.5, 1.0])], low=0.0, high=1.0)
    assert chart is not None
    assert re.search(r'd="M0,150L190,75L380,0"', chart.svg)  # 380 x 150 units, y downwards
    assert "a, step 50: 0.5" in titles(chart.svg)


def test_lines_differ_in_more_than_colour() -> None:
    chart = line_chart("two", [Line(name, name, [0, 1], [0.0, 1.0]) for name in ("moa", "prior")])
    assert chart is not None
    assert 'stroke="var(--moa)"' in chart.svg and 'stroke="var(--prior)"' in chart.svg
    assert len(set(re.findall(r'stroke-dasharray="([^"]*)"', chart.svg))) == 2


def test_long_series_are_thinned_to_means() -> None:
    xs, ys = thin(list(range(1000)), [1.0] * 999 + [101.0], points=100)
    assert len(xs) == 100 and xs[0] == 4.5
    assert ys[-1] == pytest.approx(11.0)
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.05, "0.05"), (1e-4, "1e-04"), (2000, "2k"), (1.5e6, "1.5M")])
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_charts_are_well_formed_and_escaped() -> None:
    charts = [
        line_chart("<b>", [Line("<a>&", "moa", [1], [2.0])]),
        line_chart("flat", [Line("x", "moa", [1, 2], [0.0, 0.0])]),
        scatter("s", [(Interval("<p>", "moa", 0.2, 0.1, 0.3), Interval("<p>", "moa", 0.5))]),
        histogram("h", [0, 1, 2, 3], [0, 5, 0]),
        spans("r", [("<layer>", 0.9, 0.2)], ("prior", "moa"), ("background", "person")),
    ]
    strip = interval_strip("s", [Interval("<x>", "moa", 0.5), Interval("y", "prior", 0.1, 0.0, 2.0)], low=0, high=1)
    for svg in [chart.svg for chart in charts if chart] + [strip]:
        root = ElementTree.fromstring(str(svg))
        assert root.attrib["role"] == "img" and root.attrib["aria-label"]
        assert not {"a", "b", "p", "x", "layer"} & {element.tag.removeprefix(SVG) for element in root.iter()}
        assert "nan" not in svg.lower() and "infinity" not in svg.lower()
        assert "#" not in re.sub(r"&#\d+;", "", str(svg)), "a colour that is not the page's"


def test_nothing_to_draw_is_nothing() -> None:
    assert line_chart("none", []) is line_chart("none", [Line("a", "moa", [], [])]) is None
    assert scatter("none", []) is histogram("none", [0, 1], [0]) is None


def test_interval_bar_spans_its_interval() -> None:
    svg = interval_strip("s", [Interval("a", "moa", 0.5, 0.25, 0.75)], low=0, high=1)
    bar = re.search(r'<line transform="translate\(([\d.]+),[\d.]+\)" x2="([\d.]+)"[^>]*stroke-linecap', svg)
    assert bar and [float(end) for end in bar.groups()] == [62.5, 125]  # of 250 units
    assert titles(svg) == ["a: 0.500, 95 % interval 0.250 to 0.750"]


def test_names_of_near_points_do_not_cover_each_other() -> None:
    near = [Interval(f"method {number}", "moa", 0.5) for number in range(9)]
    chart = scatter("s", [(point, point) for point in near])
    assert chart is not None
    assert 1 < chart.svg.count(">method ") < 9 + len(near)  # some named, all with a tooltip
    assert len(titles(chart.svg)) == 9
    apart = scatter("s", [(Interval(n, "moa", x), Interval(n, "moa", x)) for n, x in (("one", 0.1), ("two", 0.9))])
    assert apart is not None and ">one<" in apart.svg and ">two<" in apart.svg


def test_histogram_cuts_empty_ends() -> None:
    chart = histogram("h", list(range(11)), [0] * 4 + [3, 6] + [0] * 4)
    assert chart is not None
    assert titles(chart.svg) == ["3 to 4: 0", "4 to 5: 3", "5 to 6: 6", "6 to 7: 0"]


def test_exports_hold_the_numbers_drawn() -> None:
    chart = spans("Share, by layer", [("down 0", 0.9, 0.25)], ("prior", "moa"), ("background", "person"))
    assert chart.file == "share-by-layer"
    kind, rows = unquote(chart.csv_link).split(",", 1)
    assert kind == "data:text/csv;charset=utf-8"
    assert rows == "layer,background,person\ndown 0,0.9,0.25\n"
