"""JSON files of a run: UTF-8, sorted keys, no NaN, written to a temporary name, flushed to the disk and renamed."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from flows.errors import BrokenFileError


def write_json(path: Path, value: Any) -> Path:
    """Writes `value` to `path`, atomically; an equal file is left alone. Returns `path`. Raises OSError, naming it."""
    data = json_bytes(value)
    if path.is_file() and path.read_bytes() == data:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another command may be writing the same file
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave an empty file under the final name
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # a full disk does not say of which file
        raise
    return path


def json_bytes(value: Any) -> bytes:
    """The bytes that `write_json` writes."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises BrokenFileError for a file without one, and later where a key that it lacks is
    asked for, OSError where there is no file."""
    try:
        found = json.loads(path.read_bytes(), object_hook=partial(_Object, path))
    except ValueError as error:
        what = "is empty" if not path.stat().st_size else f"is no JSON ({error})"
        raise BrokenFileError(
            f"{path} {what}, as a power cut may leave a file: delete it and run the stage that writes it again. "
            "What is finished is kept"
        ) from error
    if not isinstance(found, _Object):
        raise BrokenFileError(f"{path} holds no object: delete it and run the stage that writes it again")
    return found


class _Object(dict[str, Any]):
    """An object of a file: where it lacks a key, the file is at fault, as one of another version may be."""

    def __init__(self, path: Path, values: dict[str, Any]):
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise BrokenFileError(f"{self._path} lacks {key!r}: delete it and run the stage that writes it again")
