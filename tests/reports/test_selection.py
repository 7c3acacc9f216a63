"""Which images are shown: the rules, on hand-made rows.

pytest tests/reports/test_selection.py
"""

from __future__ import annotations

import pandas as pd
import pytest

from reports.selection import (
    FACELESS,
    UNUSED,
    distinct,
    failures,
    galleries,
    in_order,
    one_prompt_per_category,
    spread,
    typical_subjects,
)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Seven subjects with IP 0.1 .. 0.7, one prompt in each of two categories; m7 has another word; m1 was not found
    once."""
    made = []
    for number in range(1, 8):
        for prompt, category in (("p1", "action"), ("p2", "style")):
            lost = number == 1 and prompt == "p2"
            made.append(
                {
                    "method": "moa",
                    "subject": f"m{number}",
                    "word": "woman" if number == 7 else "man",
                    "prompt_id": prompt,
                    "category": category,
                    "outcome": "no_face" if lost else "scored",
                    "ip": 0.0 if lost else number / 10,
                    "seed": 0,
                    "image": f"m{number}-{prompt}.png",
                }
            )
    return pd.DataFrame(made)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, list(range(10))), (99, list(range(10)))],
)
def test_spread(count: int, expected: list[int]) -> None:
    assert spread(range(10), count) == expected


def test_typical_subjects_are_nearest_the_median_of_the_commonest_word(rows: pd.DataFrame) -> None:
    assert typical_subjects(rows, "moa", 2) == ["m3", "m4"]  # means .05 .2 .3 .4 .5 .6, median .35
    assert "m7" not in typical_subjects(rows, "moa", 7)
    assert typical_subjects(rows, "other", 2) == []


def test_a_word_is_common_by_its_people_of_this_method(rows: pd.DataFrame) -> None:
    """Neither by how many images one of them has, nor by whom another method knows."""
    woman = rows[rows["word"] == "woman"]
    more = [woman.assign(seed=seed) for seed in range(1, 20)]
    others = [woman.assign(method="prior", subject=f"w{number}") for number in range(20)]
    assert typical_subjects(pd.concat([rows, *more, *others]), "moa", 2) == ["m3", "m4"]


def test_the_middle_is_the_median_and_who_was_never_scored_counts_0(rows: pd.DataFrame) -> None:
    far = rows["subject"].map({"m1": None, "m2": 0.0, "m3": 0.1, "m4": 0.1, "m5": 0.3, "m6": 1.0, "m7": 1.0})
    assert typical_subjects(rows.assign(ip=far.astype(float)), "moa", 2) == ["m3", "m4"]  # the mean is 0.25
    assert typical_subjects(rows.assign(ip=far.astype(float)), "moa", 4) == ["m1", "m2", "m3", "m4"]


def test_of_a_category_the_first_prompt_stands_for_it(rows: pd.DataFrame) -> None:
    one = rows.assign(category="action")
    assert one_prompt_per_category(one, ["p2", "p1"], 2) == ["p2"]


def test_order_of_the_suite_comes_first(rows: pd.DataFrame) -> None:
    assert in_order(rows, "prompt_id", ["p2", "gone"]) == ["p2", "p1"]
    assert one_prompt_per_category(rows, ["p2", "p1"], 2) == ["p2", "p1"]
    assert one_prompt_per_category(rows, ["p2", "p1"], 1) == ["p2"]


def test_galleries_rank_scored_images_only(rows: pd.DataFrame) -> None:
    found = galleries(rows, "moa", 2)
    assert list(found["Best"]["ip"]) == [0.7, 0.7]
    assert list(found["Worst"]["ip"]) == [0.1, 0.2]
    assert list(found["Median"]["ip"]) == [0.5, 0.4]  # ranks 6 and 7 of 13
    assert found["Random"].equals(galleries(rows, "moa", 2)["Random"])
    assert galleries(rows, "moa", 5)["Random"].index.is_monotonic_increasing  # in the order of the rows
    assert all(len(part) == 0 for part in galleries(rows, "other", 2).values())


def test_failures_are_told_apart_by_whose_they_are(rows: pd.DataFrame) -> None:
    assert {why: list(failed["subject"]) for why, failed in failures(rows, "moa").items()} == {
        FACELESS["no_face"]: ["m1"]
    }
    assert {why: len(failed) for why, failed in failures(rows.assign(outcome="missing"), "moa").items()} == {UNUSED: 14}


def test_an_image_that_stands_for_several_people_counts_once(rows: pd.DataFrame) -> None:
    shared = rows.assign(image=rows["prompt_id"] + ".png", outcome="no_face")
    assert len(distinct(shared)) == 2 and len(failures(shared, "moa")[FACELESS["no_face"]]) == 2
    assert len(distinct(shared.assign(image=None))) == 14  # no image is not the same image
    methods, outcomes = ["moa", "moa", "other", "other"] * 3 + ["moa"] * 2, ["no_face"] * 7 + ["missing"] * 7
    # An image's name is that of a method, and two outcomes are two facts.
    assert len(distinct(shared.assign(method=methods, outcome=outcomes))) == 8
