"""Raw images -> shards: `python -m flows.preprocess --preset miniature`.

Writes `data/<dataset>/` (datasets/FORMAT.md, section 2). Unchanged images and settings are left alone; an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.begin import begin
from flows.command import run
from flows.files import read_json
from flows.presets import PresetName
from flows.settings import PreprocessSettings, models_root
from flows.stage import Progress, announced
from preprocessing.config import load_dataset
from preprocessing.run import preprocess as preprocess_images


@task(cache_policy=NO_CACHE)
def make_shards(settings: PreprocessSettings) -> Path:
    """Captions, masks, subjects, shards; returns the path of the manifest."""
    dataset = load_dataset(settings.dataset)
    with announced("preprocess", settings.out / "manifest.json"), Progress("preprocess", "Preprocessing") as progress:
        return preprocess_images(
            dataset,
            settings.out,
            source_root=settings.source_root,
            models=models_root(),
            max_bad=settings.max_bad,
            progress=progress,
        )


@task(cache_policy=NO_CACHE)
def show_counts(manifest: Path) -> None:
    """What was kept and dropped, as a table on the run page."""
    counts = read_json(manifest)["counts"]
    rows = [{"what": key, "count": value} for key, value in counts.items() if isinstance(value, int)]
    create_table_artifact(table=rows, key="preprocess-counts", description=f"`{manifest}`")


@flow(name="preprocess")
def preprocess(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Raw images to WebDataset shards with captions, masks and subjects.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin("preprocess", preset, overrides, name)
    manifest = make_shards(config.preprocess)
    show_counts(manifest)
    return manifest


if __name__ == "__main__":
    sys.exit(run(preprocess))
