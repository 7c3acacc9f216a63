"""The sentences of the first screen say no more than the intervals do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reports.evaluation_format import MethodSummary, Statistic
from reports.headline import finding


def method(kind: str, outside: tuple[float, float, float] | None, pc: float = 0.6) -> MethodSummary:
    scores = {
        name: Statistic(mean=value, low=value - 0.01, high=value + 0.01) for name, value in (("ip", 0.5), ("pc", pc))
    }
    change = None if outside is None else Statistic(mean=outside[0], low=outside[1], high=outside[2])
    return MethodSummary(
        method=kind,
        label="without X",
        kind=kind,
        n=4,
        detection_rate=Statistic(mean=1.0),
        context_change_outside=change,
        **scores,
    )


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ((0.06, 0.05, 0.07), "changes by 0.020, less than with “without X” (0.060)"),
        ((0.023, 0.02, 0.03), "changes by 0.020, not told apart from “without X” (0.023)"),
        ((0.005, 0.004, 0.006), "changes by 0.020, no less than with “without X” (0.005)"),
        (None, ""),
    ],
)
def test_the_scene_changes_less_only_where_the_intervals_are_apart(theirs, words):
    moa = method("moa", (0.02, 0.018, 0.022))
    evaluation = SimpleNamespace(first=lambda kind: moa, prior=None, ablations=[method("ablation", theirs)])
    said = finding(evaluation)
    assert words in said and ("Outside" in said) == bool(words)
