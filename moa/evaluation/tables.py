"""Statistics of tables: the interval of a column, and the difference and ratio of two tables matched by key.

Images that could not be had or read are in no statistic, null measurements in none of their column. A prior's images
do not know the subject: people with one class word share them. Means are over the rows all the same, so that they fit
the paired ones, but each image counts once in `n`, and its own intervals are over prompts instead of subjects. What is
about two people (columns `unit` and `partner`) depends on both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moa.evaluation.generate import Method
from moa.evaluation.intervals import (
    Interval,
    bootstrap_interval,
    difference_of_ratios,
    paired_difference,
    ratio_of_means,
)

MATCH = ["subject", "prompt_id", "seed"]  # what rows of two methods, or of two runs, are matched by
UNREAD = ("missing", "unreadable", "no_reference")  # outcomes of rows without an image


def readable(rows: pd.DataFrame, method: Method) -> pd.DataFrame:
    """The rows of a method whose image could be read, with the column `unit` that its intervals are over, and
    `partner` where they are about two people."""
    known = rows[(rows["method"] == method.name) & ~rows["outcome"].isin(UNREAD)]
    if method.kind == "prior":
        return known.assign(unit=known["prompt_id"])
    if "second" in known:
        return known.assign(unit=known["first"], partner=known["second"])
    return known.assign(unit=known["subject"])


def units(rows: pd.DataFrame) -> np.ndarray:
    """What intervals of readable rows are over: `[n]`, or `[n, 2]` where each row is about two people."""
    return rows[["unit", "partner"] if "partner" in rows else "unit"].to_numpy(str)


def with_followed(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with a column `followed`: 1 where CLIP ranks the image's own prompt first, 0 where not, null where there
    was no rank."""
    return rows.assign(followed=(rows["pc_rank"] == 1).astype("float64").where(rows["pc_rank"].notna()))


def with_margin(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with a column `pc_margin`: how much nearer an image is to its own prompt than, on average, to the suite's
    others (cosines); null where there is no other."""
    return rows.assign(pc_margin=rows["pc"] - rows["pc_other"])


def as_swaps(swaps: pd.DataFrame, method: Method) -> pd.DataFrame:
    """The comparisons of a method's people as readable rows, which are matched by both people; an image counts once in
    each comparison."""
    people, images = swaps["first"] + "+" + swaps["second"], swaps["image"] + " " + swaps["other"]
    return readable(swaps.assign(subject=people, image=images, outcome="compared"), method)


def interval(rows: pd.DataFrame, column: str) -> Interval | None:
    """Mean of a column of readable rows with its interval; None where nothing was measured."""
    known = rows[rows[column].notna()]
    return bootstrap_interval(known[column].to_numpy(np.float64), units(known), images=known["image"].nunique())


def quotient(rows: pd.DataFrame, above: str, below: str) -> Interval | None:
    """Mean of one column over that of another, of the rows that have both; None where there are none."""
    known = rows.dropna(subset=[above, below])
    return ratio_of_means(known[above].to_numpy(), known[below].to_numpy(), units(known))


def difference(before: pd.DataFrame, after: pd.DataFrame, column: str) -> Interval | None:
    """`after - before` over the rows both have; None where there are none."""
    both = matched(before, after, [column])
    one, other = (both[f"{column}_{side}"].to_numpy() for side in ("before", "after"))
    return paired_difference(one, other, units(both), images=both["image"].nunique())


def ratio(before: pd.DataFrame, after: pd.DataFrame, column: str, of: str | None = None) -> Interval | None:
    """Mean of `after`'s column over that of `before`'s (its column `of`, if named), of the rows that have both; None
    where there are none."""
    before = before.assign(**{column: before[of]}) if of else before
    both = matched(before, after, [column])
    return ratio_of_means(both[f"{column}_after"].to_numpy(), both[f"{column}_before"].to_numpy(), units(both))


def quotient_difference(before: pd.DataFrame, after: pd.DataFrame, above: str, below: str) -> Interval | None:
    """`quotient` of `after` less that of `before`, over the rows both have; None where there are none."""
    both = matched(before, after, [above, below])
    one, other = (
        (both[f"{above}_{side}"].to_numpy(), both[f"{below}_{side}"].to_numpy()) for side in ("before", "after")
    )
    return difference_of_ratios(one, other, units(both))


def matched(before: pd.DataFrame, after: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows that both tables have with all of the columns, as `<column>_before` and `<column>_after`, with the units
    and the image of `after`."""
    own = [column for column in ("unit", "partner", "image") if column in after]
    one, other = before[[*MATCH, *columns]], after[[*MATCH, *own, *columns]]
    return one.merge(other, on=MATCH, suffixes=("_before", "_after")).dropna()
