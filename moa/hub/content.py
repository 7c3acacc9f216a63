"""What a folder holds and what a revision of a repository holds, made comparable.

A Hub lists a file by the git id of its bytes or, if it keeps the file as a large one, by that of its LFS pointer; which
of the two is the Hub's choice. So a local file goes by either name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile, RepoFolder
from pydantic import BaseModel, ConfigDict

from moa.hub.git_names import git_header, git_sha1, pointer_of

HUB_OWN_FILES = frozenset({".gitattributes"})  # put there by the Hub itself; neither published nor deleted by us
_CHUNK = 1 << 20


class FileDigest(BaseModel):
    """SHA-256 (`sha256:<hex>`) and size in bytes of a published file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


@dataclass(frozen=True)
class LocalFile:
    """A file to publish: a path on disk, or bytes made on the spot (model card, licences)."""

    source: Path | bytes
    digest: FileDigest
    names: frozenset[str]
    """The git ids a Hub may list these bytes by."""


def local_file(source: Path | bytes) -> LocalFile:
    """Read a file once and take all its digests."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha1, sha256 = hashlib.sha1(git_header(size)), hashlib.sha256()
    for chunk in [source] if isinstance(source, bytes) else _chunks(source):
        sha1.update(chunk)
        sha256.update(chunk)
    names = frozenset({sha1.hexdigest(), git_sha1(pointer_of(sha256.hexdigest(), size))})
    return LocalFile(source, FileDigest(sha256=f"sha256:{sha256.hexdigest()}", bytes=size), names)


def remote_files(api: HfApi, repo_id: str, commit: str) -> dict[str, str]:
    """Path -> git id of all files of a commit but the Hub's own."""
    return listed_files(api.list_repo_tree(repo_id, revision=commit, recursive=True))


def listed_files(entries: Iterable[RepoFile | RepoFolder]) -> dict[str, str]:
    """Path -> git id of the files in a listing but the Hub's own."""
    files = (entry for entry in entries if isinstance(entry, RepoFile))
    return {entry.path: entry.blob_id for entry in files if entry.path not in HUB_OWN_FILES}


def holds(remote: Mapping[str, str], wanted: Mapping[str, frozenset[str]]) -> bool:
    """Whether a revision holds exactly the wanted files, no more and no less."""
    return remote.keys() == wanted.keys() and all(remote[path] in names for path, names in wanted.items())


def damaged_files(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """Paths, sorted, that are missing from a folder or whose bytes are not those a Hub lists."""
    return sorted(
        path
        for path, name in listed.items()
        if not (folder / path).is_file() or name not in local_file(folder / path).names
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
