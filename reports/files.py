"""Typed reading of the result files: every problem becomes a `CorruptFileError` that names the file and the field.

Nothing here knows what a report looks like. A file that is absent is the caller's business (the functions say None or
[]); a file that is there and wrong is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, get_args

import pandas as pd
from pydantic import ValidationError

from reports.errors import CorruptFileError
from reports.formats import FileModel, Metric, Outcome

Model = TypeVar("Model", bound=FileModel)

KEY = ["method", "subject", "prompt_id", "seed"]
TEXT_COLUMNS = ["method", "subject", "word", "prompt_id", "category", "prompt", "image", "outcome"]
RANGES = {"ip": (0.0, 1.0), "pc": (-1.0, 1.0)}
OPTIONAL_NUMBERS = ["face_size", "context_change_inside", "context_change_outside", "generation_seconds"]


def read_json(path: Path) -> Any:
    """The parsed file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as problem:
        raise CorruptFileError(path, "", f"is not readable JSON ({problem})") from problem


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The parsed file, which must hold a JSON object, or None where there is none."""
    value = read_json(path)
    if value is not None and not isinstance(value, dict):
        raise CorruptFileError(path, "", f"holds a {type(value).__name__} where an object is expected")
    return value


def read_model(path: Path, model: type[Model]) -> Model | None:
    """The file as `model`, or None where there is none."""
    value = read_json(path)
    return None if value is None else _validate(path, "", value, model)


def _validate(path: Path, prefix: str, value: Any, model: type[Model]) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = ".".join([prefix] * bool(prefix) + [str(part) for part in first["loc"]])
        raise CorruptFileError(path, field, first["msg"]) from problem


def read_lines(path: Path, model: type[Model]) -> Iterator[Model]:
    """Each line of a JSONL file as `model`; nothing where there is no file.

    A last line without its newline is a line still being written (a training run that goes on) and is passed over.
    """
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                value = json.loads(line, parse_constant=_no_constant)
            except ValueError as problem:
                raise CorruptFileError(path, f"line {number}", f"is not JSON ({problem})") from problem
            yield _validate(path, f"line {number}", value, model)


def read_metrics(path: Path) -> list[Metric]:
    """The training log by step. A resumed run logs some steps twice: the weights went through the later one."""
    by_step = {metric.step: metric for metric in read_lines(path, Metric)}
    return [by_step[step] for step in sorted(by_step)]


def read_scores(folder: Path) -> pd.DataFrame | None:
    """The rows of an evaluation folder, checked and sorted by key; None where neither scores.parquet nor scores.csv
    is there."""
    path = next((folder / name for name in ("scores.parquet", "scores.csv") if (folder / name).is_file()), None)
    if path is None:
        return None
    try:
        text = {name: str for name in TEXT_COLUMNS}
        rows = (
            pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=text, keep_default_na=True)
        )
    except Exception as problem:  # pyarrow and pandas raise a dozen unrelated types on a broken file
        raise CorruptFileError(path, "", f"is not a readable table ({problem})") from problem
    return _check_scores(path, rows)


def _check_scores(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    for name in [*TEXT_COLUMNS, "seed", *RANGES]:
        if name not in rows:
            raise CorruptFileError(path, f"column {name}", "is missing")
    rows = rows.reindex(columns=[*rows.columns, *(name for name in OPTIONAL_NUMBERS if name not in rows)])
    for name in ["seed", *RANGES, *OPTIONAL_NUMBERS]:
        try:
            rows[name] = pd.to_numeric(rows[name])
        except (ValueError, TypeError) as problem:
            raise CorruptFileError(
                path, f"column {name}", f"holds something that is no number ({problem})"
            ) from problem
    for name in [column for column in TEXT_COLUMNS if column != "image"] + ["seed"]:
        if rows[name].isna().any():
            raise CorruptFileError(
                path, f"column {name}", f"is empty in row {int(rows[name].isna().to_numpy().argmax())}"
            )
    for name, (low, high) in RANGES.items():
        outside = rows[(rows[name] < low - 1e-6) | (rows[name] > high + 1e-6)]
        if len(outside):
            raise CorruptFileError(path, f"column {name}", f"holds {outside[name].iloc[0]}, outside {low}..{high}")
    unknown = set(rows["outcome"]) - set(get_args(Outcome))
    if unknown:
        raise CorruptFileError(path, "column outcome", f"holds {sorted(unknown)}, known are {list(get_args(Outcome))}")
    if rows.duplicated(KEY).any():
        raise CorruptFileError(path, "columns " + ", ".join(KEY), "hold the same key twice")
    for name in ("image", "subject"):
        for value in rows[name].dropna().unique():
            if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts:
                raise CorruptFileError(path, f"column {name}", f"{value!r} leaves the evaluation folder")
    rows["seed"] = rows["seed"].astype(int)
    return rows.sort_values(KEY, ignore_index=True)


def write_text(path: Path, text: str) -> Path:
    """Writes to a temporary name in the same folder, then renames: a reader sees the old page or the new one, never
    half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
