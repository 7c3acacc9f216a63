"""quality.json is shown by the shape of what it counts.

pytest tests/reports/test_quality.py
"""

from __future__ import annotations

from typing import Any

from preprocessing.quality import EDGES
from reports.quality import UNITS, Bars, bar_lists, facts, histograms

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
