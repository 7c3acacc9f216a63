"""Where a run is published, with which token, and what comes back from there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.settings import LifecycleConfig, runs_root
from moa.hub.download import commit_of, download
from moa.hub.loopback import is_loopback
from moa.hub.meter import Tell
from moa.hub.server import TOKEN_VARIABLE, LocalHub

HUGGING_FACE_TOKEN = "HF_TOKEN"  # environment variable
SECRET_BLOCK = "hf-token"  # Prefect block of type Secret, where the environment has no token


@contextmanager
def hub_endpoint(config: LifecycleConfig) -> Iterator[str]:
    """The address to publish to and download from; `local` is a Hub server on loopback for as long as it is needed."""
    if config.publish.endpoint != "local":
        yield config.publish.endpoint
        return
    with LocalHub(runs_root() / "hub") as hub:
        yield hub.endpoint


def hub_token(config: LifecycleConfig) -> str | None:
    """The token for the run's endpoint, which `flows.settings` has found allowed: HF_TOKEN of the environment, or the
    Prefect Secret block `hf-token`. A Hub on this machine gets its own, MOA_HUB_TOKEN, and never these."""
    endpoint = config.publish.endpoint
    if endpoint == "local":
        return None
    if is_loopback(endpoint):
        return os.environ.get(TOKEN_VARIABLE)
    return _secret_block() if asks_prefect(config) else environment_token()


def environment_token() -> str:
    """HF_TOKEN without the line break that files of secrets end with; empty where there is none."""
    return os.environ.get(HUGGING_FACE_TOKEN, "").strip()


def is_offline() -> bool:
    """Whether nothing but a Hub of this machine may be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def asks_prefect(config: LifecycleConfig) -> bool:
    """Whether the token is looked for in a Prefect block, for which a Prefect server is needed."""
    endpoint = config.publish.endpoint
    return not (endpoint == "local" or is_loopback(endpoint) or environment_token())


def _secret_block() -> str | None:
    from prefect.blocks.system import Secret

    try:
        block: Any = Secret.load(SECRET_BLOCK)
    except ValueError:  # there is no such block
        return None
    found = block.get()
    return (found.strip() or None) if isinstance(found, str) else None  # a block may hold any JSON


def hub_cache() -> Path:
    """Where downloaded revisions are kept, for all runs."""
    return runs_root() / "hub-cache"


def main_commit(config: LifecycleConfig) -> str:
    """The commit that `main` of the run's repository is at now."""
    with hub_endpoint(config) as endpoint:
        return commit_of(config.publish.repo_id, "main", endpoint, token=hub_token(config))


def fetch(config: LifecycleConfig, revision: str, part: str | None = None, progress: Tell | None = None) -> Path:
    """Downloads a revision of the run's repository, or its folder `part` alone; returns the revision's folder, which is
    named after its commit."""
    repo_id, token = config.publish.repo_id, hub_token(config)
    with hub_endpoint(config) as endpoint:
        return download(repo_id, revision, endpoint, hub_cache(), token=token, part=part, progress=progress)
