"""What an evaluation left: its folder, its rows, and what could not be scored."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.errors import MissingInputError
from flows.files import read_json
from flows.settings import LifecycleConfig
from flows.stage import require
from moa.evaluation.suite import load_suite


def evaluation_folder(config: LifecycleConfig) -> Path:
    """`runs/<name>/evaluation/<suite>`."""
    return config.run / "evaluation" / load_suite(config.evaluate.suite).name


def read_summary(config: LifecycleConfig, candidate: str) -> dict[str, Any]:
    """The summary of the finished evaluation of the adapter with digest `candidate`.

    Raises MissingInputError when there is none, or the one there is measured another adapter.
    """
    folder = evaluation_folder(config)
    require(folder / "manifest.json", "evaluate")
    summary = read_json(require(folder / "summary.json", "evaluate"))
    if summary["provenance"]["adapter_digest"] != candidate:
        raise MissingInputError(
            f"{folder} is the evaluation of another adapter than the one that publication.json names: "
            "run `python -m flows.evaluate` with the same preset and name first."
        )
    return summary


def rows(evaluation: Path) -> Iterator[dict[str, str]]:
    """The rows of the scores, in their order."""
    with (evaluation / "scores.csv").open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def unscored(evaluation: Path) -> list[dict[str, str]]:
    """What could not be scored and why, as the evaluation named it: a line for each image, and for each subject without
    a usable reference."""
    return read_json(evaluation / "summary.json")["unscored"]


def told(problems: list[dict[str, str]]) -> str:
    """How many of each kind and the first, in a sentence; nothing where all was scored."""
    if not problems:
        return ""
    counted = Counter(problem["why"] for problem in problems)
    kinds = "; ".join(f"{count} x {why}" for why, count in counted.items())
    return f"Not everything could be scored, the rest was: {kinds}. First: {problems[0]['what']}."
