"""Where a run's training starts, and the model its candidate has to hold its own against.

The champion is the repository's promoted revision; where nothing but the candidate itself was promoted, `train.init`;
else nobody. It is chosen when a candidate is first evaluated for a repository and kept in `runs/<name>/champion.json`:
once that candidate is promoted itself, the repository would answer with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.errors import BrokenFileError, MissingInputError
from flows.files import read_json, write_json
from flows.hub import fetch
from flows.overrides import replaced
from flows.settings import LifecycleConfig
from flows.stage import require
from moa.errors import RepositoryMissingError

DECISION = "gate.json"  # on `main`, and in the run that was promoted


class GivenUp(BaseModel):
    """What a chain of promotions has given up of IP and PC so far (flows/decision.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    ip: float = Field(0.0, ge=0)
    pc: float = Field(0.0, ge=0)


class Champion(BaseModel):
    """`champion.json`. `candidate` is the adapter it was chosen for, `repo_id` and `endpoint` say for which repository;
    `none`: there is nobody to beat but the prior."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    repo_id: str
    endpoint: str
    source: Literal["promoted", "init", "none"]
    adapter_digest: str | None = None
    commit: str | None = None
    given_up: GivenUp = GivenUp()


def champion_of(config: LifecycleConfig) -> Champion:
    """The champion of the run's published candidate in its repository, chosen now if it was not before."""
    candidate = _candidate(config)
    if known := _known(config, candidate):
        return known
    champion = _choose(config, candidate)
    write_json(config.run / "champion.json", champion.model_dump(mode="json"))
    return champion


def compared_champion(config: LifecycleConfig) -> Champion:
    """The champion that the candidate was evaluated against. Raises MissingInputError where there is no record of one
    in this repository: none may be chosen after the scores are there."""
    if known := _known(config, _candidate(config)):
        return known
    raise MissingInputError(
        f"{config.run} was not compared with the champion of {config.publish.repo_id}: run `python -m flows.evaluate "
        f"--name {config.name}` first."
    )


def champion_adapter(config: LifecycleConfig) -> Path | None:
    """The champion's adapter folder, downloaded where it was promoted; None without a champion.

    Raises MissingInputError when the repository does not have the champion any more.
    """
    champion = champion_of(config)
    if champion.commit is None:
        return config.train.init if champion.source == "init" else None
    try:
        return fetch(config, champion.commit, "adapter") / "adapter"
    except RepositoryMissingError as error:
        raise MissingInputError(
            f"The champion that {config.run} has to hold its own against, commit {champion.commit} of "
            f"{champion.repo_id}, is gone from the Hub ({champion.endpoint}). Put it back; or delete "
            f"{config.run / 'champion.json'}: whatever is promoted now is the champion then. ({error})"
        ) from error


def starting_adapter(config: LifecycleConfig) -> Path | None:
    """The adapter that training starts from; None for a copy of the prior.

    With `train_from: promoted` a training that has begun (there is a config.json) keeps what it started from:
    `start.json` says which commit of which repository that is. The run may be published elsewhere by now, or lie on
    another disk.
    """
    record, origin = config.run / "config.json", config.run / "start.json"
    if config.train_from == "init":
        return config.train.init
    if not record.is_file():
        adapter = promoted_adapter(config)
        write_json(origin, _place(config) | {"commit": adapter and adapter.parent.name})
        return adapter or config.train.init
    started = read_json(record)["init"]
    begun = read_json(origin) if origin.is_file() else {}  # none where training began from `init`
    commit = begun.pop("commit", None)
    if commit is None:
        return started and Path(started)
    there = replaced(config, [f"publish.{field}={value}" for field, value in begun.items()])
    return fetch(there, commit, "adapter") / "adapter"


def promoted_adapter(config: LifecycleConfig, revision: str = "main") -> Path | None:
    """The adapter that `main` of the repository holds now, or another revision, downloaded into a folder named after
    the commit.

    None where there is no repository, or nothing was promoted in it.
    """
    try:
        adapter = fetch(config, revision, "adapter") / "adapter"
    except RepositoryMissingError:
        return None
    return adapter if (adapter / "manifest.json").is_file() else None


def adapter_digest(adapter: Path) -> str:
    """The digest of an adapter folder."""
    return read_json(adapter / "manifest.json")["digest"]


def _place(config: LifecycleConfig) -> dict[str, str]:
    """The run's repository."""
    return {"repo_id": config.publish.repo_id, "endpoint": config.publish.endpoint}


def _candidate(config: LifecycleConfig) -> str:
    return read_json(require(config.run / "publication.json", "publish"))["adapter_digest"]


def _known(config: LifecycleConfig, candidate: str) -> Champion | None:
    """The champion that was chosen for this candidate in this repository; None where there is no such record."""
    try:
        known = Champion.model_validate_json((config.run / "champion.json").read_bytes())
    except (OSError, ValidationError):  # or one of an earlier version
        return None
    same = (known.candidate, known.repo_id, known.endpoint) == (candidate, *_place(config).values())
    return known if same else None


def _choose(config: LifecycleConfig, candidate: str) -> Champion:
    chosen = {"candidate": candidate, **_place(config)}
    adapter = promoted_adapter(config)
    if adapter and (digest := adapter_digest(adapter)) != candidate:
        commit = adapter.parent.name
        given_up = _given_up(config, commit)
        return Champion(source="promoted", adapter_digest=digest, commit=commit, given_up=given_up, **chosen)
    if init := config.train.init:
        return Champion(source="init", adapter_digest=adapter_digest(init), **chosen)
    return Champion(source="none", **chosen)


def _given_up(config: LifecycleConfig, commit: str) -> GivenUp:
    """What the promotions up to this commit of `main` gave up; nothing where an earlier version promoted it.

    Raises BrokenFileError where its record says something else.
    """
    try:
        record = fetch(config, commit, DECISION) / DECISION
    except RepositoryMissingError:
        return GivenUp()
    try:
        return GivenUp.model_validate(json.loads(record.read_bytes())["given_up"])
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenFileError(
            f"{DECISION} of {config.publish.repo_id}@{commit[:8]} does not say what was given up: mend it there, or "
            "make an earlier model main again (python -m flows.rollback)"
        ) from error
