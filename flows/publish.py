"""Adapter -> Hub revision: `python -m flows.publish --preset miniature`.

Puts the exported adapter on its base model, writes the whole pipeline with its model card, publishes it as the branch
`run-<name>` and records the verified revision in `runs/<name>/publication.json`. What is published is not built again.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.begin import begin
from flows.card import model_card
from flows.command import run
from flows.files import read_json, write_json
from flows.hub import hub_cache, hub_endpoint, hub_token
from flows.presets import PresetName
from flows.publication import branch_of, built_pipeline, is_published, source_of
from flows.retries import RETRIES
from flows.settings import LifecycleConfig
from flows.stage import Progress, announced
from moa.hub.publish import publish as publish_folder


@task(cache_policy=NO_CACHE, **RETRIES)
def publish_model(config: LifecycleConfig) -> Path:
    """Builds the pipeline, publishes it, returns the path of publication.json."""
    record, settings, card = config.run / "publication.json", config.publish, model_card(config)
    source = source_of(config, card)
    with announced("publish", record), hub_endpoint(config) as endpoint:
        if is_published(config, source, endpoint):
            return record
        with Progress("publish", "Publishing") as progress, built_pipeline(config) as folder:
            publication = publish_folder(
                folder,
                repo_id=settings.repo_id,
                endpoint=endpoint,
                token=hub_token(config),
                branch=branch_of(config),
                card=card,
                accept_licences=settings.accept_licences,
                private=settings.private,
                cache_dir=hub_cache(),
                progress=progress,
            )
        found = publication.model_dump(mode="json") | {"endpoint": settings.endpoint, "source": source}
        return write_json(record, found)


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
    config = begin("publish", preset, overrides, name)
    record = publish_model(config)
    show_publication(record)
    return record


if __name__ == "__main__":
    sys.exit(run(publish))
