"""Tables of rows on disk, and their statistics: the interval of a column, and the difference and ratio of two tables
matched by key.

Images that are missing or unreadable are in no statistic, and null measurements in none of their column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moa.errors import ScoresError
from moa.evaluation.files import write_file
from moa.evaluation.intervals import Interval, bootstrap_interval, paired_difference, ratio_of_means

MATCH = ["subject", "prompt_id", "seed"]  # what rows of two methods, or of two runs, are matched by


def write_table(folder: Path, name: str, rows: pd.DataFrame) -> list[Path]:
    """Writes `<name>.parquet` and `<name>.csv` into `folder`; a null is an empty field in the CSV."""
    return [
        write_file(folder / f"{name}.parquet", lambda draft: rows.to_parquet(draft, index=False)),
        write_file(folder / f"{name}.csv", lambda draft: rows.to_csv(draft, index=False)),
    ]


def read_table(path: Path, columns: Sequence[str], key: Sequence[str]) -> pd.DataFrame:
    """The rows of a parquet file that must hold `columns`, and each `key` once. Raises `ScoresError` naming the file,
    and the column at fault."""
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ScoresError(f"{path}: cannot be read ({error}); run the evaluation again") from error
    missing = [column for column in columns if column not in rows]
    if missing:
        raise ScoresError(f"{path}: lacks column {missing[0]}; run the evaluation again")
    if rows.duplicated(list(key)).any():
        raise ScoresError(f"{path}: holds a ({', '.join(key)}) more than once; run the evaluation again")
    return rows


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
