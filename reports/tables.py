"""The tables of one evaluation. Means and intervals come from summary.json as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.evaluation_format import Breakdown, Comparison, MethodSummary, Statistic
from reports.formats import Estimate, FileModel
from reports.run_folder import Evaluation
from reports.selection import distinct
from reports.shots import OUTCOMES


@dataclass(frozen=True)
class Column:
    """One score of a table: its heading, what it is, the field of the summary, and where better is ("↑", "↓", "")."""

    heading: str
    title: str
    field: str
    better: str = ""
    percent: bool = False


PROMPT_CONSISTENCY = "prompt consistency: how like the image is to the prompt, the cosine of CLIP's embeddings, −1 to 1"
MAIN = (
    Column(
        "IP",
        "identity preservation: how like the face is to the photograph's by a face embedder, 0 to 1; 0 without a face",
        "ip",
        "↑",
    ),
    Column("PC", PROMPT_CONSISTENCY, "pc", "↑"),
    Column(
        "Followed", "share of images whose own prompt ranks first among its category's by CLIP", "followed", "↑", True
    ),
    Column("Item shown", "share of images in which a classifier sees the item of the prompt", "item_shown", "↑", True),
    Column(
        "Scene shown", "share of images in which a classifier sees the scene of the prompt", "scene_shown", "↑", True
    ),
    Column("Faces found", "share of images with a face", "detection_rate", "↑", True),
    Column(
        "Scene change",
        "mean absolute difference to the prior's image outside the person, 0 to 1",
        "context_change_outside",
        "↓",
    ),
)
COMPARED = tuple(
    column for column in MAIN if column.field in ("ip", "pc", "item_shown", "scene_shown", "context_change_outside")
)
PARTS = tuple(column for column in MAIN if column.field in Breakdown.model_fields)
LOCALITY = (
    Column("Person, against the prior", "mean absolute difference inside the person", "context_change_inside"),
    Column("Scene, against the prior", "mean absolute difference outside the person", "context_change_outside", "↓"),
    Column("Person, under a swap", "against the other subjects, inside the person", "swap_change_inside"),
    Column("Scene, under a swap", "against the other subjects, outside the person", "swap_change_outside", "↓"),
    Column("Person, another seed", "the prior against itself, inside the person", "seed_change_inside"),
    Column("Scene, another seed", "the prior against itself, outside the person", "seed_change_outside"),
    Column("Layout diversity", "mean distance over seeds of pixels shrunk to 8 x 8", "diversity_layout", "↑"),
    Column("Content diversity", "mean distance over seeds of CLIP image embeddings", "diversity_content", "↑"),
)
PAIRS = (
    Column("IP", "the smaller similarity of the two people, 0 with fewer than two faces", "ip", "↑"),
    Column("Leakage", "similarity of each face to the other person", "leakage", "↓"),
    Column("Told apart", "share of images whose faces are nearer to their own person", "assigned", "↑", True),
    Column("Two faces", "share of images with two faces", "two_faces", "↑", True),
    Column("PC", PROMPT_CONSISTENCY, "pc", "↑"),
)


UNDECIDED = ("not told apart", "no interval")  # verdicts that name no side


def measured(columns: tuple[Column, ...], rows: Sequence[FileModel]) -> list[Column]:
    """The columns in which at least one row, a summary of a method or a comparison, has a figure."""
    return [c for c in columns if any((value := getattr(row, c.field)) and value.mean is not None for row in rows)]


@dataclass(frozen=True)
class ComparisonRow:
    """One method minus another: the shown one minus `method`, or `method`, on a base of its own, minus the prior there;
    `parts` are (difference, verdict) by the name of the score, without those that were not measured."""

    label: str
    method: str
    n: int
    parts: dict[str, tuple[Statistic, str]]


def comparison_rows(evaluation: Evaluation) -> list[ComparisonRow]:
    """The paired comparisons: the champion's first, then in the order of the methods."""
    order = [method.method for method in evaluation.methods]
    champion = evaluation.first("champion")

    def rank(comparison: Comparison) -> tuple[bool, bool, int]:
        own_base = comparison.after == evaluation.shown.method
        of_champion = champion is not None and comparison.before == champion.method
        return not of_champion, not own_base, order.index(comparison.before)

    return [comparison_row(evaluation, part) for part in sorted(evaluation.summary.comparisons, key=rank)]


def comparison_row(evaluation: Evaluation, comparison: Comparison) -> ComparisonRow:
    """One comparison in words."""
    after, before = evaluation.method(comparison.after), evaluation.method(comparison.before)
    assert after and before  # checked when the summary was read
    found = {column.field: getattr(comparison, column.field) for column in COMPARED}
    better = {column.field: column.better for column in COMPARED}
    parts = {
        name: (value, judged(value, better[name])) for name, value in found.items() if value and value.mean is not None
    }
    other = before if after is evaluation.shown else after
    return ComparisonRow(f"{after.label} minus “{before.label}”", other.method, comparison.n, parts)


def verdict(difference: Estimate) -> str:
    """What the interval of a difference says: larger or smaller only where it excludes 0."""
    if difference.excludes_zero is None or difference.mean is None:
        return "no interval"
    if not difference.excludes_zero:
        return "not told apart"
    return "higher" if difference.mean > 0 else "lower"


def judged(difference: Estimate, better: str) -> str:
    """The verdict on a difference of a score of which more ("↑") or less ("↓") is better."""
    said = verdict(difference)
    return said if said in UNDECIDED else "better" if (said == "higher") == (better == "↑") else "worse"


@dataclass(frozen=True)
class BreakdownTable:
    """`rows` are (key, note, scores per method); scores parallel to `methods`, None where one lacks the key. The page
    shows one table for each of `columns`."""

    title: str
    key_heading: str
    methods: list[MethodSummary]
    rows: list[tuple[str, str, list[Breakdown | None]]]

    @property
    def columns(self) -> list[Column]:
        """The scores that at least one cell holds."""
        return measured(PARTS, [part for _, _, found in self.rows for part in found if part])

    def filled(self, column: Column) -> list[tuple[str, str, list[Breakdown | None]]]:
        """The rows in which at least one method has that score."""
        return [row for row in self.rows if measured((column,), [part for part in row[2] if part])]


def breakdowns(evaluation: Evaluation, rows: pd.DataFrame | None) -> list[BreakdownTable]:
    """By category, prompt, subject and face size; a table nobody filled is left out."""
    wanted: list[tuple[str, str, str, dict[str, str]]] = [
        ("By category", "Category", "by_category", {}),
        ("By prompt", "Prompt", "by_prompt", _prompt_texts(evaluation, rows)),
        ("By subject", "Subject", "by_subject", _words(rows)),
        ("By face size", "Face height, share of the image", "by_face_size", {}),
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


@dataclass(frozen=True)
class OutcomeTable:
    """`rows` are (outcome in words, images of each of `methods` with it)."""

    title: str
    methods: list[MethodSummary]
    rows: list[tuple[str, list[int]]]


def outcome_table(title: str, methods: list[MethodSummary], rows: pd.DataFrame) -> OutcomeTable:
    """How many images came to each outcome, of the methods that have rows; what never happened is left out."""
    images = distinct(rows)
    counts = pd.crosstab(images["outcome"], images["method"])
    there = [method for method in methods if method.method in counts]
    found = [(OUTCOMES[o], [int(counts[m.method][o]) for m in there]) for o in OUTCOMES if o in counts.index]
    return OutcomeTable(title, there, found)
