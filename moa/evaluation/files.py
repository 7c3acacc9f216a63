"""How the evaluation writes: a whole file appears or none does, JSON is canonical, digests are over its bytes; and what
files are called that belong to somebody or something with a name of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

from moa.atomic import replacing


def canonical_json(value: Any) -> str:
    """Sorted keys, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def json_digest(value: Any) -> str:
    """`sha256:<hex>` of a value's canonical JSON."""
    return f"sha256:{hashlib.sha256(canonical_json(value).encode()).hexdigest()}"


def write_json(path: Path, value: Any) -> Path:
    """Writes indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=2) + "\n"
    return write_file(path, lambda file: file.write(text.encode()))


def write_file(path: Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Calls `write` with a file that becomes `path` when it is whole: a reader never sees half of one."""
    with replacing(path, path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")) as file:
        write(file)
    return path


def file_name(text: str, taken: Collection[str] = ()) -> str:
    """A text as the name of files: itself where it is one, else what is left of it and a digest of all of it. `taken`
    are others' names in lower case, for some disks know files by that."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}", text) and text.lower() not in taken:
        return text
    left = re.sub(r"[^A-Za-z0-9_.\-]", "-", text)[:80].strip(".-")
    return f"{left or 'person'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
