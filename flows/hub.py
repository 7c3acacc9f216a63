"""Where a run is published, with which token, what its model card says, and what comes back from there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.files import read_json
from flows.settings import LifecycleConfig, runs_root
from flows.stage import require
from moa.hub.card import CardInput, Metric
from moa.hub.download import download
from moa.hub.licences import LICENCES
from moa.hub.server import LocalHub


@contextmanager
def hub_endpoint(config: LifecycleConfig) -> Iterator[str]:
    """The address to publish to and download from; `local` is a Hub server on loopback for as long as it is needed."""
    if config.publish.endpoint != "local":
        yield config.publish.endpoint
        return
    with LocalHub(runs_root() / "hub") as hub:
        yield hub.endpoint


def hub_token(config: LifecycleConfig) -> str | None:
    """The Hub token, from the environment only."""
    return os.environ.get(config.publish.token_env)


def hub_cache() -> Path:
    """Where downloaded revisions are kept, for all runs."""
    return runs_root() / "hub-cache"


def fetch(config: LifecycleConfig, revision: str) -> Path:
    """Downloads a revision of the run's repository; returns its folder, named after its commit."""
    with hub_endpoint(config) as endpoint:
        return download(config.publish.repo_id, revision, endpoint, hub_cache(), token=hub_token(config))


def model_card(config: LifecycleConfig, metrics: Sequence[Metric] = ()) -> CardInput:
    """What the model card says of this run, from the manifests of its shards and its adapter."""
    shards = read_json(require(config.train.shards / "manifest.json", "preprocess"))
    adapter = read_json(require(config.run / "export" / "manifest.json", "train"))
    return CardInput(
        title=config.publish.title,
        base_model=config.publish.base_model,
        base_model_id=config.publish.base_model_id,
        dataset=f"{shards['dataset']['name']}, version {shards['dataset']['version']}",
        dataset_digest=shards["digest"],
        command=config.command,
        code_commit=adapter["commit"],
        seed=config.train.seed,
        steps=adapter["step"],
        image_size=shards["config"]["resolution"],
        licences=LICENCES[config.publish.licences],
        metrics=tuple(metrics),
    )
