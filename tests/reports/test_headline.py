"""The sentences of the first screen say no more than the paired comparisons do.

pytest tests/reports/test_headline.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reports.evaluation_format import Breakdown, Comparison, MethodSummary, Statistic, Suite, Summary
from reports.headline import figures, finding, scope
from reports.page import end
from reports.run_folder import Evaluation


def statistic(mean: float, spread: float = 0.01) -> Statistic:
    return Statistic(n=8, mean=mean, low=mean - spread, high=mean + spread)


def method(kind: str, label: str, ip: float, outside: float | None) -> MethodSummary:
    return MethodSummary(
        method=kind,
        label=label,
        kind=kind,
        compared_with=None if kind == "prior" else "prior",
        n=8,
        ip=statistic(ip),
        pc=statistic(0.6),
        detection_rate=statistic(1.0),
        context_change_outside=None if outside is None else statistic(outside),
    )


def evaluation(*comparisons: Comparison) -> Evaluation:
    methods = [
        method("prior", "Prior only", 0.1, None),
        method("moa", "MoA", 0.5, 0.02),
        method("ablation", "without X", 0.5, 0.06),
    ]
    summary = Summary(
        format="moa-evaluation/5", suite="tiny", version=1, methods=methods, comparisons=list(comparisons)
    )
    return Evaluation(Path("tiny"), summary, None, None, None, None, caution="")


def test_identity_is_held_against_the_prior() -> None:
    found = finding(evaluation(Comparison(before="prior", after="moa", n=8, ip=statistic(0.4))))
    assert found.startswith("Identity (IP) is 0.500, higher by 0.400 than the prior’s 0.100; ")
    assert "prompt consistency (PC) is 0.600, not compared in pairs with the prior’s 0.600. Beside" in found


def test_a_figure_below_zero_has_the_minus_sign_of_all_figures() -> None:
    """PC is a cosine."""
    found = evaluation()
    below = [m.model_copy(update={"pc": statistic(-0.0412)}) for m in found.summary.methods]
    told = finding(replace(found, summary=found.summary.model_copy(update={"methods": below})))
    assert "(PC) is −0.041, not compared in pairs with the prior’s −0.041" in told
    assert (end(-0.0412), end(-0.5, percent=True), end(1, percent=True), end(0)) == ("−0.041", "−50 %", "100 %", "0")


@pytest.mark.parametrize(
    ("mean", "spread", "words"),
    [
        (-0.04, 0.01, "is 0.020, lower by 0.040 than its 0.060"),
        (-0.04, 0.05, "is 0.020, not told apart from its 0.060"),  # though the two intervals are apart
        (0.001, 0.0005, "is 0.020, higher by 0.001 than its 0.060"),
    ],
)
def test_methods_are_told_apart_by_their_paired_difference_alone(mean: float, spread: float, words: str) -> None:
    compared = Comparison(before="ablation", after="moa", n=8, context_change_outside=statistic(mean, spread))
    assert f"Beside “without X”, scene change {words}" in finding(evaluation(compared))


def test_the_rival_of_the_scene_is_named_for_identity_too() -> None:
    compared = Comparison(
        before="ablation", after="moa", n=8, context_change_outside=statistic(-0.04), ip=statistic(-0.08)
    )
    found = finding(evaluation(compared))
    assert found.endswith(
        "scene change is 0.020, lower by 0.040 than its 0.060; identity is lower by 0.080 than its 0.500."
    )
    assert found.count("0.500") == 2  # its own identity once, and that of the rival


def test_without_an_ablation_scene_change_stands_alone() -> None:
    found = evaluation()
    alone = replace(found, summary=found.summary.model_copy(update={"methods": found.methods[:2]}))
    assert finding(alone).endswith("with the prior’s 0.600. Scene change is 0.020.")


def test_a_figure_nobody_measured_stays_in_its_place_and_has_none() -> None:
    found = evaluation()
    moa = found.methods[1].model_copy(update={"ip": Statistic(n=0), "context_change_outside": None})
    prior = found.methods[0].model_copy(update={"ip": Statistic(n=0)})
    lost = replace(found, summary=found.summary.model_copy(update={"methods": [prior, moa]}))
    values = {figure.title: figure.value for figure in figures(lost)}
    assert list(values) == ["Identity (IP)", "Prompt (PC)", "Faces found", "Scene change"]
    assert [name for name, value in values.items() if value is None] == ["Identity (IP)", "Scene change"]


def test_a_figure_stands_beside_those_on_its_own_base_alone() -> None:
    """Another base makes other pictures, and the shown method is no rival of its own."""
    found = evaluation()
    comic = [
        method("prior", "Comic", 0.9, None).model_copy(update={"method": "comic"}),
        method("moa", "MoA on Comic", 0.9, 0.5).model_copy(update={"method": "moa-comic", "compared_with": "comic"}),
    ]
    both = replace(found, summary=found.summary.model_copy(update={"methods": [*found.methods, *comic]}))
    assert both.shown.label == "MoA"
    identity, prompt, faces, scene = figures(both)
    assert [(label, rival.mean) for label, _, rival in identity.rivals] == [("Prior only", 0.1), ("without X", 0.5)]
    assert [(label, rival.mean) for label, _, rival in scene.rivals] == [("without X", 0.06)]
    assert [figure.percent for figure in (identity, prompt, faces, scene)] == [False, False, True, False]
    assert [figure.better.split()[0] for figure in (identity, prompt, faces, scene)] == ["higher"] * 3 + ["lower"]


def test_shares_are_drawn_from_0_to_1_and_others_as_far_as_they_reach() -> None:
    scales = [(figure.low, figure.high) for figure in figures(evaluation())]
    assert [scales[0], scales[2]] == [(0.0, 1.0)] * 2
    assert scales[1] == (0.0, pytest.approx(0.61 * 1.1)) and scales[3] == (0.0, pytest.approx(0.07 * 1.1))


def test_a_difference_is_that_to_the_rival_it_is_said_of() -> None:
    compared = [
        Comparison(before="ablation", after="moa", n=8, ip=statistic(0.2)),
        Comparison(before="prior", after="moa", n=8, ip=statistic(0.4)),
    ]
    assert "higher by 0.400 than the prior’s 0.100" in finding(evaluation(*compared))


def test_scope_says_of_what_the_figures_are() -> None:
    found = evaluation()
    assert scope(found) == ""
    people, prompts = ({name: Breakdown(n=1) for name in names} for names in (("a", "b"), ("beach",)))
    moa = found.methods[1].model_copy(update={"by_subject": people, "by_prompt": prompts})
    suite = Suite(name="tiny", seeds=[1, 2])
    summary = found.summary.model_copy(update={"methods": [found.methods[0], moa]})
    assert scope(replace(found, summary=summary, suite=suite)) == "2 people x 1 prompt x 2 seeds"
