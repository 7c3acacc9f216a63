"""The summary of a fake evaluation, computed from its rows as datasets/FORMAT.md section 6 says; intervals are those of
a normal distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

DIGEST = "sha256:" + "5f" * 32
FIELDS = (
    *("context_change_inside", "context_change_outside", "swap_change_inside", "swap_change_outside"),
    *("diversity_layout", "diversity_content"),
)
GROUPS = {"by_category": "category", "by_subject": "subject", "by_prompt": "prompt_id"}


def statistic(values: pd.Series) -> dict[str, float | None]:
    values = values.dropna()
    if values.empty:
        return {"mean": None, "low": None, "high": None, "std": None}
    mean, spread = float(values.mean()), float(values.std(ddof=0))
    half = 1.96 * spread / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "std": spread}


def part(rows: pd.DataFrame) -> dict[str, Any]:
    followed = statistic((rows["pc_rank"] == 1).astype(float))
    return {"n": len(rows), "ip": statistic(rows["ip"]), "pc": statistic(rows["pc"]), "followed": followed}


def summary(scores: pd.DataFrame, pairs: pd.DataFrame, methods: Sequence[Any]) -> dict[str, Any]:
    return {
        "format": "moa-evaluation/3",
        "suite": "miniature",
        "version": 1,
        "methods": [_method(scores[scores["method"] == method.method], method) for method in methods],
        "upper_bound": {"n": 40, "ip": {"mean": 0.81, "low": 0.77, "high": 0.85}},
        "comparisons": [_comparison(scores, m.method) for m in methods if m.method != "moa" and m.kind != "prior"],
        "pairs": [_pair(pairs[pairs["method"] == method.method], method) for method in methods],
        "claims": claims(scores),
        "published": [{"method": "MoA (paper)", "ip": 0.555, "pc": 0.202, "source": "arXiv 2404.11565, table 3"}],
        "provenance": {
            "repo_id": "team/moa",
            "commit": "ab" * 20,
            "adapter_digest": DIGEST,
            "evaluators": {"faces": {"kind": "miniature", "sha256": DIGEST}},
            "command": ["python", "-m", "moa.evaluation.run", "runs/a b"],
            "code_commit": "c0ffee" * 6,
        },
    }


def _described(method: Any) -> dict[str, Any]:
    return {name: getattr(method, name) for name in ("method", "label", "kind", "compared_with", "role")}


def _method(rows: pd.DataFrame, method: Any) -> dict[str, Any]:
    found = {"detection_rate": statistic((rows["outcome"] == "scored").astype(float))}
    fields = {name: statistic(rows[name]) for name in FIELDS}
    groups = {name: {key: part(group) for key, group in rows.groupby(column)} for name, column in GROUPS.items()}
    return _described(method) | part(rows) | found | fields | groups


def _comparison(scores: pd.DataFrame, before: str) -> dict[str, Any]:
    key = ["subject", "prompt_id", "seed"]
    after, other = (scores[scores["method"] == name].set_index(key) for name in ("moa", before))
    names = ("ip", "pc", "context_change_outside")
    return {"before": before, "after": "moa", "n": len(after)} | {n: statistic(after[n] - other[n]) for n in names}


def _pair(rows: pd.DataFrame, method: Any) -> dict[str, Any]:
    names = ("ip", "pc", "leakage", "assigned")
    found = statistic((rows["faces"] >= 2).astype(float))
    outcomes = {name: int(n) for name, n in rows["outcome"].value_counts().items()}
    described = _described(method) | {"n": len(rows), "two_faces": found, "outcomes": outcomes}
    return described | {name: statistic(rows[name]) for name in names}


def claims(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Ten claims: most hold, C5 does not, C7 is not measured."""

    def side(label: str, mean: float, spread: float = 0.02) -> dict[str, Any]:
        return {"label": label, "n": 4, "mean": mean, "low": mean - spread, "high": mean + spread}

    made = [
        (
            "C1",
            "A subject swap changes the subject only",
            "change outside / inside",
            0.08,
            "without MoA layers",
            0.6,
            True,
        ),
        ("C2", "The context is the prior's", "change outside the person", 0.02, "without MoA layers", 0.14, True),
        ("C3", "The identity is preserved", "IP", 0.62, "prior only", 0.06, True),
        ("C4", "The prompt is followed", "PC, share of the prior's", 0.96, "prior only", 1.0, True),
        ("C5", "Layouts vary as much as the prior's", "layout diversity", 0.11, "prior only", 0.15, False),
        ("C6", "Two people stay themselves", "leakage", 0.08, "without MoA layers", 0.3, True),
        ("C7", "Occlusion and accessories are followed", "share followed", None, "", None, None),
        ("C8", "Routers leave the background to the prior", "prior share", 0.93, "on the person", 0.5, True),
        ("C9", "Without MoA layers the context is lost", "change outside", 0.14, "MoA", 0.02, True),
        ("C10", "Without spacetime the identity is lost", "IP", 0.4, "MoA", 0.62, True),
    ]
    return [
        {
            "id": name,
            "claim": claim,
            "measure": measure,
            "value": None if mean is None else side("MoA", mean),
            "against": None if other is None else side(against, other),
            "criterion": "the intervals are apart",
            "holds": holds,
            "note": "The suite has no accessory prompts with masks." if holds is None else None,
        }
        for name, claim, measure, mean, against, other, holds in made
    ]
