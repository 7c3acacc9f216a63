"""Repositories of a local Hub on disk: content-addressed blobs, commits, branches and tags.

    <root>/blobs/<aa>/<sha256>                        bytes of every file version, shared by all repositories
    <root>/models/<owner>/<name>/commits/<sha>.json   parent, title, date and the complete list of files
    <root>/models/<owner>/<name>/refs.json            {"heads": {branch: sha}, "tags": {tag: sha}}
    <root>/models/<owner>/<name>/repo.json            written last: the repository exists

Every file is written under a temporary name, synced and renamed, so a kill at any moment leaves the state before or
after; its mode is what the umask leaves of 0666, so that a team can share a root. References change under a file lock:
several servers may share one root. File paths of a repository are keys inside commit records and never become paths on
this disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from moa.atomic import replacing
from moa.errors import StoreError
from moa.hub.git_names import git_sha1, pointer_of

REPO_NOT_FOUND, REVISION_NOT_FOUND, ENTRY_NOT_FOUND = "RepoNotFound", "RevisionNotFound", "EntryNotFound"
CONFLICT, STALE_PARENT, INVALID = "Conflict", "StaleParent", "Invalid"
STORAGE_FULL, STORAGE_DENIED = "StorageFull", "StorageDenied"
STORAGE_DAMAGED, STORAGE_FAILED = "StorageDamaged", "StorageFailed"

GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 20
LEFT_OVER = 3600.0  # seconds without a new byte after which nobody uploads any more: the server hangs up much earlier


@dataclass(frozen=True)
class Entry:
    """One version of a file. `blob_id` is git's id of it (of the LFS pointer if `lfs`), `sha256` that of its bytes."""

    blob_id: str
    sha256: str
    size: int
    lfs: bool


class Store:
    """All repositories under one root.

    Raises `StoreError`, whose `kind` is one of the constants of this module, and the `OSError`s of the disk below.
    """

    def __init__(self, root: Path):
        self.root = Path(root).resolve()
        self.incoming = self.root / "incoming"
        self.incoming.mkdir(parents=True, exist_ok=True)
        self._clear_incoming()
        self._commits = lru_cache(maxsize=64)(self._read_json)  # a commit never changes

    # repositories and references

    def create_repo(self, repo_id: str, *, private: bool) -> None:
        """Create a repository whose `main` holds `.gitattributes` only, as the Hub does."""
        folder = self._folder(repo_id)
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked(folder):
            if (folder / "repo.json").exists():
                raise StoreError(CONFLICT, f"You already created this model repo: {repo_id}")
            files = {".gitattributes": self.put_bytes(GIT_ATTRIBUTES)}
            sha = self._write_commit(folder, None, "initial commit", "", files)
            self._write_json(folder / "refs.json", {"heads": {"main": sha}, "tags": {}})
            self._write_json(folder / "repo.json", {"id": repo_id, "private": private})

    def repo(self, repo_id: str) -> dict:
        """`{"id", "private"}` of a repository."""
        return self._read_json(self._existing(repo_id) / "repo.json")

    def refs(self, repo_id: str) -> dict[str, dict[str, str]]:
        """`{"heads": {branch: sha}, "tags": {tag: sha}}`."""
        return self._read_json(self._existing(repo_id) / "refs.json")

    def resolve(self, repo_id: str, revision: str) -> str:
        """The commit that a branch, a tag or a full commit id names."""
        refs = self.refs(repo_id)
        for names in (refs["heads"], refs["tags"]):
            if revision in names:
                return names[revision]
        if _SHA1.fullmatch(revision) and self._commit_file(repo_id, revision).exists():
            return revision
        raise StoreError(REVISION_NOT_FOUND, f"Invalid rev id: {revision}")

    def add_ref(self, repo_id: str, kind: str, name: str, start: str) -> None:
        """Create a branch (`kind` "heads") or a tag ("tags") at a revision; an existing one is a conflict."""
        if not _REF.fullmatch(name) or ".." in name or _SHA1.fullmatch(name):
            raise StoreError(INVALID, f"Invalid reference name: {name!r}")
        sha = self.resolve(repo_id, start)
        with self._locked(self._existing(repo_id)):
            refs = self.refs(repo_id)
            if name in refs[kind]:
                raise StoreError(CONFLICT, f"Reference already exists: {name}")
            refs[kind][name] = sha
            self._write_json(self._existing(repo_id) / "refs.json", refs)

    # commits

    def commit_record(self, repo_id: str, sha: str) -> dict:
        """`{"parent", "title", "description", "date", "files"}` of a commit; shared, not to be edited."""
        return self._commits(self._commit_file(repo_id, sha))

    def files(self, repo_id: str, sha: str) -> dict[str, Entry]:
        """All files of a commit by path, sorted."""
        return {path: Entry(**entry) for path, entry in self.commit_record(repo_id, sha)["files"].items()}

    def history(self, repo_id: str, sha: str) -> Iterator[tuple[str, dict]]:
        """A commit and its ancestors, newest first, as (sha, record)."""
        current: str | None = sha
        while current is not None:
            record = self.commit_record(repo_id, current)
            yield current, record
            current = record["parent"]

    def commit(
        self,
        repo_id: str,
        branch: str,
        change: Callable[[dict[str, Entry]], None],
        *,
        parent: str | None,
        title: str,
        description: str,
    ) -> str:
        """Move a branch by one commit; returns the new head, or the old one where nothing changes.

        Args:
            change: edits the given files in place.
            parent: what the caller believes the head to be (7 or more digits); anything else is `STALE_PARENT`.
        """
        folder = self._existing(repo_id)
        with self._locked(folder):
            refs = self.refs(repo_id)
            if branch not in refs["heads"]:
                raise StoreError(REVISION_NOT_FOUND, f"Invalid rev id: {branch}")
            head = refs["heads"][branch]
            if parent is not None and not (len(parent) >= 7 and head.startswith(parent)):
                raise StoreError(STALE_PARENT, f"A commit has happened since. Expected {parent}, {branch} is {head}.")
            before = self.files(repo_id, head)
            after = dict(before)
            change(after)
            check_paths(after)
            if after == before:
                return head
            sha = self._write_commit(folder, head, title, description, after)
            refs["heads"][branch] = sha
            self._write_json(folder / "refs.json", refs)
            return sha

    # blobs

    def put_bytes(self, data: bytes) -> Entry:
        """Store a regular file."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has_blob(sha256):
            self._write(self.blob_path(sha256), data)
        return Entry(blob_id=git_sha1(data), sha256=sha256, size=len(data), lfs=False)

    def put_stream(self, stream: BinaryIO, sha256: str, size: int) -> None:
        """Store a large file; refused as `INVALID` unless the bytes are the announced ones."""
        digest, received = hashlib.sha256(), 0
        with replacing(self.blob_path(sha256), self._draft()) as file:
            while received <= size and (chunk := stream.read(_CHUNK)):
                digest.update(chunk)
                received += len(chunk)
                file.write(chunk)
            if digest.hexdigest() != sha256 or received != size:
                raise StoreError(
                    INVALID, f"Uploaded object {sha256} has other bytes than announced ({received}/{size})"
                )

    def large_file(self, sha256: str) -> Entry:
        """The entry of a large file whose bytes were uploaded before."""
        if not self.has_blob(sha256):
            raise StoreError(INVALID, f"LFS object {sha256} was not uploaded")
        size = self.blob_path(sha256).stat().st_size
        return Entry(blob_id=git_sha1(pointer_of(sha256, size)), sha256=sha256, size=size, lfs=True)

    def open_blob(self, entry: Entry) -> BinaryIO:
        """The bytes of a file's version, to be read; `STORAGE_DAMAGED` where some of them are gone."""
        path = self.blob_path(entry.sha256)
        file = path.open("rb")
        if (size := os.fstat(file.fileno()).st_size) != entry.size:
            file.close()
            raise StoreError(STORAGE_DAMAGED, f"{path} has {size} of its {entry.size} bytes")
        return file

    def has_blob(self, sha256: str) -> bool:
        return self.blob_path(sha256).exists()

    def blob_path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise StoreError(INVALID, f"Not a sha256: {sha256!r}")
        return self.root / "blobs" / sha256[:2] / sha256

    # files on disk

    def _clear_incoming(self) -> None:
        """Remove what uploads left that were killed; another server over this root may be receiving others."""
        for path in self.incoming.iterdir():
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                if path.stat().st_mtime < time.time() - LEFT_OVER:
                    path.unlink()

    def _folder(self, repo_id: str) -> Path:
        parts = repo_id.split("/")
        valid = all(_SEGMENT.fullmatch(part) and ".." not in part and not part.endswith(".git") for part in parts)
        if len(parts) != 2 or not valid:
            raise StoreError(INVALID, f"Invalid repository name: {repo_id!r} (expected owner/name)")
        return self.root / "models" / parts[0] / parts[1]

    def _existing(self, repo_id: str) -> Path:
        folder = self._folder(repo_id)
        if not (folder / "repo.json").exists():
            raise StoreError(REPO_NOT_FOUND, "Repository not found")
        return folder

    def _commit_file(self, repo_id: str, sha: str) -> Path:
        return self._existing(repo_id) / "commits" / f"{sha}.json"

    def _write_commit(
        self, folder: Path, parent: str | None, title: str, description: str, files: dict[str, Entry]
    ) -> str:
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        listed = {path: asdict(files[path]) for path in sorted(files)}
        record = {"parent": parent, "title": title, "description": description, "date": date, "files": listed}
        sha = git_sha1(json.dumps(record, sort_keys=True).encode(), kind="commit")
        self._write_json(folder / "commits" / f"{sha}.json", record)
        return sha

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        # flock belongs to the open file, so it excludes threads of this process as well as other processes
        with open(folder / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write_json(self, path: Path, value: dict) -> None:
        self._write(path, json.dumps(value, indent=1, sort_keys=True).encode())

    def _write(self, path: Path, data: bytes) -> None:
        with replacing(path, self._draft()) as file:
            file.write(data)

    def _draft(self) -> Path:
        """A name of its own for a file that arrives."""
        return self.incoming / secrets.token_hex(16)

    @staticmethod
    def _read_json(path: Path) -> dict:
        data = path.read_bytes()
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(STORAGE_DAMAGED, f"{path} is damaged ({error})") from error


def check_paths(paths: dict[str, Entry]) -> None:
    """Refuse file names that could leave a folder or fool a git client, and files that are folders of other files."""
    for path in paths:
        parts = path.split("/")
        if any(part in ("", ".", "..") or part.lower() == ".git" for part in parts) or re.search(
            r"[\\\x00-\x1f\x7f]", path
        ):
            raise StoreError(INVALID, f"Invalid file path: {path!r}")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in paths:
                raise StoreError(INVALID, f"{'/'.join(parts[:depth])!r} cannot be a file and a folder")
