"""Tables out of rows: `summary.json`, recomputed from the scores whenever it is wanted. Format: datasets/FORMAT.md,
section 6.

A mean is over images, an interval over identities (see `metrics.bootstrap_interval`). IP of an image without a face
is 0, as in the published protocol; images that are missing or unreadable are in no mean and are counted under
`outcomes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from moa.errors import ScoresError
from moa.evaluation.generate import Method
from moa.evaluation.intervals import bootstrap_interval, paired_difference
from moa.evaluation.score import KEY
from moa.evaluation.suite import Suite

FORMAT = "moa-evaluation/1"
# shares of the image height; the paper notes that IP falls with the face's size (section 4)
FACE_SIZES = ((0.0, 0.15, "below 15 %"), (0.15, 0.3, "15 to 30 %"), (0.3, np.inf, "30 % and more"))


def summarise(
    rows: pd.DataFrame, suite: Suite, methods: Sequence[Method], provenance: dict[str, Any]
) -> dict[str, Any]:
    """The content of `summary.json`. Raises `ScoresError` when a method has no rows or a row's method is not named."""
    named = {method.name for method in methods}
    if named != set(rows["method"]):
        raise ScoresError(
            f"the rows hold methods {sorted(set(rows['method']))}, the summary is asked for {sorted(named)}"
        )
    return {
        "format": FORMAT,
        "suite": suite.name,
        "version": suite.version,
        "methods": [_method(rows[rows["method"] == method.name], method) for method in methods],
        "published": [row.model_dump() for row in suite.published],
        "provenance": provenance,
    }


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Paired comparison of one method in two runs, `{"ip": after - before, "pc": ...}` with intervals over identities.

    Rows are matched by subject, prompt and seed; all must match. Raises `ScoresError` naming how many do not, as
    when the two runs used different suites or versions of one.
    """
    key = KEY[1:]
    joined = before.merge(after, on=key, how="outer", suffixes=("_before", "_after"), indicator=True)
    alone = int((joined["_merge"] != "both").sum())
    if alone:
        raise ScoresError(
            f"{alone} of {len(joined)} rows exist in one run only; compare runs of the same suite and version"
        )
    return {score: _difference(joined, score) for score in ("ip", "pc")} | {"n": len(joined)}


def _difference(joined: pd.DataFrame, score: str) -> dict[str, float | None] | None:
    pairs = joined[[f"{score}_before", f"{score}_after", "subject"]].dropna()
    interval = paired_difference(pairs[f"{score}_before"], pairs[f"{score}_after"], pairs["subject"].to_numpy())
    return asdict(interval) if interval else None


def _method(rows: pd.DataFrame, method: Method) -> dict[str, Any]:
    readable = rows[~rows["outcome"].isin(["missing", "unreadable"])]
    sizes = [
        (label, readable[readable["face_size"].between(low, high, inclusive="left")]) for low, high, label in FACE_SIZES
    ]
    return {
        "method": method.name,
        "label": method.label,
        "kind": method.kind,
        "n": len(readable),
        "outcomes": {outcome: int(n) for outcome, n in rows["outcome"].value_counts().items()},
        "ip": _interval(readable, "ip"),
        "pc": _interval(readable, "pc"),
        "detection_rate": _interval(readable.assign(found=readable["face_x0"].notna()), "found"),
        "context_change_inside": _interval(readable, "context_change_inside") if method.kind != "prior" else None,
        "context_change_outside": _interval(readable, "context_change_outside") if method.kind != "prior" else None,
        "by_category": _groups(readable, "category"),
        "by_subject": _groups(readable, "subject"),
        "by_prompt": _groups(readable, "prompt_id"),
        "by_face_size": {label: _scores(chosen) for label, chosen in sizes},
    }


def _groups(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    return {str(name): _scores(group) for name, group in rows.groupby(column, sort=True)}


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    return {"n": len(rows), "ip": _interval(rows, "ip"), "pc": _interval(rows, "pc")}


def _interval(rows: pd.DataFrame, column: str) -> dict[str, float | None]:
    """Mean, interval and standard deviation of the values that exist; all None when there is none."""
    known = rows[rows[column].notna()]
    interval = bootstrap_interval(known[column].to_numpy(), known["subject"].to_numpy())
    return asdict(interval) if interval else dict.fromkeys(("mean", "low", "high", "std"))
