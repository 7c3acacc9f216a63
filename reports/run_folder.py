"""One run as a report sees it: everything of `runs/<name>/` that is there, and what is not there yet.

A part that is absent is None or empty and `Run.missing` says so in words; a part that is there and broken is a
`ReportError`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from reports.errors import RunNotFoundError
from reports.evaluation_format import FORMAT, MethodSummary, RouterMaps, Suite, Summary
from reports.files import as_model, read_lines, read_mapping, read_metrics, read_model
from reports.formats import AdapterManifest, Gate, Metric, Promotion, Publication, Rejection, ShardManifest
from reports.score_tables import PAIRS, SCORES, read_table

KIND_ORDER = {"prior": 0, "moa": 1, "champion": 2, "ablation": 3}
OTHER_FORMAT = (
    "Evaluation {} has format {}, and this report reads {}: move evaluation/{} out of the run and evaluate again."
)
BEGUN_AGAIN = (
    "Evaluation {} is being evaluated again, or was interrupted (it has no manifest.json): its figures and pictures "
    "may not belong together."
)


@dataclass(frozen=True)
class Evaluation:
    """One suite with a summary: `folder` is `evaluation/<suite>`; `scores` has one row per image of one subject (None
    if only the summary is left), `pairs` one per image of two (None if the suite declares none), `router` the router
    maps. `caution` is "", or says why what is in the folder may not belong together."""

    folder: Path
    summary: Summary
    suite: Suite | None
    scores: pd.DataFrame | None
    pairs: pd.DataFrame | None
    router: RouterMaps | None
    caution: str

    @property
    def title(self) -> str:
        return (self.suite and self.suite.title) or self.summary.suite

    @property
    def methods(self) -> list[MethodSummary]:
        """The prior, MoA, the champion, the ablations, each kind in the order of the summary; the prior of another base
        stands before the method that is compared with it."""
        own = [m for m in self.summary.methods if m.kind != "prior" or m.method in self._base_priors]
        ordered: list[MethodSummary] = []
        for method in sorted(own, key=lambda m: KIND_ORDER[m.kind]):
            prior = self.method(method.compared_with)
            ordered += [prior] if prior and prior not in ordered and prior not in own else []
            ordered.append(method)
        return ordered

    @property
    def shown(self) -> MethodSummary:
        """The method the page is about: MoA, or the last one where there is none."""
        return self.first("moa") or self.methods[-1]

    @property
    def prior(self) -> MethodSummary | None:
        """The prior on the base of the shown method."""
        return self.method(self.shown.compared_with) or self.first("prior")

    @property
    def ablations(self) -> list[MethodSummary]:
        """The ablations, those that lack the MoA layers first."""
        found = [method for method in self.methods if method.kind == "ablation"]
        return sorted(found, key=lambda method: method.role != "no_moa")

    @property
    def _base_priors(self) -> set[str]:
        """The priors that are not there for an ablation on another base alone."""
        main = {m.compared_with for m in self.summary.methods if m.kind in ("moa", "champion")}
        other = {m.compared_with for m in self.summary.methods if m.kind == "ablation"} - main
        return {m.method for m in self.summary.methods if m.kind == "prior"} - other

    def method(self, name: str | None) -> MethodSummary | None:
        """The method of that name, or None."""
        return next((method for method in self.summary.methods if method.method == name), None)

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
    """`runs/<name>/`. `origin` is the adapter's own record of its training, `start` where the promoted adapter lies
    that it started from. `missing` holds sentences for people, `unevaluated` those of them about evaluations."""

    folder: Path
    lifecycle: dict[str, Any]
    config: dict[str, Any]
    metrics: list[Metric]
    adapter: AdapterManifest | None
    origin: dict[str, Any]
    start: dict[str, Any]
    publication: Publication | None
    promotion: Promotion | None
    gate: Gate | None
    dataset: Dataset | None
    evaluations: list[Evaluation]
    unevaluated: list[str]
    missing: list[str]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def main(self) -> Evaluation | None:
        """The evaluation that speaks for the run: the one with the most images, ties by name."""
        return max(self.evaluations, key=lambda e: (sum(m.n for m in e.methods), e.summary.suite), default=None)


def read_run(folder: Path, *, tables: bool = True) -> Run:
    """Reads a run folder, without `tables` of its evaluations the summaries alone: their rows cost most of the time.
    Raises `RunNotFoundError` for a folder without any run file, `CorruptFileError` for a broken one."""
    folder = folder.resolve()
    unevaluated: list[str] = []
    lifecycle = read_mapping(folder / "lifecycle.json") or {}
    config = read_mapping(folder / "config.json") or {}
    metrics = read_metrics(folder / "metrics.jsonl")
    adapter = read_model(folder / "export" / "manifest.json", AdapterManifest)
    origin = (read_mapping(folder / "export" / "config.json") or {}).get("provenance")
    start = read_mapping(folder / "start.json") or {}
    publication = read_model(folder / "publication.json", Publication)
    promotion = read_model(folder / "promotion.json", Promotion)
    gate = read_model(folder / "gate.json", Gate)
    evaluations = read_evaluations(folder / "evaluation", unevaluated, tables)
    evaluated = any(folder.glob("evaluation/*/summary.json"))  # of whatever format
    if not (lifecycle or config or metrics or adapter or evaluated):
        raise RunNotFoundError(
            f"{folder} holds no run: expected config.json, metrics.jsonl or evaluation/ in it (datasets/FORMAT.md, 5)"
        )
    missing = list(unevaluated)
    dataset = read_dataset(folder, config, lifecycle, missing)
    if not metrics:
        missing.append("Training has not logged a step: metrics.jsonl is absent or empty.")
    if adapter is None:
        missing.append("No adapter was exported, so there is no model card: export/manifest.json is absent.")
    if publication is None:
        missing.append("Nothing was published: publication.json is absent.")
    elif gate is None:
        missing.append("Nobody decided yet whether the candidate is promoted: gate.json is absent.")
    return Run(
        folder,
        lifecycle,
        config,
        metrics,
        adapter,
        origin if isinstance(origin, dict) else {},
        start,
        publication,
        promotion,
        gate,
        dataset,
        evaluations,
        unevaluated,
        missing,
    )


def read_evaluations(folder: Path, missing: list[str], tables: bool) -> list[Evaluation]:
    """Each suite below `evaluation/` that has a summary of this format, by name."""
    read = [_read_evaluation(path, missing, tables) for path in sorted(folder.glob("*")) if path.is_dir()]
    found = [evaluation for evaluation in read if evaluation]
    if not found:
        missing.append("There is no evaluation yet: evaluation/ holds no finished suite.")
    return found


def _read_evaluation(suite: Path, missing: list[str], tables: bool) -> Evaluation | None:
    """One suite. A summary of another format is an evaluation of another day, not a broken file."""
    summary = _read_summary(suite, missing)
    if summary is None:
        return None
    scores, pairs = (read_table(suite, SCORES), read_table(suite, PAIRS)) if tables else (None, None)
    if tables and scores is None:
        missing.append(f"Evaluation {suite.name} has no scores.parquet or scores.csv: its images cannot be shown.")
    # Who evaluates again takes the manifest away first, and writes a new one last.
    caution = "" if (suite / "manifest.json").is_file() else BEGUN_AGAIN.format(suite.name)
    missing += [caution] if caution else []
    router = read_model(suite / "router.json", RouterMaps)
    return Evaluation(suite, summary, read_model(suite / "suite.json", Suite), scores, pairs, router, caution)


def _read_summary(suite: Path, missing: list[str]) -> Summary | None:
    content = read_mapping(suite / "summary.json")
    if content is None:
        missing.append(f"Evaluation {suite.name} is not finished: it has no summary.json.")
        return None
    written = content.get("format")
    if written != FORMAT and str(written).startswith(FORMAT.partition("/")[0]):
        missing.append(OTHER_FORMAT.format(suite.name, written, FORMAT, suite.name))
        return None
    return as_model(suite / "summary.json", content, Summary)


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
