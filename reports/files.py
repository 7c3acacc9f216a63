"""Typed reading of the JSON files: every problem becomes a `CorruptFileError` that names the file and the field.

Nothing here knows what a report looks like. A file that is absent is the caller's business (the functions say None or
[]); a file that is there and wrong is an error. The tables of an evaluation are read by `reports.score_tables`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from reports.errors import CorruptFileError, ReportError
from reports.formats import FileModel, Metric

Model = TypeVar("Model", bound=FileModel)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not allowed")


JSON = json.JSONDecoder(parse_constant=_no_constant)  # made once: a training log has thousands of lines


def read_json(path: Path) -> Any:
    """The parsed file, or None where there is none."""
    try:
        return JSON.decode(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as problem:
        raise CorruptFileError(path, "", f"is not readable JSON ({problem})") from problem


def read_mapping(path: Path) -> dict[str, Any] | None:
    """The parsed file, which must hold a JSON object, or None where there is none."""
    value = read_json(path)
    if value is not None and not isinstance(value, dict):
        raise CorruptFileError(path, "", f"holds a {type(value).__name__} where an object is expected")
    return value


def read_model(path: Path, model: type[Model]) -> Model | None:
    """The file as `model`, or None where there is none."""
    value = read_json(path)
    return None if value is None else as_model(path, value, model)


def as_model(path: Path, value: Any, model: type[Model], place: str = "") -> Model:
    """What was read from `path`, at that `place` in it, as `model`."""
    try:
        return model.model_validate(value)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        field = ".".join([place] * bool(place) + [str(part) for part in first["loc"]])
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
                value = JSON.decode(line)
            except (ValueError, RecursionError) as problem:
                raise CorruptFileError(path, f"line {number}", f"is not JSON ({problem})") from problem
            yield as_model(path, value, model, f"line {number}")


def read_metrics(path: Path) -> list[Metric]:
    """The training log by step: its line and its validation's in one. A resumed run logs some steps twice: the weights
    went through the later one."""
    by_step: dict[int, Metric] = {}
    for metric in read_lines(path, Metric):
        known = by_step.get(metric.step)
        by_step[metric.step] = known.model_copy(update=metric.model_dump(exclude_unset=True)) if known else metric
    return [by_step[step] for step in sorted(by_step)]


def write_text(path: Path, text: str) -> Path:
    """Writes to a temporary name in the same folder, flushes it to the disk and renames it: a reader sees the old page
    or the new one, never half. Raises `ReportError` where a folder has that name, and OSError, naming the page."""
    if path.is_dir():
        raise ReportError(f"{path} is a folder, and the page has that name: rename the folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a full disk does not say of which file
        raise
    return path
