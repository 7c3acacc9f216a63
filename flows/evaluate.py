"""Hub revision -> scores: `python -m flows.evaluate --preset miniature`.

Downloads the revision that publication.json names and evaluates exactly that, beside the unchanged base model and the
ablations. Writes `runs/<name>/evaluation/<suite>/` (datasets/FORMAT.md, section 6).
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import run
from flows.files import read_json
from flows.hub import hub_endpoint, hub_token
from flows.settings import LifecycleConfig, PresetName, runs_root
from flows.stage import Progress, announced, begin, require
from moa.evaluation.suite import load_suite
from moa.hub.download import download


@task(cache_policy=NO_CACHE)
def fetch_published(config: LifecycleConfig) -> Path:
    """Downloads the published revision, pinned to its commit; returns its folder."""
    found = read_json(require(config.run / "publication.json", "publish"))
    with hub_endpoint(config) as endpoint:
        cache = runs_root() / "hub-cache"
        return download(found["repo_id"], found["commit"], endpoint, cache, token=hub_token(config))


@task(cache_policy=NO_CACHE)
def evaluate_pipeline(config: LifecycleConfig, pipeline: Path) -> Path:
    """Generates, scores and summarises; returns the path of the evaluation's manifest."""
    import torch

    from moa.evaluation.run import Source, evaluate

    settings, found = config.evaluate, read_json(config.run / "publication.json")
    suite = load_suite(settings.suite, faces=settings.faces, clip=settings.clip)
    out = config.run / "evaluation" / suite.name
    with announced("evaluate", out / "manifest.json"), Progress("evaluate", "Evaluation") as progress:
        return evaluate(
            pipeline,
            suite,
            out,
            shards=config.train.shards,
            images=settings.images,
            ablations={ablation.label: ablation.adapter for ablation in settings.ablations},
            device="cuda" if torch.cuda.is_available() else "cpu",
            source=Source(repo_id=found["repo_id"], commit=found["commit"]),
            command=config.command,
            progress=lambda stage, done, total, item: progress(done, total, f"{stage}: {item}"),
        )


@task(cache_policy=NO_CACHE)
def show_scores(evaluation: Path) -> None:
    """The summary as a table, and the first image of MoA, on the run page."""
    names = ("label", "n", "ip", "pc", "detection_rate")
    rows = [
        {name: _mean(method[name]) for name in names} for method in read_json(evaluation / "summary.json")["methods"]
    ]
    create_table_artifact(table=rows, key="evaluation-scores", description=f"`{evaluation}`")
    image = min((evaluation / "images" / "moa").rglob("*.png"))
    if image.stat().st_size <= 30_000:  # the address is stored in Prefect's database and printed below the image
        data = base64.b64encode(image.read_bytes()).decode()
        create_image_artifact(image_url=f"data:image/png;base64,{data}", key="evaluation-image", description=str(image))


def _mean(value: object) -> object:
    return value.get("mean") if isinstance(value, dict) else value


@flow(name="evaluate")
def evaluate(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Identity preservation and prompt consistency of the published revision, beside prior and ablations.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin(preset, overrides, name)
    manifest = evaluate_pipeline(config, fetch_published(config))
    show_scores(manifest.parent)
    return manifest


if __name__ == "__main__":
    sys.exit(run(evaluate))
