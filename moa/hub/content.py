"""What a folder holds and what a revision of a repository holds, made comparable.

A Hub names a regular file by git's blob id (a SHA-1) and a large one by the SHA-256 of its bytes, and decides by
itself which file is which. So a local file is compared by either of its two names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from pydantic import BaseModel, ConfigDict

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
    """The names a Hub may know these bytes by: `git:<sha1>` and `sha256:<hex>`."""


def local_file(source: Path | bytes) -> LocalFile:
    """Read a file once and take both digests."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    sha1, sha256 = hashlib.sha1(b"blob %d\0" % size), hashlib.sha256()
    for chunk in [source] if isinstance(source, bytes) else _chunks(source):
        sha1.update(chunk)
        sha256.update(chunk)
    digest = f"sha256:{sha256.hexdigest()}"
    return LocalFile(source, FileDigest(sha256=digest, bytes=size), frozenset({digest, f"git:{sha1.hexdigest()}"}))


def remote_files(api: HfApi, repo_id: str, commit: str) -> dict[str, str]:
    """Path -> name (`git:<sha1>` or `sha256:<hex>`) of all files of a commit but the Hub's own."""
    entries = api.list_repo_tree(repo_id, revision=commit, recursive=True)
    return {
        entry.path: remote_name(entry)
        for entry in entries
        if isinstance(entry, RepoFile) and entry.path not in HUB_OWN_FILES
    }


def remote_name(entry: RepoFile) -> str:
    """The name of the bytes of a file on a Hub."""
    return f"sha256:{entry.lfs.sha256}" if entry.lfs is not None else f"git:{entry.blob_id}"


def holds(remote: Mapping[str, str], wanted: Mapping[str, frozenset[str]]) -> bool:
    """Whether a revision holds exactly the wanted files, no more and no less."""
    return remote.keys() == wanted.keys() and all(remote[path] in names for path, names in wanted.items())


def differing(folder: Path, expected: Mapping[str, frozenset[str]]) -> list[str]:
    """Paths, sorted, whose bytes in a folder are missing or not the expected ones."""
    return sorted(
        path
        for path, names in expected.items()
        if not (folder / path).is_file() or local_file(folder / path).names.isdisjoint(names)
    )


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
