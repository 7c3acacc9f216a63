"""JSON files of a run: UTF-8, sorted keys, no NaN, written to a temporary name and renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` to `path`, atomically; an equal file is left alone. Returns `path`."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another command may be writing the same file
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
