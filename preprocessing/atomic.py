"""Files that are either whole or absent, canonical JSON and digests.

A file is written under `<name>.<process>-<thread>.tmp`, so that two writers never share one, flushed to the disk and
renamed; nobody ever sees half of it under its own name.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20
_HALF_WRITTEN = re.compile(r".+\.(tar|jsonl?)(\.\d+-\d+)?\.tmp")  # earlier versions wrote no process


def sha256_bytes(data: bytes) -> str:
    """`sha256:<hex>` of a byte string."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_file(path: Path) -> str:
    """`sha256:<hex>` of a file, read in blocks. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def sha256_json(value: Any) -> str:
    """Digest of a JSON value in canonical form: sorted keys, no spaces, ASCII."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing; it becomes `path` on success; on an exception it goes and `path` stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file at once."""
    with replacing(path) as stream:
        stream.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file with sorted keys; NaN and infinity raise ValueError."""
    write_bytes(path, (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode())


def remove_half_written(folder: Path) -> None:
    """Delete what killed writers left in a folder, where nobody else writes now."""
    for path in sorted(folder.glob("*.tmp")):
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
