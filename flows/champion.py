"""Where a run's training starts, and the model its candidate has to hold its own against.

The champion is the repository's promoted revision; where nothing was promoted yet, `train.init`; else nobody. It is
chosen when a candidate is first evaluated and kept in `runs/<name>/champion.json`: once that candidate is promoted
itself, the repository would answer with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flows.files import read_json, write_json
from flows.hub import fetch, hub_cache
from flows.settings import LifecycleConfig
from flows.stage import require
from moa.errors import RepositoryMissingError


class Champion(BaseModel):
    """`champion.json`. `candidate` is the adapter it was chosen for; `none`: there is nobody to beat but the prior."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    source: Literal["promoted", "init", "none"]
    adapter_digest: str | None = None
    repo_id: str | None = None
    commit: str | None = None


def champion_of(config: LifecycleConfig) -> Champion:
    """The champion of the run's published candidate, chosen now if it was not before."""
    record = config.run / "champion.json"
    candidate = read_json(require(config.run / "publication.json", "publish"))["adapter_digest"]
    if record.is_file() and (known := Champion.model_validate(read_json(record))).candidate == candidate:
        return known
    champion = _choose(config, candidate)
    write_json(record, champion.model_dump(mode="json"))
    return champion


def champion_adapter(config: LifecycleConfig) -> Path | None:
    """The champion's adapter folder, downloaded where it was promoted; None without a champion."""
    champion = champion_of(config)
    if champion.commit is not None:
        return fetch(config, champion.commit, "adapter") / "adapter"
    return config.train.init if champion.source == "init" else None


def starting_adapter(config: LifecycleConfig) -> Path | None:
    """The adapter that training starts from; None for a copy of the prior.

    With `train_from: promoted` a run keeps what it started from, which its config.json names.
    """
    record = config.run / "config.json"
    if config.train_from == "init":
        return config.train.init
    if not record.is_file():
        return promoted_adapter(config) or config.train.init
    started = read_json(record)["init"]
    if started and not Path(started).exists() and hub_cache() in Path(started).parents:  # .../<commit>/adapter
        fetch(config, Path(started).parent.name, "adapter")
    return started and Path(started)


def promoted_adapter(config: LifecycleConfig) -> Path | None:
    """The adapter that `main` of the repository holds now, downloaded into a folder named after the commit.

    None where there is no repository, or nothing was promoted in it.
    """
    try:
        adapter = fetch(config, "main", "adapter") / "adapter"
    except RepositoryMissingError:
        return None
    return adapter if (adapter / "manifest.json").is_file() else None


def adapter_digest(adapter: Path) -> str:
    """The digest of an adapter folder."""
    return read_json(adapter / "manifest.json")["digest"]


def _choose(config: LifecycleConfig, candidate: str) -> Champion:
    if adapter := promoted_adapter(config):
        place = {"repo_id": config.publish.repo_id, "commit": adapter.parent.name}
        return Champion(candidate=candidate, source="promoted", adapter_digest=adapter_digest(adapter), **place)
    if init := config.train.init:
        return Champion(candidate=candidate, source="init", adapter_digest=adapter_digest(init))
    return Champion(candidate=candidate, source="none")
