"""Tables out of rows: `summary.json`, recomputed from the scores whenever it is wanted. Format: datasets/FORMAT.md,
section 6.

A mean is over images, an interval over identities (see `tables`, `intervals.bootstrap_interval`), and every statistic
says over how many images it is. IP of an image without a face is 0, as in the published protocol; images that are
missing or unreadable are in no mean, are counted under `outcomes` and named under `unscored`.
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
from moa.evaluation.intervals import Interval, bootstrap_interval
from moa.evaluation.score_tables import CHANGE_COLUMNS, DIVERSITY_COLUMNS, SHOWN_COLUMNS
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.suite import Suite
from moa.evaluation.tables import MATCH, as_swaps, difference, interval, readable, with_followed

FORMAT = "moa-evaluation/5"
# shares of the image height; the paper notes that IP falls with the face's size (section 4)
FACE_SIZES = ((0.0, 0.15, "below 15 %"), (0.15, 0.3, "15 to 30 %"), (0.3, np.inf, "30 % and more"))
STAYED_COLUMNS = [column for column in CHANGE_COLUMNS if not column.startswith("swap")]  # those are not of one person
COMPARED = ("ip", "pc", *SHOWN_COLUMNS, "context_change_outside")
UNSCORED = {  # outcomes that are the input's fault; "no face in the image" is the model's, and counts as IP 0
    "missing": "the image is missing",
    "unreadable": "the image cannot be read",
    "no_reference_face": "no face was found in the reference: IP cannot be measured",
}


def summarise(
    rows: pd.DataFrame,
    suite: Suite,
    methods: Sequence[Method],
    provenance: dict[str, Any],
    *,
    subjects: Sequence[SuiteSubject] = (),
    swaps: pd.DataFrame | None = None,
    pairs: pd.DataFrame | None = None,
    router: dict[str, Any] | None = None,
    upper_bound: pd.DataFrame | None = None,
    environment: dict[str, Any] | None = None,
    yardstick: str | None = None,
) -> dict[str, Any]:
    """The content of `summary.json`.

    `swaps` is the table of comparisons of two people, `pairs` that of images of two, `router` the content of
    router.json, `upper_bound` one row per subject who has a second photograph (`subject`, `ip`); None where the suite
    measures no such thing. `subjects` are asked for their problems, `yardstick` is `yardstick_digest`'s. Raises
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
        "yardstick": yardstick,
        "methods": [_method(with_followed(rows), method) | _swaps(swaps, method) for method in methods],
        "upper_bound": _upper_bound(upper_bound),
        "comparisons": _comparisons(rows, methods),
        "pairs": [_pair_method(pairs, method) for method in methods] if pairs is not None else None,
        "claims": make_claims(rows, methods, swaps=swaps, pairs=pairs, router=router, upper_bound=upper_bound),
        "published": [row.model_dump() for row in suite.published],
        "unscored": unscored(rows, pairs, subjects),
        "provenance": provenance,
        "environment": environment or {},
    }


def unscored(rows: pd.DataFrame, pairs: pd.DataFrame | None, subjects: Sequence[SuiteSubject]) -> list[dict[str, str]]:
    """What could not be scored and why: a line for each subject without a usable reference and for each image."""
    found = {f"subject {subject.id}": subject.problem for subject in subjects if subject.problem}
    for row in rows[rows["outcome"].isin(list(UNSCORED))].itertuples():
        of_a_subject = row.outcome == "no_reference_face"
        found.setdefault(f"subject {row.subject}" if of_a_subject else row.image, UNSCORED[row.outcome])
    lost = None if pairs is None else pairs[pairs["outcome"].isin(["missing", "unreadable"])]
    for row in () if lost is None else lost.itertuples():
        found.setdefault(row.image, UNSCORED[row.outcome])
    return [{"what": what, "why": why} for what, why in found.items()]


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Paired differences `after - before` of two tables of readable rows: `n` pairs, and a statistic or null for each
    of `COMPARED`."""
    statistics = {column: _or_null(difference(before, after, column)) for column in COMPARED}
    return {"n": len(before[MATCH].merge(after[MATCH]))} | statistics


def _method(rows: pd.DataFrame, method: Method) -> dict[str, Any]:
    known = readable(rows, method)
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
        **{column: _or_null(interval(known, column)) for column in (*STAYED_COLUMNS, *DIVERSITY_COLUMNS)},
        "by_category": _groups(known, "category"),
        "by_subject": _groups(known, "subject"),
        "by_prompt": _groups(known, "prompt_id"),
        "by_face_size": {label: _scores(chosen) for label, chosen in sizes},
    }


def _swaps(swaps: pd.DataFrame | None, method: Method) -> dict[str, Any]:
    """Means over comparisons of two people; their intervals are over the people."""
    known = None if swaps is None else as_swaps(swaps, method)
    return {
        f"swap_{column}": _or_null(interval(known, column)) if known is not None else None
        for column in ("change_inside", "change_outside")
    }


def _pair_method(pairs: pd.DataFrame, method: Method) -> dict[str, Any]:
    """Scores of the images of two; their intervals are over the people of the pairs."""
    known = readable(pairs, method)
    return {
        "method": method.name,
        "label": method.label,
        "kind": method.kind,
        "n": known["image"].nunique(),
        **{column: _or_empty(interval(known, column)) for column in ("ip", "pc", "leakage", "assigned")},
        "two_faces": _or_empty(interval(known.assign(two=known["faces"] >= 2), "two")),
        "outcomes": _outcomes(pairs, method),
    }


def _comparisons(rows: pd.DataFrame, methods: Sequence[Method]) -> list[dict[str, Any]]:
    """MoA against each other method on its base, and MoA on another base against the prior there, over the images both
    have. Methods on two bases differ in two things: they are not compared."""
    moa = next((method for method in methods if method.kind == "moa"), None)
    if moa is None:
        return []
    named, base = {method.name: method for method in methods}, moa.compared_with
    pairs = [(method, moa) for method in methods if method is not moa and base in (method.name, method.compared_with)]
    pairs += [(named[method.compared_with], method) for method in methods if method.compared_with not in (None, base)]
    return [
        {"before": before.name, "after": after.name} | compare(readable(rows, before), readable(rows, after))
        for before, after in pairs
    ]


def _upper_bound(bound: pd.DataFrame | None) -> dict[str, Any] | None:
    known = None if bound is None else bound.dropna(subset=["ip"])
    found = None if known is None else bootstrap_interval(known["ip"].to_numpy(), known["subject"].to_numpy())
    return None if found is None else {"n": found.n, "ip": asdict(found)}


def _groups(rows: pd.DataFrame, column: str) -> dict[str, Any]:
    return {str(name): _scores(group) for name, group in rows.groupby(column, sort=True)}


def _scores(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "n": rows["image"].nunique(),
        "ip": _or_empty(interval(rows, "ip")),
        "pc": _or_empty(interval(rows, "pc")),
        **{column: _or_null(interval(rows, column)) for column in ("followed", *SHOWN_COLUMNS)},
    }


def _outcomes(rows: pd.DataFrame, method: Method) -> dict[str, int]:
    counts = rows.loc[rows["method"] == method.name, "outcome"].value_counts()
    return {str(outcome): int(n) for outcome, n in counts.items()}


def _or_null(found: Interval | None) -> dict[str, float | None] | None:
    return asdict(found) if found else None


def _or_empty(found: Interval | None) -> dict[str, float | None]:
    """For scores every image should have: nulls where none has."""
    return asdict(found) if found else {"n": 0, **dict.fromkeys(("mean", "low", "high", "std"))}
