"""Adapter -> Hub revision: `python -m flows.publish --preset miniature`.

Puts the exported adapter on its base model, writes the whole pipeline with its model card, publishes it as the branch
`run-<name>` and records the verified revision in `runs/<name>/publication.json`. What is there is not sent again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import run
from flows.files import read_json, write_json
from flows.hub import hub_cache, hub_endpoint, hub_token, model_card
from flows.presets import PresetName
from flows.settings import LifecycleConfig
from flows.stage import announced, begin, require
from moa.hub.publish import publish as publish_folder


@task(cache_policy=NO_CACHE)
def publish_model(config: LifecycleConfig) -> Path:
    """Exports the pipeline, publishes it, returns the path of publication.json."""
    from moa.pipeline import MoAPipeline  # torch

    record, settings = config.run / "publication.json", config.publish
    adapter = require(config.run / "export" / "manifest.json", "train").parent
    with announced("publish", record), hub_endpoint(config) as endpoint, TemporaryDirectory() as scratch:
        MoAPipeline.from_base(config.train.base, adapter, config.train.image_encoder).save_pretrained(scratch)
        publication = publish_folder(
            Path(scratch),
            repo_id=settings.repo_id,
            endpoint=endpoint,
            token=hub_token(config),
            branch=f"run-{config.name}",
            card=model_card(config),
            accept_licences=settings.accept_licences,
            cache_dir=hub_cache(),
        )
        write_json(record, {**publication.model_dump(mode="json"), "endpoint": settings.endpoint})
    return record


@task(cache_policy=NO_CACHE)
def show_publication(record: Path) -> None:
    """Repository, branch and commit on the run page."""
    found = read_json(record)
    rows = "\n".join(f"| {key} | `{found[key]}` |" for key in ("repo_id", "endpoint", "branch", "commit"))
    create_markdown_artifact(key="publication", markdown=f"| | |\n| --- | --- |\n{rows}\n")


@flow(name="publish")
def publish(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Publishes the trained adapter as a full pipeline with model card, on a candidate branch.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin(preset, overrides, name)
    record = publish_model(config)
    show_publication(record)
    return record


if __name__ == "__main__":
    sys.exit(run(publish))
