"""The rule of the gate, on summaries written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from flows.decision import Decision, decide
from flows.errors import MissingInputError


def difference(mean: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"mean": mean, "low": low, "high": high, "std": 0.1}


def summary(
    ip: dict[str, float | None] | None,
    pc: dict[str, float | None] | None,
    *,
    champion: bool = True,
    unreadable: int = 0,
) -> dict[str, Any]:
    """Prior, MoA, perhaps a champion, and a community base with a prior of its own."""
    kinds = {"prior": "prior", "moa": "moa", **({"champion": "champion"} if champion else {}), "ink-prior": "prior"}
    methods = [
        {"method": name, "label": name, "kind": kind, "outcomes": {"scored": 8, "unreadable": unreadable}}
        for name, kind in kinds.items()
    ]
    against = "champion" if champion else "prior"
    lines = [
        {"before": against, "after": "moa", "n": 8, "ip": ip, "pc": pc},
        {"before": "ink-prior", "after": "moa", "n": 8, "ip": difference(-1, -1, -1), "pc": difference(-1, -1, -1)},
    ]
    return {"methods": methods, "comparisons": lines[::-1]}


def judged(values: dict[str, Any], *, champion: bool = True) -> Decision:
    return decide(values, champion=champion, tolerance_ip=0.02, tolerance_pc=0.01)


@pytest.mark.parametrize(
    ("ip", "pc", "promoted"),
    [
        ((0.05, 0.01, 0.09), (0.01, 0.00, 0.02), True),  # better
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), True),  # the same weights again
        ((-0.01, -0.019, 0.01), (0.0, -0.009, 0.01), True),  # worse within the tolerances
        ((0.05, -0.03, 0.13), (0.0, -0.005, 0.01), False),  # better on average, but the interval allows much worse
        ((0.05, 0.01, 0.09), (-0.02, -0.03, -0.01), False),  # IP was bought with PC
        ((-0.02, -0.02, -0.02), (0.0, 0.0, 0.0), False),  # exactly at the tolerance
    ],
)
def test_against_a_champion_neither_score_may_be_worse_by_more_than_its_tolerance(
    ip: tuple[float, float, float], pc: tuple[float, float, float], promoted: bool
) -> None:
    decision = judged(summary(difference(*ip), difference(*pc)))
    assert decision.promote is promoted
    assert decision.against["kind"] == "champion"
    assert "above -0.02 in IP and above -0.01 in PC" in decision.rule


def test_the_reasons_name_score_difference_and_bound() -> None:
    decision = judged(summary(difference(0.05, -0.031, 0.13), difference(0, -0.012, 0)))
    assert decision.reasons == (
        "IP: the difference is +0.0500, the low end of its interval -0.0310 is not above -0.02.",
        "PC: the difference is +0.0000, the low end of its interval -0.0120 is not above -0.01.",
    )


@pytest.mark.parametrize(("low", "promoted"), [(0.01, True), (0.0, False), (-0.01, False)])
def test_the_first_model_has_to_beat_the_prior_in_ip_and_may_cost_pc(low: float, promoted: bool) -> None:
    decision = judged(summary(difference(0.2, low, 0.4), difference(-0.1, -0.2, 0), champion=False), champion=False)
    assert decision.promote is promoted and decision.against["method"] == "prior"


@pytest.mark.parametrize("ip", [None, difference(0.5, None, None)])
def test_without_an_interval_nothing_is_promoted(ip: dict[str, float | None] | None) -> None:
    decision = judged(summary(ip, difference(0.1, 0.1, 0.1)))
    assert decision.reasons == ("IP has no interval: the suite needs two people or more whose images are scored.",)


def test_images_that_were_not_scored_stop_a_promotion() -> None:
    better = difference(0.1, 0.1, 0.1)
    decision = judged(summary(better, better, unreadable=3))
    assert decision.reasons[0] == "3 images of moa could not be scored; evaluate again." and not decision.promote


@pytest.mark.parametrize("outcome", ["missing", "unreadable", "no_reference"])
def test_so_do_images_of_the_champion(outcome: str) -> None:
    values = summary(difference(0.1, 0.1, 0.1), difference(0.1, 0.1, 0.1))
    champion = next(method for method in values["methods"] if method["kind"] == "champion")
    champion["outcomes"] = {"scored": 7, outcome: 1}
    assert judged(values).reasons == ("1 images of champion could not be scored; evaluate again.",)


def test_people_without_a_reference_stop_a_promotion() -> None:
    values = summary(difference(0.1, 0.1, 0.1), difference(0.1, 0.1, 0.1))
    for method in values["methods"]:
        method["outcomes"] = {"scored": 6, "no_reference": 2}
    assert "2 images of moa could not be scored" in judged(values).reasons[0]


def test_a_summary_without_the_comparison_is_named() -> None:
    """An evaluation from before there was a champion does not count as that of a first model."""
    without = summary(difference(1, 1, 1), difference(1, 1, 1), champion=False)
    with pytest.raises(MissingInputError, match="does not compare MoA with the champion"):
        judged(without)
