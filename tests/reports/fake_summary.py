"""The summary of a fake evaluation, computed from its rows as datasets/FORMAT.md section 6 says; intervals are those of
a normal distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

DIGEST = "sha256:" + "5f" * 32
FIELDS = (
    *("context_change_inside", "context_change_outside", "swap_change_inside", "swap_change_outside"),
    *("seed_change_inside", "seed_change_outside", "diversity_layout", "diversity_content"),
)
SHOWN = ("item_shown", "scene_shown")
GROUPS = {"by_category": "category", "by_subject": "subject", "by_prompt": "prompt_id"}
ENVIRONMENT = {
    "python": "3.11.9",
    "packages": {"torch": "2.9.0", "diffusers": "0.36.0"},
    "devices": ["cpu"],
    "threads": 1,
    "precision": "fp32",
    "scheduler": "DDIMScheduler",
    "expert_interval": 2,
}


def statistic(values: pd.Series, images: pd.Series | None = None) -> dict[str, float | int | None] | None:
    """A statistic of format 4, None where nothing was measured; `images` (default: all distinct) are counted once."""
    values = values.dropna()
    if values.empty:
        return None
    count = len(values) if images is None else images[values.index].nunique()
    mean, spread = float(values.mean()), float(values.std(ddof=0))
    half = 1.96 * spread / len(values) ** 0.5
    return {"n": count, "mean": mean, "low": mean - half, "high": mean + half, "std": spread}


def part(rows: pd.DataFrame) -> dict[str, Any]:
    followed = statistic((rows["pc_rank"] == 1).astype(float), rows["image"])
    found = {name: statistic(rows[name], rows["image"]) for name in ("ip", "pc", *SHOWN)}
    return {"n": rows["image"].nunique(), "followed": followed} | found


def summary(scores: pd.DataFrame, pairs: pd.DataFrame, methods: Sequence[Any], suite: str) -> dict[str, Any]:
    names = [method.method for method in methods]
    compared = [(name, "moa") for name in names if name in ("prior", "champion", "no-moa", "no-spacetime")]
    compared += [("ink-prior", "ink")] if "ink" in names else []
    return {
        "format": "moa-evaluation/5",
        "suite": suite,
        "version": 1,
        "yardstick": DIGEST,
        "methods": [_method(scores[scores["method"] == method.method], method) for method in methods],
        "upper_bound": {"n": 40, "ip": {"n": 40, "mean": 0.81, "low": 0.77, "high": 0.85}},
        "comparisons": [_comparison(scores, *pair) for pair in compared],
        "pairs": [_pair(pairs[pairs["method"] == method.method], method) for method in methods],
        "claims": claims(),
        "published": [{"method": "MoA (paper)", "ip": 0.555, "pc": 0.202, "source": "arXiv 2404.11565, table 3"}],
        "unscored": [{"what": "m-000003, beach, seed 11 of MoA", "why": "the file is not an image"}],
        "provenance": {
            "repo_id": "team/moa",
            "commit": "ab" * 20,
            "adapter_digest": DIGEST,
            "evaluators": {"faces": {"kind": "miniature", "sha256": DIGEST}},
            "preparer": {"name": "PortraitPreparer", "weights": DIGEST},
            "command": ["python", "-m", "moa.evaluation.run", "runs/a b"],
            "code_commit": "c0ffee" * 6,
        },
        "environment": ENVIRONMENT,
    }


def _described(method: Any) -> dict[str, Any]:
    return {name: getattr(method, name) for name in ("method", "label", "kind", "compared_with", "role")}


def _method(rows: pd.DataFrame, method: Any) -> dict[str, Any]:
    found = {"detection_rate": statistic((rows["outcome"] == "scored").astype(float), rows["image"])}
    fields = {name: statistic(rows[name], rows["image"]) for name in FIELDS}
    groups = {name: {key: part(group) for key, group in rows.groupby(column)} for name, column in GROUPS.items()}
    outcomes = {name: int(n) for name, n in rows["outcome"].value_counts().items()}
    return _described(method) | part(rows) | found | fields | groups | {"outcomes": outcomes}


def _comparison(scores: pd.DataFrame, before: str, after: str) -> dict[str, Any]:
    key = ["subject", "prompt_id", "seed"]
    other, one = (scores[scores["method"] == name].set_index(key) for name in (before, after))
    names = ("ip", "pc", *SHOWN, "context_change_outside")
    made = {name: statistic(one[name] - other[name]) for name in names}
    return {"before": before, "after": after, "n": len(one)} | made


def _pair(rows: pd.DataFrame, method: Any) -> dict[str, Any]:
    names = ("ip", "pc", "leakage", "assigned")
    found = statistic((rows["faces"] >= 2).astype(float), rows["image"])
    outcomes = {name: int(n) for name, n in rows["outcome"].value_counts().items()}
    described = _described(method) | {"n": rows["image"].nunique(), "two_faces": found, "outcomes": outcomes}
    return described | {name: statistic(rows[name], rows["image"]) for name in names}


def claims() -> list[dict[str, Any]]:
    """Ten claims: most are found true, C5 false, C6 is undecided, C7 not measured."""
    lost = "Without MoA layers"
    made: list[tuple[Any, ...]] = [
        ("C1", "A subject swap changes the subject only", "change outside / inside", ("MoA", 0.08), (lost, 0.6), "yes"),
        ("C2", "The context is the prior's", "change outside the person", ("MoA", 0.02), (lost, 0.14), "yes"),
        ("C3", "The identity is preserved", "IP", ("MoA", 0.62), ("Prior only", 0.06), "yes"),
        ("C4", "The prompt is followed", "PC, share of the prior's", ("MoA", 0.96), ("Prior only", 1.0), "yes"),
        ("C5", "Layouts vary as much as the prior's", "layout diversity", ("MoA", 0.11), ("Prior only", 0.15), "no"),
        ("C6", "Two people stay themselves", "leakage", ("MoA", 0.08), (lost, 0.09), "undecided"),
        ("C7", "Occlusion and accessories are followed", "share followed", None, None, "unmeasured"),
        (
            "C8",
            "Routers leave the background to the prior",
            "prior share",
            ("background", 0.93),
            ("person", 0.5),
            "yes",
        ),
        ("C9", "Without MoA layers the context is lost", "change outside", (lost, 0.14), ("MoA", 0.02), "yes"),
        ("C10", "Without spacetime the identity is lost", "IP", ("Without spacetime", 0.4), ("MoA", 0.62), "yes"),
    ]
    return [_claim(*row) for row in made]


def _claim(name: str, claim: str, measure: str, value: Any, against: Any, verdict: str) -> dict[str, Any]:
    return {
        "id": name,
        "claim": claim,
        "measure": measure,
        "criterion": f"the paired difference in {measure} lies on the claimed side of 0",
        "value": _figure(measure, *value) if value else None,
        "against": _figure(measure, *against) if against else None,
        "tests": [_test(measure, value[1] - against[1], verdict)] if value else [],
        "verdict": verdict,
        "note": "The suite has no accessory prompts." if verdict == "unmeasured" else "",
    }


def _figure(measure: str, label: str, mean: float) -> dict[str, Any]:
    return {"label": label, "unit": _unit(measure), "n": 4, "mean": mean, "low": mean - 0.02, "high": mean + 0.02}


def _unit(measure: str) -> str:
    return {"PC, share of the prior's": "share", "prior share": "weight"}.get(measure, "distance")


def _test(measure: str, mean: float, verdict: str) -> dict[str, Any]:
    claimed_above = (mean > 0) == (verdict != "no")
    spread = 0.02
    side = "above" if claimed_above else "below"
    return {
        "quantity": f"difference in {measure}",
        "unit": _unit(measure),
        "n": 4,
        "mean": mean,
        "low": mean - spread,
        "high": mean + spread,
    } | {
        "bound": 0.0,
        "side": side,
        "verdict": verdict,
    }
