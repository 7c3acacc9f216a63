"""`main` back to an earlier model: `python -m flows.rollback --name RUN`.

Makes the repository's `main` hold again exactly what it held when that run was promoted, model card and gate.json
included. Nothing is lost: the models since keep their commits and their tags. The next run of a schedule trains on from
that model, and is compared with it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.begin import begin
from flows.command import run
from flows.errors import MissingInputError
from flows.files import read_json, write_json
from flows.hub import hub_endpoint, hub_token, main_commit
from flows.presets import PresetName
from flows.retries import RETRIES
from flows.settings import LifecycleConfig
from flows.stage import announced, require
from moa.hub.promote import restore


@task(cache_policy=NO_CACHE, **RETRIES)
def restore_model(config: LifecycleConfig) -> Path:
    """Moves `main`, unless it holds that model now; returns the path of promotion.json, which says where it is.

    Raises MissingInputError where the run was not promoted in this repository.
    """
    record = config.run / "promotion.json"
    with announced("rollback", record):
        promotion = _promotion_here(config, record)
        main, message = main_commit(config), f"Back to {promotion['tag']}"
        with hub_endpoint(config) as endpoint:
            place: dict[str, Any] = {"token": hub_token(config), "endpoint": endpoint, "expected_main": main}
            commit = restore(promotion["repo_id"], promotion["commit"], message=message, **place)
        moved = {} if commit == main else {"previous": main}
        return write_json(record, promotion | moved | {"commit": commit})


def _promotion_here(config: LifecycleConfig, record: Path) -> dict[str, Any]:
    promotion = read_json(require(record, "gate"))
    there, here = (promotion["repo_id"], promotion["endpoint"]), (config.publish.repo_id, config.publish.endpoint)
    if there != here:
        raise MissingInputError(
            f"{config.run} was promoted in {' at '.join(there)}, not in {' at '.join(here)}: set publish.repo_id and "
            "publish.endpoint to where its model is to be main again."
        )
    return promotion


@task(cache_policy=NO_CACHE)
def show_place(record: Path) -> None:
    """Which model `main` holds now, on the run page and in the log."""
    found = read_json(record)
    text = f"{found['repo_id']}: main holds {found['tag']} (commit {found['commit'][:8]})"
    get_run_logger().info(text)
    create_markdown_artifact(key="rollback", markdown=text)


@flow(name="rollback")
def rollback(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Makes `main` of the repository hold again what it held when this run was promoted.

    Args:
        preset: which configuration the run was started from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own.
    """
    config = begin("rollback", preset, overrides, name)
    record = restore_model(config)
    show_place(record)
    return record


if __name__ == "__main__":
    sys.exit(run(rollback))
