"""A revision of a repository as a local folder, pinned to its commit and verified.

    python -c "from moa.hub.download import download; print(download('me/moa', 'main', 'https://huggingface.co',
    'cache'))"

Files land in a Hub cache folder. `huggingface_hub` checks sizes only; here every file is hashed and compared with the
git id the Hub lists, and a damaged copy in the cache is fetched again once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from moa.errors import HubError, PublicationMismatchError, RepositoryMissingError
from moa.hub.client import hub_client
from moa.hub.commit import head_of, retrying
from moa.hub.content import damaged_files, listed_files, remote_files
from moa.hub.meter import LARGE, Meter, Tell

_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(
    repo_id: str,
    revision: str,
    endpoint: str,
    cache_dir: Path,
    *,
    token: str | None = None,
    part: str | None = None,
    progress: Tell | None = None,
) -> Path:
    """Fetch all files of a revision; returns the folder that holds them, `.../snapshots/<commit>`.

    Args:
        revision: branch, tag or full commit id. A full id that is complete in the cache needs no network at all.
        cache_dir: a Hub cache; several repositories and revisions may share it.
        part: a folder of the repository whose files are enough, such as `adapter`, or one file.
        progress: hears of each large file that is there.

    Raises:
        RepositoryMissingError: no such repository, revision or part.
        AccessDeniedError, HubUnavailableError, HubOfflineError: see `moa.hub.client`.
        PublicationMismatchError: the Hub sent other bytes than it lists, twice.
        HubError: the cache cannot be written (disk full, no permission).
    """
    try:
        return _cached(repo_id, revision, endpoint, Path(cache_dir), token, part, progress)
    except OSError as error:
        if error.errno is None:  # of the Hub, not of this disk
            raise
        raise HubError(
            f"{cache_dir} cannot hold {repo_id} ({error.strerror}): free space there or fix permissions, then run "
            "this again"
        ) from error


def commit_of(repo_id: str, revision: str, endpoint: str, *, token: str | None = None) -> str:
    """The commit that a branch or tag stands for now. Raises as `download`."""
    with hub_client(endpoint, token=token, repo_id=repo_id, writing=False) as api:
        return retrying(lambda: head_of(api, repo_id, revision), what=f"look up {revision} of {repo_id}")


def _cached(
    repo_id: str,
    revision: str,
    endpoint: str,
    cache_dir: Path,
    token: str | None,
    part: str | None,
    progress: Tell | None,
) -> Path:
    wanted = None if part is None else [part, f"{part}/*"]
    if _COMMIT.fullmatch(revision) and (folder := _sound_copy(repo_id, revision, cache_dir, wanted)) is not None:
        return folder
    with hub_client(endpoint, token=token, repo_id=repo_id, writing=False) as api:
        commit = retrying(lambda: head_of(api, repo_id, revision), what=f"look up {revision} of {repo_id}")
        if part is not None:
            listed = retrying(lambda: remote_files(api, repo_id, commit), what=f"list {repo_id}")
            _require_part(listed, wanted, f"{repo_id} at {endpoint}: {revision} has no {part}")
        if progress:
            _fetch_large(api, repo_id, commit, cache_dir, wanted, progress)
        return _fetch(api, repo_id, commit, cache_dir, wanted)


def _fetch_large(
    api: HfApi, repo_id: str, commit: str, cache_dir: Path, wanted: list[str] | None, progress: Tell
) -> None:
    """The large files first, one after the other, with a word after each. What the cache has is not fetched again."""
    listed = retrying(lambda: [*api.list_repo_tree(repo_id, revision=commit, recursive=True)], what=f"list {repo_id}")
    files = [file for file in listed if isinstance(file, RepoFile) and _is_wanted(file.path, wanted)]
    large = {file.path: file.size for file in files if file.size >= LARGE}
    meter = Meter(sum(large.values()), progress)
    for path, size in large.items():
        fetch = partial(api.hf_hub_download, repo_id, path, revision=commit, cache_dir=cache_dir)
        retrying(fetch, what=f"download {path} of {repo_id}")
        meter.add(f"received {path}", size)


def _fetch(api: HfApi, repo_id: str, commit: str, cache_dir: Path, wanted: list[str] | None) -> Path:
    def fetch() -> Path:
        return Path(api.snapshot_download(repo_id, revision=commit, cache_dir=cache_dir, allow_patterns=wanted))

    folder = retrying(fetch, what=f"download {repo_id}")
    for path in _damaged(repo_id, commit, cache_dir, folder, wanted):
        again = partial(api.hf_hub_download, repo_id, path, revision=commit, cache_dir=cache_dir, force_download=True)
        retrying(again, what=f"download {path} of {repo_id} again")
    if damaged := _damaged(repo_id, commit, cache_dir, folder, wanted):
        raise PublicationMismatchError(f"{repo_id}@{commit}: {', '.join(damaged[:5])}: not the bytes the Hub lists")
    return folder


def _sound_copy(repo_id: str, commit: str, cache_dir: Path, wanted: list[str] | None) -> Path | None:
    """The cached folder of a commit if what is wanted of it is complete and undamaged."""
    try:
        copy = snapshot_download(
            repo_id, revision=commit, cache_dir=cache_dir, local_files_only=True, allow_patterns=wanted
        )
    except LocalEntryNotFoundError:
        return None
    listed = get_cached_repo_tree(repo_id, revision=commit, cache_dir=cache_dir)
    _require_part(listed_files(listed), wanted, f"{repo_id}: {commit} has no {' or '.join(wanted or ())}")
    folder = Path(copy)
    return None if _damaged(repo_id, commit, cache_dir, folder, wanted) else folder


def _require_part(listed: Iterable[str], wanted: list[str] | None, problem: str) -> None:
    if not any(_is_wanted(path, wanted) for path in listed):
        raise RepositoryMissingError(problem)


def _is_wanted(path: str, wanted: list[str] | None) -> bool:
    return wanted is None or any(fnmatch(path, pattern) for pattern in wanted)


def _damaged(repo_id: str, commit: str, cache_dir: Path, folder: Path, wanted: list[str] | None) -> list[str]:
    listed = listed_files(get_cached_repo_tree(repo_id, revision=commit, cache_dir=cache_dir))
    return damaged_files(folder, {path: name for path, name in listed.items() if _is_wanted(path, wanted)})
