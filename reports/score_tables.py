"""The tables of an evaluation folder, one row per image: `scores` (one subject) and `pairs` (two subjects), checked
against datasets/FORMAT.md section 6. Every problem is a `CorruptFileError` that names the file and the column."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd

from reports.errors import CorruptFileError
from reports.evaluation_format import Outcome, PairOutcome, inside


@dataclass(frozen=True)
class TableFormat:
    """What a table must hold. `ranges` are the scores with their bounds, `measurements` other numbers, which may be
    absent; `paths` are text columns that name files or folders; `key` names a row."""

    name: str
    key: tuple[str, ...]
    text: tuple[str, ...]
    paths: tuple[str, ...]
    ranges: dict[str, tuple[float, float]]
    measurements: tuple[str, ...]
    outcomes: tuple[str, ...]


SCORES = TableFormat(
    name="scores",
    key=("method", "subject", "prompt_id", "seed"),
    text=("method", "subject", "word", "prompt_id", "category", "prompt", "image", "outcome"),
    paths=("image", "subject"),
    ranges={"ip": (0.0, 1.0), "pc": (-1.0, 1.0)},
    measurements=(
        *("pc_rank", "face_size", "context_change_inside", "context_change_outside"),
        *("swap_change_inside", "swap_change_outside", "diversity_layout", "diversity_content", "generation_seconds"),
    ),
    outcomes=get_args(Outcome),
)

PAIRS = TableFormat(
    name="pairs",
    key=("method", "first", "second", "prompt_id", "seed"),
    text=("method", "first", "second", "first_word", "second_word", "prompt_id", "prompt", "image", "outcome"),
    paths=("image", "first", "second"),
    ranges={"ip": (0.0, 1.0), "ip_first": (0.0, 1.0), "ip_second": (0.0, 1.0), "pc": (-1.0, 1.0)},
    measurements=("faces", "leakage", "assigned", "reference_similarity"),
    outcomes=get_args(PairOutcome),
)


def read_table(folder: Path, expected: TableFormat) -> pd.DataFrame | None:
    """The rows of `<name>.parquet`, else of `<name>.csv`, checked and sorted by key; None where neither is there."""
    names = (f"{expected.name}.parquet", f"{expected.name}.csv")
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        text = dict.fromkeys(expected.text, str)
        rows = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=text)
    except Exception as problem:  # pyarrow and pandas raise a dozen unrelated types on a broken file
        raise CorruptFileError(path, "", f"is not a readable table ({problem})") from problem
    rows = _with_numbers(path, rows, expected)
    _check_text(path, rows, expected)
    _check_values(path, rows, expected)
    rows["seed"] = rows["seed"].astype(int)
    return rows.sort_values(list(expected.key), ignore_index=True)


def _with_numbers(path: Path, rows: pd.DataFrame, expected: TableFormat) -> pd.DataFrame:
    """The rows with every number as a number; measurements that are absent become empty columns."""
    for name in [*expected.text, "seed", *expected.ranges]:
        if name not in rows:
            raise CorruptFileError(path, f"column {name}", "is missing")
    absent = [name for name in expected.measurements if name not in rows]
    rows = rows.reindex(columns=[*rows.columns, *absent])
    for name in ["seed", *expected.ranges, *expected.measurements]:
        try:
            rows[name] = pd.to_numeric(rows[name])
        except (ValueError, TypeError) as problem:
            raise CorruptFileError(
                path, f"column {name}", f"holds something that is no number ({problem})"
            ) from problem
    return rows


def _check_text(path: Path, rows: pd.DataFrame, expected: TableFormat) -> None:
    """A text is text, none but the image may be empty, and no path may leave the folder."""
    for name in expected.text:
        if strange := [value for value in rows[name].dropna().unique() if not isinstance(value, str)]:
            raise CorruptFileError(path, f"column {name}", f"holds {strange[0]}, which is no text")
    for name in [column for column in expected.text if column != "image"] + ["seed"]:
        if rows[name].isna().any():
            raise CorruptFileError(
                path, f"column {name}", f"is empty in row {int(rows[name].isna().to_numpy().argmax())}"
            )
    for name in expected.paths:
        for value in rows[name].dropna().unique():
            try:
                inside(value)
            except ValueError as problem:
                raise CorruptFileError(path, f"column {name}", str(problem)) from problem


def _check_values(path: Path, rows: pd.DataFrame, expected: TableFormat) -> None:
    """Whole seeds, scores inside their bounds, known outcomes, each key once."""
    strange = rows.loc[(rows["seed"] % 1 != 0) | (rows["seed"].abs() >= 2.0**63), "seed"]
    if len(strange):
        raise CorruptFileError(path, "column seed", f"holds {strange.iloc[0]}, which is no whole number of 64 bits")
    for name, (low, high) in expected.ranges.items():
        outside = rows[(rows[name] < low - 1e-6) | (rows[name] > high + 1e-6)]
        if len(outside):
            raise CorruptFileError(path, f"column {name}", f"holds {outside[name].iloc[0]}, outside {low}..{high}")
    unknown = set(rows["outcome"]) - set(expected.outcomes)
    if unknown:
        raise CorruptFileError(path, "column outcome", f"holds {sorted(unknown)}, known are {list(expected.outcomes)}")
    if rows.duplicated(list(expected.key)).any():
        raise CorruptFileError(path, "columns " + ", ".join(expected.key), "hold the same key twice")
