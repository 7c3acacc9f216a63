"""Which images a report shows. Every rule is deterministic and has a sentence in the page: nothing is picked by hand.

Pure functions over the rows of `scores` (one row per image, see `reports.score_tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pandas as pd

Item = TypeVar("Item")

# What an image without its faces is: the model's failure, which counts. Every other outcome is the input's.
FACELESS = {"no_face": "no face found (IP counts 0)", "too_few_faces": "fewer than two faces found (IP counts 0)"}
UNUSED = "could not be used"
RANDOM_SEED = 0  # of the "random" gallery: the same images whenever the report is rendered again


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spaced, first and last among them when count > 1."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[0]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(max(count, 0))]


def in_order(rows: pd.DataFrame, column: str, order: Sequence[str] = ()) -> list[str]:
    """The distinct values of a column: first those of `order`, in that order, then the others sorted."""
    present = set(rows[column])
    return [value for value in order if value in present] + sorted(present - set(order))


def typical_subjects(rows: pd.DataFrame, method: str, count: int) -> list[str]:
    """The subjects whose mean IP is nearest the median subject's, among those of the commonest class word.

    One class word, so that the prompt, and with it the prior's image at one seed, is the same for all of them.
    """
    of_method = rows[rows["method"] == method]
    words = of_method.groupby("word")["subject"].nunique()
    if words.empty:
        return []
    word = words.sort_index().sort_values(ascending=False, kind="stable").index[0]
    means = of_method[of_method["word"] == word].groupby("subject")["ip"].mean().fillna(0.0)
    distance = (means - means.median()).abs().sort_index().sort_values(kind="stable")
    return sorted(distance.index[:count])


def one_prompt_per_category(rows: pd.DataFrame, prompt_order: Sequence[str], count: int) -> list[str]:
    """The first prompt of each of the first `count` categories, in the order of the suite."""
    category = dict(zip(rows["prompt_id"], rows["category"], strict=True))
    first: dict[str, str] = {}
    for prompt in in_order(rows, "prompt_id", prompt_order):
        first.setdefault(category[prompt], prompt)
    return list(first.values())[:count]


def galleries(rows: pd.DataFrame, method: str, count: int) -> dict[str, pd.DataFrame]:
    """Best, median, worst and random images of one method by IP; images without a found face belong to `failures`."""
    scored = rows[(rows["method"] == method) & (rows["outcome"] == "scored")]
    ranked = scored.sort_values("ip", ascending=False, kind="stable")
    count = min(count, len(ranked))
    middle = max((len(ranked) - count) // 2, 0)
    return {
        "Best": ranked.head(count),
        "Median": ranked.iloc[middle : middle + count],
        "Worst": ranked.tail(count).iloc[::-1],
        "Random": scored.sample(count, random_state=RANDOM_SEED).sort_index(),
    }


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each image and outcome: a prior's image stands in a row for each person of its class word. Rows
    without an image stay."""
    return rows[rows["image"].isna() | ~rows.duplicated(["method", "outcome", "image"])]


def failures(rows: pd.DataFrame, method: str) -> dict[str, pd.DataFrame]:
    """The images of a method that were not scored, each once, by what that means; without those that never happened."""
    failed = distinct(rows[(rows["method"] == method) & (rows["outcome"] != "scored")])
    kinds = failed["outcome"].map(lambda outcome: FACELESS.get(outcome, UNUSED))
    return {kind: failed[kinds == kind] for kind in (*FACELESS.values(), UNUSED) if (kinds == kind).any()}
