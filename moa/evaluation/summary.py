"""Tables out of rows: `summary.json`, recomputed from the scores whenever it is wanted. Format: datasets/FORMAT.md,
section 6.

A mean is over images, an interval over identities (see `intervals.bootstrap_interval`). IP of an image without a face
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
from moa.evaluation.claims import make_claims
from moa.evaluation.generate import Method
from moa.evaluation.intervals import Interval
from moa.evaluation.score import CHANGE_COLUMNS, DIVERSITY_COLUMNS
from moa.evaluation.suite import Suite
from moa.evaluation.tables import MATCH, as_people, difference, interval, readable, with_followed

FORMAT = "moa-evaluation/3"
# shares of the image height; the paper notes that IP falls with the face's size (section 4)
FACE_SIZES = ((0.0, 0.15, "below 15 %"), (0.15, 0.3, "15 to 30 %"), (0.3, np.inf, "30 % and more"))
COMPARED = ("ip", "pc", "context_change_outside")


def summarise(
    rows: pd.DataFrame,
    suite: Suite,
    methods: Sequence[Method],
    provenance: dict[str, Any],
    *,
    pairs: pd.DataFrame | None = None,
    router: dict[str, Any] | None = None,
    upper_bound: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`.

    `pairs` is the table of images of two subjects, `router` the content of router.json, `upper_bound` one row per
    subject who has a second photograph (`subject`, `ip`); None where the suite measures no such thing. Raises
    `ScoresError` when a method has no rows or a row's method is not named.
    """
    named = {method.name for method in methods}
    if named != set(rows["method"]):
        raise ScoresError(
            f"the rows hold methods {sorted(set(rows['method']))}, the summary is asked for {sorted(named)}"
        )
    return {
        "format": FORMAT,
        "suite": suite.name,
        "version": suite.version,
        "methods": [_method(with_followed(rows), method) for method in methods],
        "upper_bound": _upper_bound(upper_bound),
        "comparisons": _comparisons(rows, methods),
        "pairs": [_pair_method(as_people(pairs), method) for method in methods] if pairs is not None else None,
        "claims": make_claims(rows, methods, pairs=pairs, router=router, upper_bound=upper_bound),
        "published": [row.model_dump() for row in suite.published],
        "provenance": provenance,
    }


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Paired comparison of one method in two runs, `{"ip": after - before, "pc": ...}` with intervals over identities.

    Rows are matched by subject, prompt and seed; all must match. Raises `ScoresError` naming how many do not, as
    when the two runs used different suites or versions of one.
    """
    joined = before[MATCH].merge(after[MATCH], how="outer", indicator=True)
    alone = int((joined["_merge"] != "both").sum())
    if alone:
        raise ScoresError(
            f"{alone} of {len(joined)} rows exist in one run only; compare runs of the same suite and version"
        )
    return {score: _or_null(difference(before, after, score)) for score in ("ip", "pc")} | {"n": len(joined)}


def _method(rows: pd.DataFrame, method: Method) -> dict[str, Any]:
    known = readable(rows, method.name)
    sizes = [(label, known[known["face_size"].between(low, high, inclusive="left")]) for low, high, label in FACE_SIZES]
    return {
        "method": method.name,
        "label": method.label,
        "kind": method.kind,
        "role": method.role,
        "compared_with": method.compared_with,
        **_scores(known),
        "outcomes": _outcomes(rows, method),
        "detection_rate": _or_empty(interval(known.assign(found=known["face_x0"].notna()), "found")),
        **{column: _or_null(interval(known, column)) for column in (*CHANGE_COLUMNS, *DIVERSITY_COLUMNS)},
        "by_category": _groups(known, "category"),
        "by_subject": _groups(known, "subject"),
        "by_prompt": _groups(known, "prompt_id"),
        "by_face_size": {label: _scores(chosen) for label, chosen in sizes},
    }


def _pair_method(pairs: pd.DataFrame, method: Method) -> dict[str, Any]:
    """Scores of the images of two; their intervals are over pairs of subjects."""
    known = readable(pairs, method.name)
    return {
        "method": method.name,
        "label": method.label,
        "kind": method.kind,
        "n": len(known),
        **{column: _or_empty(interval(known, column)) for column in ("ip", "pc", "leakage", "assigned")},
        "two_faces": _or_empty(interval(known.assign(two=known["faces"] >= 2), "two")),
        "outcomes": _outcomes(pairs, method),
    }


def _comparisons(rows: pd.DataFrame, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """MoA against each other method, over the images both have."""
    moa = next((method for method in methods if method.kind == "moa"), None)
    if moa is None:
        return []
    after = readable(rows, moa.name)
    return [
        {"before": method.name, "after": moa.name, "n": len(before[MATCH].merge(after[MATCH]))}
        | {column: _or_null(difference(before, after, column)) for column in COMPARED}
        for method in methods
        if method is not moa
        for before in [readable(rows, method.name)]
    ]


def _upper_bound(bound: pd.DataFrame | None) -> dict[str, Any] | None:
    found = None if bound is None else interval(bound, "ip")
    return None if bound is None or found is None else {"n": int(bound["ip"].notna().sum()), "ip": asdict(found)}


def _groups(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    return {str(name): _scores(group) for name, group in rows.groupby(column, sort=True)}


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": len(rows),
        "ip": _or_empty(interval(rows, "ip")),
        "pc": _or_empty(interval(rows, "pc")),
        "followed": _or_null(interval(rows, "followed")),
    }


def _outcomes(rows: pd.DataFrame, method: Method) -> dict[str, int]:
    counts = rows.loc[rows["method"] == method.name, "outcome"].value_counts()
    return {str(outcome): int(n) for outcome, n in counts.items()}


def _or_null(found: Interval | None) -> dict[str, float | None] | None:
    return asdict(found) if found else None


def _or_empty(found: Interval | None) -> dict[str, float | None]:
    """For scores every image should have: nulls where none has."""
    return asdict(found) if found else dict.fromkeys(("mean", "low", "high", "std"))
