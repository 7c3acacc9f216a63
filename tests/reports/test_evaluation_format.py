"""The reading side of `moa-evaluation/5`: what the format says is read, what it does not allow is refused by field."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from reports.evaluation_format import Statistic, Suite, Summary

STATISTIC = {"n": 48, "mean": 0.5, "low": 0.4, "high": 0.6, "std": 0.1}
NOTHING = {"n": 0, "mean": None, "low": None, "high": None, "std": None}
GROUP = {"n": 48, "ip": STATISTIC, "pc": STATISTIC, "followed": None, "item_shown": STATISTIC, "scene_shown": None}
CLAIM = {
    "id": "C4",
    "claim": "The prompt is followed",
    "measure": "PC",
    "criterion": "MoA's is at least 95 % of the prior's",
    "value": {"label": "MoA", "n": 48, "mean": 0.67, "low": 0.66, "high": 0.68},
    "against": {"label": "Prior only", "n": 24, "mean": 0.71, "low": None, "high": None},
    "tests": [
        {
            "quantity": "PC, MoA / prior",
            "n": 48,
            "mean": 0.94,
            "low": 0.91,
            "high": 0.96,
            "bound": 0.95,
            "side": "above",
            "verdict": "undecided",
        }
    ],
    "verdict": "undecided",
    "note": "",
}
SUMMARY = {
    "format": "moa-evaluation/5",
    "suite": "miniature",
    "version": "4",
    "methods": [
        {
            "method": "moa",
            "label": "MoA",
            "kind": "moa",
            "role": None,
            "compared_with": "prior",
            "ip": STATISTIC,
            "pc": NOTHING,
            "detection_rate": STATISTIC,
            "seed_change_outside": None,
            "by_category": {"accessory": GROUP},
            "outcomes": {"scored": 40, "no_reference": 8},
            **{name: value for name, value in GROUP.items() if name not in ("ip", "pc")},
        }
    ],
    "upper_bound": {"n": 6, "ip": STATISTIC},
    "comparisons": [],
    "pairs": None,
    "claims": [CLAIM],
    "published": [],
    "unscored": [{"what": "subject ben", "why": "ben.jpg cannot be read as an image"}],
    "provenance": {"repo_id": None, "commit": None, "adapter_digest": "sha256:0", "evaluators": {}},
    "environment": {"python": "3.11.9", "packages": {"torch": "2.14.1"}, "devices": ["cpu"], "precision": "fp32"},
}


def test_a_summary_as_the_format_says_is_read():
    summary = Summary.model_validate(SUMMARY)
    moa = summary.methods[0]
    assert (moa.ip.n, moa.pc.n, moa.pc.mean, moa.item_shown.mean) == (48, 0, None, 0.5)
    assert moa.by_category["accessory"].item_shown == Statistic(**STATISTIC) and moa.outcomes["no_reference"] == 8
    (test,) = summary.claims[0].tests
    assert (test.bound, test.side, test.verdict, summary.claims[0].verdict) == (0.95, "above", *["undecided"] * 2)
    assert summary.unscored[0].what == "subject ben" and summary.environment.precision == "fp32"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("format",), "moa-evaluation/4", "format Input should be 'moa-evaluation/5'"),
        (("methods", 0, "ip"), 0.5, "methods.0.ip"),
        (("methods", 0, "ip"), {"mean": 0.5}, "methods.0.ip.n"),
        (("claims", 0, "verdict"), "true", "claims.0.verdict"),
        (("claims", 0, "tests", 0, "side"), "left", "claims.0.tests.0.side"),
        (("methods", 0, "kind"), "baseline", "methods.0.kind"),
    ],
)
def test_what_the_format_does_not_allow_is_refused(place, value, said):
    changed = copy.deepcopy(SUMMARY)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(ValidationError) as caught:
        Summary.model_validate(changed)
    fields = [".".join(map(str, error["loc"])) + " " + error["msg"] for error in caught.value.errors()]
    assert any(said in field for field in fields)


def test_of_suite_json_only_what_is_shown_is_asked_for():
    prompt = {"id": "hat", "category": "accessory", "text": "a {word} in a hat", "shows": {"item": "in a hat"}}
    people = [{"id": "ann", "word": "woman", "problem": None}, {"id": "ben", "problem": "holds no photograph"}]
    suite = Suite.model_validate({"name": "tiny", "prompts": [prompt], "people": people})
    assert suite.prompts[0].text == "a {word} in a hat" and len(suite.people) == 2
