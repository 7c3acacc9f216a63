"""From a name to a pipeline folder on this machine: the folder itself, or a repository fetched into the Hub cache.

As in diffusers, and unlike the rest of this project (`moa.hub.client`), a token saved on this machine is used when none
is given, and what is complete in the cache is found without network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from moa.errors import (
    AccessDeniedError,
    HubOfflineError,
    HubUnavailableError,
    MoAError,
    PipelineFolderError,
    RepositoryMissingError,
)
from moa.hub.client import is_transient, status_of

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_folder(
    folder_or_repo: str | Path,
    files: Sequence[str],
    *,
    revision: str | None,
    endpoint: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    """The folder of that name, or else those files (patterns) of the repository of that name at `revision`.

    Raises `PipelineFolderError` for what can be neither; `RepositoryMissingError`, `AccessDeniedError`,
    `HubOfflineError` (the cache does not hold it, and nothing may be fetched) and `HubUnavailableError`.
    """
    name, folder = str(folder_or_repo), Path(folder_or_repo)
    if folder.is_dir():
        return folder
    if not REPO_ID.fullmatch(name):
        raise PipelineFolderError(f"{name} is neither a folder on this machine nor a repository owner/name")
    try:
        found = snapshot_download(
            name,
            revision=revision,
            endpoint=endpoint,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(files),
        )
    except Exception as error:
        where = f"{name} is no folder on this machine, and as a repository at {endpoint or constants.ENDPOINT}"
        typed = _typed(error, where, revision or "main", local_files_only or is_offline_mode())
        if typed is None:
            raise
        raise typed from error
    return Path(found)


def _typed(error: Exception, where: str, revision: str, offline: bool) -> MoAError | None:
    """The typed error for a failed download; None for what is no failure of the Hub."""
    if isinstance(error, HFValidationError):
        return PipelineFolderError(f"{where} it has no valid name: {error}")
    if isinstance(error, GatedRepoError):
        return AccessDeniedError(f"{where} it is gated: accept its terms on its page and log in (hf auth login)")
    if isinstance(error, RepositoryNotFoundError):
        return RepositoryMissingError(
            f"{where} it does not exist, or is private and the token may not see it: check the name, or log in (hf "
            "auth login)"
        )
    if isinstance(error, RevisionNotFoundError):
        return RepositoryMissingError(f"{where} it has no revision {revision!r}")
    if status_of(error) in (401, 403):
        return AccessDeniedError(f"{where} it refuses access ({status_of(error)}): check the token")
    if isinstance(error, LocalEntryNotFoundError) and offline:
        return HubOfflineError(
            f"{where} it is not (completely) in the cache, while HF_HUB_OFFLINE or local_files_only forbids to fetch "
            "it: load it once online"
        )
    if isinstance(error, LocalEntryNotFoundError) or is_transient(error):
        cause = type(error.__cause__ or error).__name__
        return HubUnavailableError(f"{where} it gives no usable answer ({cause}): try again later")
    return None
