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
    above_prior: float = 0.3,
) -> dict[str, Any]:
    """Prior, MoA, perhaps a champion, and a community base with a prior of its own."""
    kinds = {"prior": "prior", "moa": "moa", **({"champion": "champion"} if champion else {}), "ink-prior": "prior"}
    methods = [
        {"method": name, "label": name, "kind": kind, "outcomes": {"scored": 8, "unreadable": unreadable}}
        for name, kind in kinds.items()
    ]
    against = "champion" if champion else "prior"
    prior = difference(above_prior, above_prior - 0.1, above_prior + 0.1)
    lines = [
        *([{"before": "prior", "after": "moa", "n": 8, "ip": prior, "pc": difference(-1, -1, -1)}] if champion else []),
        {"before": against, "after": "moa", "n": 8, "ip": ip, "pc": pc},
        {"before": "ink-prior", "after": "moa", "n": 8, "ip": difference(-1, -1, -1), "pc": difference(-1, -1, -1)},
    ]
    return {"methods": methods, "comparisons": lines[::-1]}


def judged(
    values: dict[str, Any],
    *,
    champion: bool = True,
    given_up: tuple[float, float] = (0.0, 0.0),
    above_prior: float = 0.0,
) -> Decision:
    before = dict(zip(("ip", "pc"), given_up, strict=True))
    limits = {"tolerance_ip": 0.02, "tolerance_pc": 0.01, "above_prior_ip": above_prior}
    return decide(values, champion=champion, given_up=before, **limits)


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
        "IP, MoA - champion: +0.0500, and the low end of its interval, -0.0310, is not above -0.02.",
        "PC, MoA - champion: +0.0000, and the low end of its interval, -0.0120, is not above -0.01.",
    )


@pytest.mark.parametrize(("mean", "promoted"), [(0.11, True), (0.1, False), (0.02, False)])
def test_a_model_that_does_not_personalize_is_no_successor(mean: float, promoted: bool) -> None:
    """However near it is to its champion: that one may have come from elsewhere, or have sunk."""
    same = difference(0.0, 0.0, 0.0)
    decision = judged(summary(same, same, above_prior=mean))
    assert decision.promote is promoted and "MoA - prior has to lie above 0 in IP" in decision.rule
    low = f"{mean - 0.1:+.4f}"
    reason = f"IP, MoA - prior: {mean:+.4f}, and the low end of its interval, {low}, is not above 0."
    assert decision.reasons == (() if promoted else (reason,))


def test_how_far_above_the_prior_is_a_setting() -> None:
    same = difference(0.0, 0.0, 0.0)
    asked = judged(summary(same, same, above_prior=0.3), above_prior=0.25)
    assert not asked.promote and "above 0.25 in IP, and" in asked.rule
    assert judged(summary(same, same, above_prior=0.3), above_prior=0.15).promote


def test_the_promotions_of_a_chain_share_one_tolerance() -> None:
    """Each of these is worse than its champion by less than the tolerance, with little doubt."""
    given_up, promoted = (0.0, 0.0), 0
    for _ in range(10):
        decision = judged(summary(difference(-0.006, -0.008, -0.004), difference(0, 0, 0)), given_up=given_up)
        if decision.promote:
            promoted, given_up = promoted + 1, (decision.given_up["ip"], decision.given_up["pc"])
    assert (promoted, given_up) == (2, (0.012, 0.0))
    assert "above -0.008 in IP and above -0.01 in PC (the promotions before gave up 0.012 in IP)." in decision.rule
    assert decision.reasons == (
        "IP, MoA - champion: -0.0060, and the low end of its interval, -0.0080, is not above -0.008.",
    )


def test_a_gain_pays_back_what_was_given_up_and_no_more() -> None:
    better, worse = difference(0.01, 0.005, 0.015), difference(-0.002, -0.003, -0.001)
    assert judged(summary(better, worse), given_up=(0.012, 0.001)).given_up == {"ip": 0.002, "pc": 0.003}
    assert judged(summary(better, worse), given_up=(0.004, 0.0)).given_up == {"ip": 0.0, "pc": 0.002}


def test_the_rule_is_told_to_four_decimals() -> None:
    rule = judged(summary(difference(0, 0, 0), difference(0, 0, 0)), given_up=(0.00004, 0.000057)).rule
    assert rule.endswith("above -0.02 in IP and above -0.0099 in PC (the promotions before gave up 0.0001 in PC).")


def test_a_first_model_has_given_up_nothing() -> None:
    first = summary(difference(0.2, 0.1, 0.3), difference(-0.1, -0.2, 0), champion=False)
    assert judged(first, champion=False).given_up == {"ip": 0.0, "pc": 0.0}


@pytest.mark.parametrize(("low", "promoted"), [(0.01, True), (0.0, False), (-0.01, False)])
def test_the_first_model_has_to_beat_the_prior_in_ip_and_may_cost_pc(low: float, promoted: bool) -> None:
    decision = judged(summary(difference(0.2, low, 0.4), difference(-0.1, -0.2, 0), champion=False), champion=False)
    assert decision.promote is promoted and decision.against["method"] == "prior"


@pytest.mark.parametrize("ip", [None, difference(0.5, None, None)])
def test_without_an_interval_nothing_is_promoted(ip: dict[str, float | None] | None) -> None:
    decision = judged(summary(ip, difference(0.1, 0.1, 0.1)))
    need = "the suite needs two people or more whose images are scored."
    assert decision.reasons == (f"IP, MoA - champion has no interval: {need}",)


def test_images_that_were_not_scored_stop_a_promotion() -> None:
    better = difference(0.1, 0.1, 0.1)
    decision = judged(summary(better, better, unreadable=3))
    assert decision.reasons[0] == "3 images of moa could not be scored; evaluate again." and not decision.promote


@pytest.mark.parametrize("outcome", ["missing", "unreadable"])
def test_so_do_images_of_the_champion(outcome: str) -> None:
    values = summary(difference(0.1, 0.1, 0.1), difference(0.1, 0.1, 0.1))
    champion = next(method for method in values["methods"] if method["kind"] == "champion")
    champion["outcomes"] = {"scored": 7, outcome: 1}
    assert judged(values).reasons == ("1 images of champion could not be scored; evaluate again.",)


@pytest.mark.parametrize("outcome", ["no_reference", "no_reference_face"])
def test_a_person_without_a_usable_photograph_costs_only_their_own_images(outcome: str) -> None:
    """Of both methods alike. Evaluating again would change nothing, and the intervals know how many people are left."""
    values = summary(difference(0.1, 0.1, 0.1), difference(0.1, 0.1, 0.1))
    for method in values["methods"]:
        method["outcomes"] = {"scored": 6, outcome: 2}
    assert judged(values).promote


def test_a_summary_without_the_comparison_is_named() -> None:
    """An evaluation from before there was a champion does not count as that of a first model."""
    without = summary(difference(1, 1, 1), difference(1, 1, 1), champion=False)
    with pytest.raises(MissingInputError, match="does not compare MoA with the champion"):
        judged(without)
    alone = summary(difference(0, 0, 0), difference(0, 0, 0))
    alone["comparisons"] = [line for line in alone["comparisons"] if line["before"] != "prior"]
    with pytest.raises(MissingInputError, match="does not compare MoA with the prior"):
        judged(alone)
