"""What makes an evaluation folder complete: its inputs' digest, `suite.json` and, last, `manifest.json`.

Format: datasets/FORMAT.md, section 6.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from moa.data import file_digest
from moa.errors import EvaluationError
from moa.evaluation.files import json_digest, write_file, write_json
from moa.evaluation.generate import SAMPLING, Method
from moa.evaluation.score_tables import PAIRS, SCORES, SWAPS
from moa.evaluation.subjects import SuiteSubject
from moa.evaluation.suite import FolderSubjects, Suite
from moa.evaluation.summary import FORMAT
from moa.models import code_commit
from moa.pipeline import EXPERT_INTERVAL

END_OF_PNG = b"IEND\xaeB`\x82"


def inputs_digest(
    suite: Suite,
    subjects: Sequence[SuiteSubject],
    methods: Sequence[Method],
    evaluators: dict[str, Any],
    preparer: dict[str, Any] | None,
) -> str:
    """Digest of everything the results depend on, wherever on the machine it lies."""
    named = [[m.name, m.label, m.kind, m.compared_with, m.role, m.digest] for m in methods]
    others = [subject.other_digest for subject in subjects]
    sampling = [SAMPLING, EXPERT_INTERVAL]
    return json_digest([FORMAT, sampling, resolved(suite, subjects), others, named, evaluators, preparer])


def check_version(out: Path, suite: Suite) -> None:
    """Raises `EvaluationError` when `out` holds an evaluation of another suite, or of another version of this one."""
    try:
        there = json.loads((out / "suite.json").read_text(encoding="utf-8"))
        name, version = there["name"], there["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing there, or nothing readable: it is written anew
    if (name, version) != (suite.name, suite.version):
        raise EvaluationError(
            f"{out} holds an evaluation with suite {name} version {version}, and this is {suite.name} version "
            f"{suite.version}: their scores are not comparable. Move the old folder away, or give another "
            "--out (in a flow: another --name)"
        )


def is_complete(out: Path, suite: Suite, inputs: str) -> bool:
    """Whether `out` holds the finished evaluation of these inputs, with nothing deleted since, no table or summary
    changed (the CSVs, which nothing reads, are not looked at) and no image cut short."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        intact = all(file_digest(out / name) == digest for name, digest in manifest["files"].items())
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        tables = [table.read(out) for table in (SCORES, SWAPS, *([PAIRS] if suite.pairs else []))]
    except (OSError, ValueError, KeyError, EvaluationError):
        return False
    of_images = [rows[~rows["outcome"].isin(["missing", "no_reference"])] for rows in tables if "outcome" in rows]
    images = {image for rows in of_images for image in rows["image"]}
    return (
        manifest["inputs"] == inputs
        and intact
        and "yardstick" in summary  # not in those of before: it is written again, from what is there
        and manifest["rows"] == [rows_digest(rows) for rows in tables]
        and all(_is_whole(out / image) for image in images)
    )


def _is_whole(image: Path) -> bool:
    """Whether a PNG is there to its end."""
    try:
        with open(image, "rb") as file:
            file.seek(-len(END_OF_PNG), os.SEEK_END)
            return file.read() == END_OF_PNG
    except OSError:
        return False


def rows_digest(rows: pd.DataFrame) -> str:
    """Digest of a table without the seconds, which differ from run to run."""
    kept = rows.drop(columns="generation_seconds", errors="ignore")
    return json_digest(json.loads(kept.to_json(orient="values", double_precision=15)))


def write_suite(out: Path, suite: Suite, subjects: Sequence[SuiteSubject]) -> list[Path]:
    """Writes `suite.json` and `references/` and returns their paths."""
    files = [write_json(out / "suite.json", resolved(suite, subjects))]
    for subject in subjects:
        if subject.reference:
            save = partial(subject.reference.convert("RGBA").save, format="PNG")
            files.append(write_file(out / "references" / f"{subject.id}.png", save))
    return files


def write_manifest(
    out: Path,
    suite: Suite,
    methods: Sequence[Method],
    inputs: str,
    tables: Sequence[pd.DataFrame],
    files: Sequence[Path],
) -> Path:
    """Writes `manifest.json`: `tables` are scores, swaps and, for suites with pairs, their rows; `files` all else
    but images."""
    content = {
        "format": FORMAT,
        "suite": suite.name,
        "version": suite.version,
        "methods": {method.name: method.digest for method in methods},
        "inputs": inputs,
        "outcomes": {outcome: int(n) for outcome, n in tables[0]["outcome"].value_counts().items()},
        "rows": [rows_digest(rows) for rows in tables],
        "files": {path.relative_to(out).as_posix(): file_digest(path) for path in files},
    }
    manifest = content | {"digest": json_digest(content), "commit": code_commit()}
    return write_json(out / "manifest.json", manifest)


def resolved(suite: Suite, subjects: Sequence[SuiteSubject]) -> dict[str, Any]:
    """The content of suite.json: the declaration with its people, and file names instead of this machine's paths."""
    content = suite.model_dump(mode="json")
    for model in filter(None, content["evaluators"].values()):
        model["path"] = Path(model["path"]).name
    if isinstance(suite.subjects, FolderSubjects):
        content["subjects"]["root"] = None
    fields = ("id", "word", "source", "digest", "problem")
    content["people"] = [{field: getattr(subject, field) for field in fields} for subject in subjects]
    return content
