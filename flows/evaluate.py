"""Hub revision -> scores: `python -m flows.evaluate --preset miniature`.

Downloads the revision that publication.json names and evaluates exactly that, beside the unchanged base model, the
champion, the variants there are adapters for, and community base models. Writes `runs/<name>/evaluation/<suite>/`
(datasets/FORMAT.md, section 6). Generation and scoring are split over all GPUs of the machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from flows.artifacts import show_scores, show_strip, show_unscored
from flows.begin import begin
from flows.champion import champion_adapter
from flows.command import run
from flows.evaluated import evaluation_folder, told, unscored
from flows.files import read_json
from flows.hub import fetch
from flows.presets import PresetName
from flows.retries import RETRIES
from flows.settings import LifecycleConfig
from flows.stage import Progress, announced, conclude, require
from flows.variants import finished_variants
from moa.evaluation.suite import load_suite


@task(cache_policy=NO_CACHE, **RETRIES)
def fetch_published(config: LifecycleConfig) -> Path:
    """Downloads the published revision, pinned to its commit; returns its folder."""
    commit = read_json(require(config.run / "publication.json", "publish"))["commit"]
    with Progress("download", "Downloading the published model") as progress:
        return fetch(config, commit, progress=progress)


@task(cache_policy=NO_CACHE, **RETRIES)
def evaluate_pipeline(config: LifecycleConfig, pipeline: Path) -> Path:
    """Generates, scores and summarises; returns the path of the evaluation's manifest."""
    from moa.evaluation.run import Source, evaluate  # torch
    from moa.evaluation.workers import devices_here

    settings, found, out = config.evaluate, read_json(config.run / "publication.json"), evaluation_folder(config)
    with announced("evaluate", out / "manifest.json"), Progress("evaluate", "Evaluation") as progress:
        return evaluate(
            pipeline,
            load_suite(settings.suite, faces=settings.faces, clip=settings.clip),
            out,
            shards=config.train.shards,
            images=settings.images,
            segmenter=settings.segmenter,
            champion=champion_adapter(config),
            ablations=finished_variants(config),
            community={base.label: base.lora for base in config.ablate.community},
            devices=devices_here(pipeline),
            precision=settings.precision,
            source=Source(repo_id=found["repo_id"], commit=found["commit"]),
            command=config.command,
            progress=lambda stage, done, total, item: progress(done, total, f"{stage}: {item}"),
        )


@flow(name="evaluate")
def evaluate(
    preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None
) -> Path | State[Path]:
    """Identity preservation and prompt consistency of the published revision, beside prior, champion and ablations.

    Ends in the state Incomplete when something could not be scored; the rest is.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin("evaluate", preset, overrides, name)
    manifest = evaluate_pipeline(config, fetch_published(config))
    show_scores(manifest.parent)
    show_strip(manifest.parent)
    show_unscored(manifest.parent)
    return conclude(manifest, told(unscored(manifest.parent)))


if __name__ == "__main__":
    sys.exit(run(evaluate))
