"""Statistics of tables of rows: the interval of a column, and the difference and ratio of two tables matched by key.

Images that are missing or unreadable are in no statistic, and null measurements in none of their column.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moa.evaluation.intervals import Interval, bootstrap_interval, paired_difference, ratio_of_means

MATCH = ["subject", "prompt_id", "seed"]  # what rows of two methods, or of two runs, are matched by


def readable(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """The rows of a method whose image could be read."""
    return rows[(rows["method"] == method) & ~rows["outcome"].isin(["missing", "unreadable"])]


def with_followed(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with a column `followed`: 1 where CLIP ranks the image's own prompt first, 0 where not, null where there
    was no rank."""
    return rows.assign(followed=(rows["pc_rank"] == 1).astype("float64").where(rows["pc_rank"].notna()))


def as_people(pairs: pd.DataFrame) -> pd.DataFrame:
    """Rows of two subjects with the pair in the place of the subject, since a pair is what these images share."""
    return pairs.assign(subject=pairs["first"] + "+" + pairs["second"])


def interval(rows: pd.DataFrame, column: str) -> Interval | None:
    """Mean of a column with its interval over subjects; None where nothing was measured."""
    known = rows[rows[column].notna()]
    return bootstrap_interval(known[column].to_numpy(np.float64), known["subject"].to_numpy())


def difference(before: pd.DataFrame, after: pd.DataFrame, column: str) -> Interval | None:
    """`after - before` over the rows both have; None where there are none."""
    return paired_difference(*_matched(before, after, column))


def ratio(before: pd.DataFrame, after: pd.DataFrame, column: str) -> Interval | None:
    """Mean of `after` over mean of `before`, of the rows both have; None where there are none."""
    a, b, who = _matched(before, after, column)
    return ratio_of_means(b, a, who)


def _matched(before: pd.DataFrame, after: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wanted = [*MATCH, column]
    both = before[wanted].merge(after[wanted], on=MATCH, suffixes=("_before", "_after")).dropna()
    a, b = (both[f"{column}_{side}"].to_numpy(np.float64) for side in ("before", "after"))
    return a, b, both["subject"].to_numpy()
