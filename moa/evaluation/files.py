"""How the evaluation writes: a whole file appears or none does, JSON is canonical, digests are over its bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> str:
    """Sorted keys, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def json_digest(value: Any) -> str:
    """`sha256:<hex>` of a value's canonical JSON."""
    return f"sha256:{hashlib.sha256(canonical_json(value).encode()).hexdigest()}"


def write_json(path: Path, value: Any) -> Path:
    """Writes indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=2) + "\n"
    return write_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> Path:
    """Calls `write` with a name beside `path` (same suffix) and moves the result into place: a reader never sees half
    a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path
