"""Whether a run is published as it is now, and the pipeline folder that publishing sends."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.errors import BrokenFileError, MissingInputError, RunInUseError, SettingsChangedError
from flows.files import read_json, write_json
from flows.hub import hub_token
from flows.settings import LifecycleConfig
from flows.stage import require
from flows.trained import Trained, require_trained
from moa.data import file_digest
from moa.errors import HubError, HubUnavailableError
from moa.file_lock import locked
from moa.hub.card import CardInput, render_card
from moa.hub.licences import licence_files
from moa.hub.publication import Publication
from moa.hub.publish import is_current

STAGED = ".staged.json"  # of a pipeline folder that is whole: what it was made from, and its files; never published
logger = logging.getLogger(__name__)


def source_of(config: LifecycleConfig, card: CardInput) -> str:
    """Digest of what a publication is made from: the adapter, which names its base and its encoder, card and terms."""
    files = {"README.md": render_card(card, config.publish.repo_id).encode(), **licence_files(card.licences)}
    made_from = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    made_from["adapter"] = require_trained(config).digest
    return f"sha256:{hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()}"


def is_published(config: LifecycleConfig, source: str, endpoint: str) -> bool:
    """Whether publication.json says so and the repository agrees: then nothing has to be built."""
    try:
        known = Publication.read(config.run / "publication.json")
    except HubError:  # there is none, or none that can be read: publishing writes it anew
        return False
    place = (config.publish.repo_id, config.publish.endpoint, branch_of(config), source)
    if (known.repo_id, known.endpoint, known.branch, known.source) != place:
        return False
    return is_current(known, token=hub_token(config), endpoint=endpoint)


def branch_of(config: LifecycleConfig) -> str:
    """The candidate branch of a run."""
    return f"run-{config.name}"


def require_published(config: LifecycleConfig) -> None:
    """Raises MissingInputError unless the run's adapter of now is the published one, HubError where no record of that
    can be read."""
    trained = require_trained(config)
    published = Publication.read(require(config.run / "publication.json", "publish"))
    if published.adapter_digest != trained.digest:
        raise MissingInputError(
            f"{config.run} was trained further after it was published: run `python -m flows.publish --name "
            f"{config.name}` first."
        )


@contextmanager
def built_pipeline(config: LifecycleConfig) -> Iterator[Path]:
    """The whole pipeline as a folder below the run, for as long as it is needed: gigabytes, so not in /tmp.

    It goes with the block, but for a Hub that cannot be reached or an interruption, which are tried again: then it
    stays, and the next call takes it as it is where it is whole: every file as it was built, from the same files, by
    the same code. Else it is built anew. Raises RunInUseError while the run is published by somebody else, or where it
    was trained further meanwhile.
    """
    from moa.pipeline import MoAPipeline  # torch

    folder = config.run / ".pipeline"
    busy = RunInUseError(
        f"{config.run} is being published by another command: wait for it or stop it, then publish again"
    )
    with locked(config.run / ".publish.lock", busy, logger.warning):
        trained = require_trained(config)
        check_prior(config, trained)
        made_from = _made_from(config, trained)
        if _is_whole(folder, made_from):
            logger.info("%s was built by an earlier try: it is whole, and published as it is", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                pipeline = MoAPipeline.from_base(config.train.base, config.run / "export", config.train.image_encoder)
                pipeline.save_pretrained(folder)
                if read_json(folder / "adapter" / "manifest.json")["digest"] != trained.digest:
                    raise RunInUseError(f"{config.run} was trained further while it was published: publish it again")
                write_json(folder / STAGED, {"made_from": made_from, "files": _digests(folder)})
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        try:
            yield folder
        except (HubUnavailableError, KeyboardInterrupt):
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _made_from(config: LifecycleConfig, trained: Trained) -> dict[str, Any]:
    """All that the files of a pipeline folder depend on: the adapter and what it was trained on, by digest; what else
    of the base goes along; and the code that writes them."""
    from moa.models import code_commit, folder_digest  # torch
    from moa.pipeline_folder import INDEX, OPTIONAL

    versions = {name: version(name) for name in ("diffusers", "transformers", "tokenizers", "safetensors")}
    along = {"optional": folder_digest(config.train.base, OPTIONAL), INDEX: file_digest(config.train.base / INDEX)}
    inputs = {name: trained.inputs[name] for name in ("base", "image_encoder")}
    return {"adapter": trained.digest, **inputs, **along, "commit": code_commit(), "versions": versions}


def _is_whole(folder: Path, made_from: dict[str, Any]) -> bool:
    """Whether a folder holds all of a pipeline that was made from these, and nothing else. Of code that has no commit
    of its own nobody can tell."""
    commit = made_from["commit"]
    if commit is None or commit.endswith("+changes"):
        return False
    try:
        return read_json(folder / STAGED) == {"made_from": made_from, "files": _digests(folder)}
    except (OSError, BrokenFileError):  # there is none, or its building was interrupted
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STAGED)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def check_prior(config: LifecycleConfig, trained: Trained) -> None:
    """Raises SettingsChangedError unless base and image encoder are those that the adapter was trained on."""
    from moa.models import BASE_PARTS, folder_digest  # torch

    for name, parts in (("base", BASE_PARTS), ("image_encoder", ())):
        place = getattr(config.train, name)
        if folder_digest(place, parts) != trained.inputs[name]:
            raise SettingsChangedError(
                f"train.{name}: {place} holds other files than the ones the adapter was trained on; name that folder"
            )
