"""A pipeline folder becomes a verified candidate branch; moa/hub/promote.py makes a candidate `main`.

`publish` uploads with one commit and downloads the result again to compare every file. It may be run again at any time:
what is already there is not sent.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from moa.errors import (
    HubError,
    NothingToPublishError,
    PublicationMismatchError,
    UnsafeFileError,
)
from moa.hub.card import CardInput, render_card
from moa.hub.client import hub_client
from moa.hub.commit import Operation, commit_files, deletions, head_of, retrying
from moa.hub.content import LocalFile, local_file
from moa.hub.download import download
from moa.hub.licences import licence_files, require_acceptance
from moa.hub.meter import Meter, Tell, second_half
from moa.hub.publication import MAIN, Publication

PICKLES = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")
logger = logging.getLogger(__name__)


def publish(
    pipeline_folder: Path,
    *,
    repo_id: str,
    endpoint: str,
    token: str | None,
    branch: str,
    card: CardInput,
    accept_licences: bool = False,
    private: bool = True,
    cache_dir: Path | None = None,
    progress: Tell | None = None,
) -> Publication:
    """Publish a pipeline folder as the content of a candidate branch, and verify it by downloading it again.

    Args:
        pipeline_folder: as written by `MoAPipeline.save_pretrained`, `adapter/` included.
        repo_id: `owner/name`; created if missing.
        token: from the environment of the caller; not needed on loopback, never logged or stored.
        branch: candidate branch such as `run-<name>`; created from `main` if missing; not `main` itself.
        accept_licences: that the publisher accepts the terms in `card.licences`; needed where they restrict use.
        private: visibility of a repository that is created; one that is public already is refused where this is set.
        cache_dir: Hub cache for the verification, kept for later use; a temporary one without it.
        progress: hears of each large file that was sent, and that has come back.

    Raises:
        LicenceRefusedError, NothingToPublishError, UnsafeFileError: before anything is sent.
        HubError: the same for a public repository where a private one is wanted.
        RepositoryConflictError: somebody else pushed to the branch meanwhile.
        PublicationMismatchError: what came back is not what was sent.
        HubError: its other subclasses, see `moa.hub.client`.
    """
    require_acceptance(card.licences, accepted=accept_licences)
    if branch == MAIN:
        raise HubError("branch: main is moved by promote() only; publish to a candidate branch such as run-<name>")
    files = published_files(Path(pipeline_folder), card, repo_id, branch, endpoint)
    digest = adapter_digest(Path(pipeline_folder), files)
    wanted = {path: file.names for path, file in files.items()}
    with hub_client(endpoint, token=token, repo_id=repo_id, writing=True) as api:
        retrying(lambda: api.create_repo(repo_id, private=private, exist_ok=True), what=f"create {repo_id}")
        _check_visibility(api, repo_id, private)
        retrying(lambda: api.create_branch(repo_id, branch=branch, exist_ok=True), what=f"create {branch} of {repo_id}")

        def operations(present: dict[str, str]) -> list[Operation]:
            changed = [path for path in files if present.get(path) not in wanted[path]]
            return deletions(present, wanted) + [CommitOperationAdd(path, files[path].source) for path in changed]

        size = sum(file.digest.bytes for file in files.values())
        commit = commit_files(
            api,
            repo_id,
            branch,
            wanted,
            operations,
            message=f"{card.title} ({digest[:19]})",
            meter=Meter(2 * size, progress),
        )
        publication = Publication(
            repo_id=repo_id,
            endpoint=endpoint,
            branch=branch,
            commit=commit,
            files={path: file.digest for path, file in files.items()},
            adapter_digest=digest,
        )
        _verify(publication, token, cache_dir, progress)
    return publication


def is_current(publication: Publication, *, token: str | None, endpoint: str | None = None) -> bool:
    """Whether the candidate branch still is at the published commit; `endpoint`: where the repository is now, if no
    longer where it was published (a local Hub on another port)."""
    repo_id = publication.repo_id
    with hub_client(endpoint or publication.endpoint, token=token, repo_id=repo_id, writing=False) as api:
        try:
            return retrying(lambda: head_of(api, repo_id, publication.branch), what=f"look up {repo_id}") == (
                publication.commit
            )
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return False


def published_files(folder: Path, card: CardInput, repo_id: str, branch: str, endpoint: str) -> dict[str, LocalFile]:
    """Everything that goes onto the branch, by path: the folder's files, the model card and the licences.

    Raises:
        NothingToPublishError: no pipeline folder, or a part of it that cannot be read.
        UnsafeFileError: a pickle is among the files.
    """
    if not (folder / "model_index.json").is_file():
        raise NothingToPublishError(f"{folder}: no pipeline folder (model_index.json is missing); export the run first")
    files = {}
    for directory, names, members in os.walk(folder, onerror=_refuse_unread, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for member in sorted(members):
            path = Path(directory, member)
            if member.startswith("."):
                continue
            if path.suffix.lower() in PICKLES:
                raise UnsafeFileError(f"{path}: pickles are not published; save these weights as safetensors")
            try:
                files[path.relative_to(folder).as_posix()] = local_file(path)
            except OSError as error:
                _refuse_unread(error)
    generated = {"README.md": render_card(card, repo_id, branch, endpoint).encode(), **licence_files(card.licences)}
    return files | {path: local_file(data) for path, data in generated.items()}


def _refuse_unread(error: OSError) -> NoReturn:
    """What cannot be read must not be missing from the publication without a word."""
    raise NothingToPublishError(
        f"{error.filename} cannot be read ({error.strerror}); mend that, then publish again"
    ) from error


def adapter_digest(folder: Path, files: Mapping[str, LocalFile]) -> str:
    """Digest of the adapter in a pipeline folder, after checking that its manifest and its files agree.

    Raises:
        NothingToPublishError: the adapter or its manifest is missing or unreadable.
        UnsafeFileError: an adapter file is not the one in the manifest, or not in it.
    """
    path = folder / "adapter" / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        listed, digest = (
            {f"adapter/{name}": entry["sha256"] for name, entry in manifest["files"].items()},
            manifest["digest"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NothingToPublishError(f"{path}: no usable adapter manifest ({error}); export the run first") from error
    present = {name: file.digest.sha256 for name, file in files.items() if name.startswith("adapter/")}
    present.pop("adapter/manifest.json", None)
    if wrong := sorted(name for name in present.keys() | listed.keys() if present.get(name) != listed.get(name)):
        raise UnsafeFileError(
            f"{folder}: {', '.join(wrong)}: not as adapter/manifest.json lists it; export the run again"
        )
    return digest


def _check_visibility(api: HfApi, repo_id: str, private: bool) -> None:
    """Creating a repository that is there changes nothing, its visibility neither."""
    is_private = retrying(lambda: api.model_info(repo_id), what=f"look up {repo_id}").private
    if private and not is_private:
        raise HubError(
            f"{repo_id} at {api.endpoint} is public, but a private repository is wanted (publish.private); nothing was "
            "sent. Make the repository private in its settings on the Hub, or say --set publish.private=false"
        )
    if is_private and not private:
        logger.warning("%s is private already and stays so; its settings on the Hub can make it public", repo_id)


def _verify(publication: Publication, token: str | None, cache_dir: Path | None, progress: Tell | None) -> None:
    """Download a publication at its commit and compare the SHA-256 of every file with what was sent."""
    sent = sum(digest.bytes for digest in publication.files.values())
    back = progress and second_half(progress, sent)
    with tempfile.TemporaryDirectory(prefix="moa-verify-") as temporary:
        cache = Path(temporary) if cache_dir is None else Path(cache_dir)
        place = (publication.repo_id, publication.commit, publication.endpoint)
        folder = download(*place, cache, token=token, progress=back)
        files = {path: folder / path for path in publication.files if (folder / path).is_file()}
        came = {path: local_file(file).digest for path, file in files.items()}
        wrong = [path for path, digest in publication.files.items() if came.get(path) != digest]
        if wrong:
            raise PublicationMismatchError(
                f"{publication.repo_id}@{publication.commit}: {', '.join(wrong[:5])}: came back with other bytes, "
                "or not; do not use this revision, publish again"
            )
