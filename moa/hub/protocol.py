"""The JSON shapes of the Hub's protocol: listings, upload modes, and the changes of a commit."""

from __future__ import annotations

import base64

from moa.errors import StoreError
from moa.hub.git_names import git_sha1, pointer_of
from moa.hub.store import ENTRY_NOT_FOUND, INVALID, Entry

LARGE_FILE = 10 << 20  # bytes; the Hub takes larger or binary files by LFS only
LARGE_SUFFIXES = (".safetensors", ".bin", ".npz", ".onnx", ".tar", ".zip", ".gz", ".parquet")


def with_folders(files: dict[str, Entry]) -> list[str]:
    """All file paths and all their folders, sorted."""
    folders = {"/".join(parts[:n]) for path in files if (parts := path.split("/")) for n in range(1, len(parts))}
    return sorted(folders | files.keys())


def described(path: str, files: dict[str, Entry]) -> dict:
    """A file or folder as the tree endpoint lists it."""
    if path not in files:
        inside = sorted((name, entry.blob_id) for name, entry in files.items() if name.startswith(f"{path}/"))
        return {"type": "directory", "oid": git_sha1(repr(inside).encode(), kind="tree"), "size": 0, "path": path}
    entry = files[path]
    listed = {"type": "file", "oid": entry.blob_id, "size": entry.size, "path": path}
    if entry.lfs:
        pointer = len(pointer_of(entry.sha256, entry.size))
        listed["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": pointer}
    return listed


def upload_mode(file: dict, present: Entry | None) -> dict:
    """How to send a file, and the name of the version that is already there."""
    binary = b"\0" in base64.b64decode(file["sample"])
    large = file["size"] > LARGE_FILE or binary or file["path"].endswith(LARGE_SUFFIXES)
    oid = None if present is None else present.sha256 if present.lfs else present.blob_id
    return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}


def apply_changes(changes: list[tuple[str, str, Entry | None]], files: dict[str, Entry]) -> None:
    """Edit the files of a commit in place, in the order of the request."""
    for key, path, entry in changes:
        if entry is not None:
            files[path] = entry
            continue
        if key not in ("deletedFile", "deletedFolder"):
            raise StoreError(INVALID, f"Unknown operation: {key}")
        folder = path.rstrip("/") + "/"
        gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(folder))]
        if not gone:
            raise StoreError(ENTRY_NOT_FOUND, f"A file with this name doesn't exist: {path}")
        for name in gone:
            del files[name]
