"""The tables of one evaluation: breakdowns and outcomes. Means and intervals come from summary.json as they are."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from reports.formats import Breakdown, MethodSummary
from reports.run_folder import Evaluation
from reports.shots import OUTCOMES


@dataclass(frozen=True)
class BreakdownTable:
    """`rows` are (key, note, scores per method); scores parallel to `methods`, None where one lacks the key."""

    title: str
    key_heading: str
    methods: list[MethodSummary]
    rows: list[tuple[str, str, list[Breakdown | None]]]


def breakdowns(evaluation: Evaluation, rows: pd.DataFrame | None) -> list[BreakdownTable]:
    """By category, prompt, subject and face size; a table nobody filled is left out."""
    wanted: list[tuple[str, str, str, dict[str, str]]] = [
        ("By category", "Category", "by_category", {}),
        ("By prompt", "Prompt", "by_prompt", _prompt_texts(evaluation, rows)),
        ("By subject", "Subject", "by_subject", _words(rows)),
        ("By face size", "Height of the found face, share of the image", "by_face_size", {}),
    ]
    tables = [_breakdown(evaluation.methods, *table) for table in wanted]
    return [table for table in tables if table.rows]


def _breakdown(
    methods: list[MethodSummary], title: str, heading: str, name: str, notes: dict[str, str]
) -> BreakdownTable:
    keys = list(dict.fromkeys([*notes, *(key for method in methods for key in getattr(method, name))]))
    rows = [(key, notes.get(key, ""), [getattr(method, name).get(key) for method in methods]) for key in keys]
    return BreakdownTable(title, heading, methods, [row for row in rows if any(row[2])])


def _prompt_texts(evaluation: Evaluation, rows: pd.DataFrame | None) -> dict[str, str]:
    if evaluation.suite and evaluation.suite.prompts:
        return {prompt.id: prompt.text.replace("{word}", "…") for prompt in evaluation.suite.prompts}
    return {} if rows is None else dict(zip(rows["prompt_id"], rows["prompt"], strict=True))


def _words(rows: pd.DataFrame | None) -> dict[str, str]:
    return {} if rows is None else dict(sorted(zip(rows["subject"], rows["word"], strict=True)))


def outcome_counts(methods: list[MethodSummary], rows: pd.DataFrame) -> list[tuple[str, list[int]]]:
    """(outcome in words, images of each method with it); outcomes that never happened are left out."""
    counts = pd.crosstab(rows["outcome"], rows["method"])
    return [
        (OUTCOMES[name], [int(counts[m.method][name]) if m.method in counts else 0 for m in methods])
        for name in OUTCOMES
        if name in counts.index
    ]
