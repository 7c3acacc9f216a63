"""quality.json is shown by the shape of what it counts.

pytest tests/reports/test_quality.py
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from preprocessing.quality import EDGES
from reports.quality import MAX_BARS, UNITS, Bars, bar_lists, facts, histograms, rejections

QUALITY: dict[str, Any] = {
    "images": 103,
    "rejected": {"total": 3, "reasons": {"no_face": 3}},
    "captions": {"as_given": 100},
    "words": {"man": 70, "old_woman": 35},
    "histograms": {"subject_area": {"edges": [0.0, 0.5, 1.0], "counts": [3, 1]}},
    "duplicates": {"groups": 2, "examples": []},
}


def test_a_counting_of_one_name_is_a_fact_and_of_more_a_bar_list() -> None:
    assert facts(QUALITY) == [("Captions, as given", 100), ("Duplicates, groups", 2)]
    assert bar_lists(QUALITY) == [Bars("Words", [("man", 70, 1.0), ("old woman", 35, 0.5)])]


def test_histograms_are_charts() -> None:
    ((chart, note),) = histograms(QUALITY)
    assert note == "Subjects, by their share of the image's pixels."
    assert chart.title == "Subject area" and chart.rows == [["from", "to", "count"], [0.0, 0.5, 3], [0.5, 1.0, 1]]


def test_every_histogram_of_the_preprocessing_has_its_unit() -> None:
    assert {name.replace("_", " ").capitalize() for name in EDGES} == set(UNITS)


def test_what_the_manifest_counts_is_passed_over_at_the_top_only() -> None:
    assert facts({"images": 1, "samples": 2, "parts": {"samples": 4, "images": {"wide": 1, "tall": 2}}}) == [
        ("Parts, samples", 4)
    ]


@pytest.mark.parametrize("part", [True, None, "7", [1, 2], {}, {"edges": [0, 1], "counts": [1, 2]}])
def test_other_shapes_are_passed_over(part: Any) -> None:
    quality = {"odd": part}
    assert facts(quality) == bar_lists(quality) == histograms(quality) == []


def test_bars_are_the_longest_of_a_counting_longest_first() -> None:
    (found,) = bar_lists({"words": {f"word {n}": n for n in range(1, 21)}})
    assert [row[0] for row in found.rows] == [f"word {n}" for n in range(20, 20 - MAX_BARS, -1)]
    assert found.rows[1] == ("word 19", 19, 19 / 20) and found.left_out == 20 - MAX_BARS
    (few,) = bar_lists({"change": {"down": -4, "up": 2}})
    assert few == Bars("Change", [("up", 2, 0.5), ("down", -4, 1.0)])


def test_every_reason_of_a_rejection_is_counted_in_words() -> None:
    dropped = SimpleNamespace(rejected=Counter({"no_face": 1, "too_small": 3, "a reason of tomorrow": 2}))
    assert rejections(dropped).rows == [  # type: ignore[arg-type]
        ("too_small: smaller than the dataset's resolution", 3, 1.0),
        ("a reason of tomorrow", 2, 2 / 3),
        ("no_face: no face found", 1, 1 / 3),
    ]
