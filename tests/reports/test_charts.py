"""Charts: the marks stand where the numbers say, text is escaped, colours follow the page, labels have room, nothing
breaks on thin data.

pytest tests/reports/test_charts.py
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from urllib.parse import unquote

import pytest

from reports.charts import CHARACTER, WIDE, Interval, histogram, scatter, short, spans
from reports.lines import LEFT, Line, line_chart, run_chart, thin, whole_ticks
from reports.strips import bound_strip, interval_strip

SVG = "{http://www.w3.org/2000/svg}"


def titles(svg: str) -> list[str]:
    """The tooltips, in document order."""
    return [element.text or "" for element in ElementTree.fromstring(str(svg)).iter() if element.tag.endswith("title")]


def test_line_spans_the_plot_and_keeps_the_scale() -> None:
    chart = line_chart("share", [Line("a", "moa", (0, 50, 100), (0.2, 0.5, 0.6))], low=0.0, high=1.0)
    assert chart is not None
    assert re.search(r'd="M0,120L190,75L380,60"', chart.svg)  # 380 x 150 units, y downwards
    assert "a, step 50: 0.5" in titles(chart.svg)
    assert 'aria-label="share. a: 0.2 at the first, 0.6 at the last."' in chart.svg


def test_of_many_points_some_say_their_value_and_the_last_does() -> None:
    chart = line_chart("loss", [Line("a", "moa", tuple(range(100)), tuple(range(100)))])
    assert chart is not None
    said = titles(chart.svg)
    assert 10 < len(said) <= 30 and "a, step 99: 99" in said


def test_long_numbers_beside_an_axis_are_inside_the_drawing() -> None:
    chart = line_chart("loss", [Line("a", "moa", (50, 100), (0.06015, 0.060175))])
    assert chart is not None
    numbers = [text for text in ElementTree.fromstring(str(chart.svg)).iter(f"{SVG}text") if text.text]
    longest = max(len(text.text or "") for text in numbers if (text.text or "").startswith("0.0"))
    room = LEFT + 4 - 6  # the padding of the drawing, and that of the numbers
    assert longest == 8 and longest * CHARACTER <= room + CHARACTER / 2  # a point is narrow


def test_a_drawing_holds_what_is_seen_in_tenths() -> None:
    many = [f"run-{number:02}-of-the-year" for number in range(40)]  # more names than there is room for
    chart = run_chart("IP", many, [[Interval("MoA", "moa", number / 300) for number in range(40)]])
    assert chart is not None and 0 < len(labels(chart.svg)) < 40
    assert not [e for e in ElementTree.fromstring(str(chart.svg)).iter(f"{SVG}text") if e.attrib.get("opacity") == "0"]
    line = line_chart("share", [Line("a", "moa", (0, 60, 100), (0.25, 0.50001, 0.7513))], low=0.0, high=1.0)
    assert line is not None and 'd="M0,112.5L228,75L380,37.3"' in line.svg


def test_lines_differ_in_more_than_colour() -> None:
    chart = line_chart("two", [Line(name, name, (0, 1), (0.0, 1.0)) for name in ("moa", "prior")])
    assert chart is not None
    assert 'stroke="var(--moa)"' in chart.svg and 'stroke="var(--prior)"' in chart.svg
    assert len(set(re.findall(r'stroke-dasharray="([^"]*)"', chart.svg))) == 2


def labels(svg: str) -> list[str]:
    """The texts of a drawing, in document order."""
    return [element.text or "" for element in ElementTree.fromstring(str(svg)).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("top", "said"),
    [(1e-5, "1e-5"), (100, "100"), (0.3, "0.3"), (250, "250"), (40_000, "40k"), (0.0123, "0.005")],
)
def test_numbers_beside_an_axis_are_those_people_write(top: float, said: str) -> None:
    chart = line_chart("n", [Line("a", "moa", (0, 1), (0.0, top))])
    assert chart is not None and said in labels(chart.svg)
    assert not [text for text in labels(chart.svg) if "e+" in text or len(text) > 7]


def test_histogram_edges_are_plain_numbers() -> None:
    chart = histogram("brightness", [0, 50, 100, 150, 200, 250], [3, 100, 300, 40, 5])
    assert chart is not None and {"100", "200"} <= set(labels(chart.svg))


def test_steps_are_whole() -> None:
    assert whole_ticks(0, 2) == [0, 1, 2] and whole_ticks(1, 3) == [1, 2, 3]
    assert whole_ticks(5, 150) == [20, 40, 60, 80, 100, 120, 140] and whole_ticks(7, 7) == [7]
    assert whole_ticks(0, 8) == [0, 2, 4, 6, 8], "at most eight"


def test_every_name_has_room_left_of_its_layer() -> None:
    longest = "down 0.0 cross and more"
    chart = spans("r", [(longest, 0.9, 0.2), ("mid", 0.5, 0.4)], ("prior", "moa"), ("background", "person"))
    assert longest in labels(chart.svg)
    width = float(ElementTree.fromstring(str(chart.svg)).attrib["viewBox"].split()[2])
    assert width - 300 > 7 * len(longest)  # beside the 300 units of the plot, in the widest usual font


def test_names_in_the_scatter_end_inside_the_plot() -> None:
    values = [
        (Interval(name, "moa", x), Interval(name, "moa", 0.5)) for name, x in (("left", 0.1), ("Prior only", 0.9))
    ]
    chart = scatter("s", values)
    assert chart is not None
    texts = ElementTree.fromstring(str(chart.svg)).iter(f"{SVG}text")
    found = {e.text: (e.attrib["transform"], e.attrib["text-anchor"]) for e in texts}
    place, anchor = found["Prior only"]
    assert anchor == "end" and float(re.findall(r"[\d.]+", place)[0]) < WIDE


def test_one_point_of_the_scatter_hides_no_other() -> None:
    chart = scatter("s", [(Interval(n, "moa", 0.5), Interval(n, "moa", 0.5)) for n in ("one", "two")])
    assert chart is not None
    marks = [e for e in ElementTree.fromstring(str(chart.svg)).iter(f"{SVG}path") if len(e)]  # those with a tooltip
    assert len({mark.attrib["d"] for mark in marks}) == 2  # of different shapes
    assert all(mark.attrib.get("fill", "none") in ("none", "transparent") for mark in marks)


def test_runs_stand_at_places_of_their_own_with_intervals() -> None:
    runs = ["week-01", "week-02", "week-03"]
    ours = [Interval("MoA", "moa", 0.5, 0.4, 0.6), None, Interval("MoA", "moa", 0.7, 0.65, 0.75)]
    chart = run_chart("IP", runs, [ours, [Interval("Prior", "prior", 0.1)] * 3])
    assert chart is not None and set(runs) <= set(labels(chart.svg))
    assert "week-01, MoA: 0.500, 95 % interval 0.400 to 0.600" in titles(chart.svg)
    assert chart.rows[1:3] == [["week-01", "MoA", 0.5, 0.4, 0.6], ["week-03", "MoA", 0.7, 0.65, 0.75]]
    assert run_chart("IP", runs[:1], [ours[:1]]) is run_chart("IP", runs, [[None] * 3]) is None


def test_bound_strip_shades_the_claimed_side() -> None:
    above = bound_strip(Interval("IP", "soft", 0.5, 0.4, 0.6), 0.0, "above")
    below = bound_strip(Interval("IP", "soft", 0.5, 0.4, 0.6), 0.0, "below")
    assert titles(above) == titles(below) == ["IP: 0.500, 95 % interval 0.400 to 0.600"]
    found = [re.search(r'<rect x="([\d.]+)" y="0" width="([\d.]+)"', str(svg)) for svg in (above, below)]
    (start, wide), (low, narrow) = [map(float, rect.groups()) for rect in found if rect]
    assert low == 5 and start == low + narrow and start + wide == 255  # from the bound to the end of the claimed side
    assert "claimed above 0" in above and 'fill="var(--good)"' in above


def places(svg: str) -> list[tuple[float, float]]:
    """Where the dots of a strip stand."""
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_bound_strip_shows_a_bound_far_from_the_interval_and_one_at_a_single_figure() -> None:
    far = bound_strip(Interval("IP", "soft", 0.5, 0.4, 0.6), 1.0, "below")
    tick = re.search(r'<line x1="([\d.]+)" y1="0"', str(far))
    assert tick and float(tick.group(1)) == pytest.approx(5 + 250 * 0.672 / 0.744, abs=0.1)  # 12 % of room at each end
    assert places(far)[0][0] == pytest.approx(5 + 250 * 0.172 / 0.744, abs=0.1)
    assert places(bound_strip(Interval("IP", "soft", 0.5), 0.5, "above")) == [(130, 6.5)]  # the middle


def test_rows_of_a_strip_stand_below_each_other_inside_the_scale() -> None:
    rows = [Interval("low", "moa", -1.0), Interval("in", "moa", 0.5), Interval("high", "prior", 7.0)]
    assert places(interval_strip("s", rows, low=0, high=1)) == [(5, 6.5), (130, 19.5), (255, 32.5)]
    assert places(interval_strip("s", rows[1:2], low=0.5, high=0.5)) == [(5, 6.5)], "a scale without length"


def test_long_series_are_thinned_to_means() -> None:
    xs, ys = thin(list(range(1000)), [1.0] * 999 + [101.0], points=100)
    assert len(xs) == 100 and xs[0] == 4.5
    assert ys[-1] == pytest.approx(11.0)
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])
    assert len(thin(list(range(250)), [1.0] * 250, points=100)[0]) <= 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.05, "0.05"), (1e-4, "1e-04"), (2000, "2k"), (1.5e6, "1.5M")),
        *((999.4, "999"), (999.6, "1k"), (12_345, "12.3k"), (999_900, "1M"), (-2000, "-2k")),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_charts_are_well_formed_and_escaped() -> None:
    charts = [
        line_chart("<b>", [Line("<a>&", "moa", (1,), (2.0,))]),
        line_chart("flat", [Line("x", "moa", (1, 2), (0.0, 0.0))]),
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
    assert line_chart("none", []) is line_chart("none", [Line("a", "moa", (), ())]) is None
    assert scatter("none", []) is histogram("none", [0, 1], [0]) is None


def test_interval_bar_spans_its_interval() -> None:
    svg = interval_strip("s", [Interval("a", "moa", 0.5, 0.25, 0.75)], low=0, high=1)
    bar = re.search(r'<line x1="([\d.]+)" y1="6.5" x2="([\d.]+)"[^>]*stroke-linecap', svg)
    assert bar and [float(end) - 5 for end in bar.groups()] == [62.5, 187.5]  # of 250 units
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
