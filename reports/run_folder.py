"""One run as a report sees it: everything of `runs/<name>/` that is there, and what is not there yet.

A part that is absent is None or empty and `Run.missing` says so in words; a part that is there and broken is a
`ReportError`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports.errors import RunNotFoundError
from reports.files import read_lines, read_mapping, read_metrics, read_model, read_scores
from reports.formats import (
    AdapterManifest,
    MethodSummary,
    Metric,
    Publication,
    Rejection,
    ShardManifest,
    Suite,
    Summary,
)

KIND_ORDER = {"prior": 0, "moa": 1, "ablation": 2}


@dataclass(frozen=True)
class Evaluation:
    """One finished suite: `folder` is `evaluation/<suite>`, `scores` has one row per image (None if only the summary
    is left)."""

    folder: Path
    summary: Summary
    suite: Suite | None
    scores: pd.DataFrame | None

    @property
    def title(self) -> str:
        return (self.suite and self.suite.title) or self.summary.suite

    @property
    def methods(self) -> list[MethodSummary]:
        """Prior first, then MoA, then the ablations, each in the order of the summary."""
        return sorted(self.summary.methods, key=lambda method: KIND_ORDER[method.kind])

    def first(self, kind: str) -> MethodSummary | None:
        """The first method of that kind, or None."""
        return next((method for method in self.methods if method.kind == kind), None)


@dataclass(frozen=True)
class Dataset:
    """The training data: its folder, and what the preprocessing said of it."""

    folder: Path
    manifest: ShardManifest
    quality: dict[str, Any]
    rejected: Counter[str]


@dataclass(frozen=True)
class Run:
    """`runs/<name>/`. `missing` holds sentences for people."""

    folder: Path
    lifecycle: dict[str, Any]
    config: dict[str, Any]
    metrics: list[Metric]
    adapter: AdapterManifest | None
    publication: Publication | None
    dataset: Dataset | None
    evaluations: list[Evaluation]
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def main(self) -> Evaluation | None:
        """The evaluation that speaks for the run: the one with the most images, ties by name."""
        return max(self.evaluations, key=lambda e: (sum(m.n for m in e.methods), e.summary.suite), default=None)


def read_run(folder: Path) -> Run:
    """Reads a run folder. Raises `RunNotFoundError` for a folder without any run file, `CorruptFileError` for a
    broken one."""
    folder = folder.resolve()
    missing: list[str] = []
    lifecycle = read_mapping(folder / "lifecycle.json") or {}
    config = read_mapping(folder / "config.json") or {}
    metrics = read_metrics(folder / "metrics.jsonl")
    adapter = read_model(folder / "export" / "manifest.json", AdapterManifest)
    publication = read_model(folder / "publication.json", Publication)
    evaluations = read_evaluations(folder / "evaluation", missing)
    if not (lifecycle or config or metrics or adapter or evaluations):
        raise RunNotFoundError(
            f"{folder} holds no run: expected config.json, metrics.jsonl or evaluation/ in it (datasets/FORMAT.md, 5)"
        )
    dataset = read_dataset(folder, config, lifecycle, missing)
    if not metrics:
        missing.append("Training has not logged a step: metrics.jsonl is absent or empty.")
    if adapter is None:
        missing.append("No adapter was exported: export/manifest.json is absent.")
    if publication is None:
        missing.append("Nothing was published: publication.json is absent.")
    return Run(folder, lifecycle, config, metrics, adapter, publication, dataset, evaluations, missing)


def read_evaluations(folder: Path, missing: list[str]) -> list[Evaluation]:
    """Each finished suite below `evaluation/`, by name."""
    found = []
    for suite in sorted(path for path in folder.glob("*") if path.is_dir()):
        summary = read_model(suite / "summary.json", Summary)
        if summary is None:
            missing.append(f"Evaluation {suite.name} is not finished: it has no summary.json.")
            continue
        scores = read_scores(suite)
        if scores is None:
            missing.append(f"Evaluation {suite.name} has no scores.parquet or scores.csv: its images cannot be shown.")
        found.append(Evaluation(suite, summary, read_model(suite / "suite.json", Suite), scores))
    if not found:
        missing.append("There is no evaluation yet: evaluation/ holds no finished suite.")
    return found


def shards_folder(folder: Path, config: dict[str, Any], lifecycle: dict[str, Any]) -> Path | None:
    """Where the run's shards are: `shards` of config.json, else `train.shards` or `preprocess.out` of lifecycle.json.

    A relative path is relative to the working directory of the training process, which is usually the folder above
    `runs/`.
    """
    wanted = [(config, "shards"), (lifecycle.get("train"), "shards"), (lifecycle.get("preprocess"), "out")]
    values = [part.get(name) for part, name in wanted if isinstance(part, dict)]
    named = [Path(value) for value in values if isinstance(value, str)]
    places = [base / path for path in named for base in (folder.parent.parent, Path.cwd())]
    return next((place for place in places if (place / "manifest.json").is_file()), None)


def read_dataset(folder: Path, config: dict[str, Any], lifecycle: dict[str, Any], missing: list[str]) -> Dataset | None:
    """The dataset the run was trained on, if its folder is still there."""
    shards = shards_folder(folder, config, lifecycle)
    manifest = read_model(shards / "manifest.json", ShardManifest) if shards else None
    if shards is None or manifest is None:
        missing.append(
            "The training data was not found: config.json and lifecycle.json name no folder with a manifest.json."
        )
        return None
    rejected = Counter(line.reason for line in read_lines(shards / "rejected.jsonl", Rejection))
    return Dataset(shards, manifest, read_mapping(shards / "quality.json") or {}, rejected)
