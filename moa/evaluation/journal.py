"""`measurements.jsonl`: what was measured so far, so that scoring goes on where it stopped and adding a method
measures that method only.

One line per row of the scores, `{"key", "measured"}`; the key is the digest of everything the measurement depends on
(image, prior's image, reference, prompt, measuring models), so a stale line is never used. The file is a cache:
deleting it costs time, nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moa.evaluation.files import canonical_json, write_file

Measured = dict[str, Any]


class Journal:
    """Measurements by key. Use as a context manager; `add` appends at once, leaving keeps only what this run asked
    for."""

    def __init__(self, path: Path):
        self.path = path
        self._used: dict[str, Measured] = {}
        self._known: dict[str, Measured] = dict(_lines(path)) if path.is_file() else {}

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if kind is None:  # otherwise the run stopped half-way, and the lines it did not reach may still hold
            text = "".join(_line(key, measured) for key, measured in sorted(self._used.items()))
            write_file(self.path, lambda draft: draft.write_text(text, encoding="utf-8"))

    def get(self, key: str) -> Measured | None:
        """What was measured under `key`, or None."""
        if key in self._known:
            self._used[key] = self._known[key]
        return self._known.get(key)

    def add(self, key: str, measured: Measured) -> None:
        """Keeps a measurement, on disk before this returns to the operating system's care."""
        self._known[key] = self._used[key] = measured
        self._file.write(_line(key, measured))
        self._file.flush()


def _line(key: str, measured: Measured) -> str:
    return canonical_json({"key": key, "measured": measured}) + "\n"


def _lines(path: Path) -> list[tuple[str, Measured]]:
    """The readable lines; a process that was killed leaves a cut one at the end, and the next run's first line behind
    it."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            found.append((record["key"], record["measured"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found
