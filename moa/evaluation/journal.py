"""`measurements.jsonl`: what was measured so far, so that scoring goes on where it stopped and adding a method
measures that method only.

One line per measurement, `{"key", "measured"}`; the key is the digest of everything it depends on (the image's bytes
and the measuring models), so a stale line is never used. Several processes measure at once by writing a part each,
`measurements.<part>.jsonl`; whoever opens the journal reads all parts, and the next run that ends without a part of
its own joins them. The files are a cache: deleting them costs time, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from moa.evaluation.files import canonical_json, write_file

Measured = dict[str, Any]


class Journal:
    """Measurements by key. Use as a context manager; `add` appends at once.

    With a `part` it appends to the part's file and leaves the others alone; without one it ends by joining the parts
    into `path`, which must not happen while another process still writes its part.
    """

    def __init__(self, path: Path, part: int | None = None):
        self.path, self.part = path, part
        self._known: dict[str, Measured] = {}
        for file in (path, *self._parts()):
            self._known.update(_lines(file))

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        name = self.path.name if self.part is None else f"{self.path.stem}.{self.part}{self.path.suffix}"
        self._file = self.path.with_name(name).open("ab")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        parts = self._parts()
        if kind is None and self.part is None and parts:
            write_file(self.path, self._write_all)
            for part in parts:
                part.unlink()

    def get(self, key: str) -> Measured | None:
        """What was measured under `key`, or None."""
        return self._known.get(key)

    def add(self, key: str, measured: Measured) -> None:
        """Keeps a measurement, on disk before this returns to the operating system's care."""
        self._known[key] = measured
        self._file.write(_line(key, measured))
        self._file.flush()

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}"))

    def _write_all(self, file: BinaryIO) -> None:
        file.writelines(_line(key, self._known[key]) for key in sorted(self._known))


def _line(key: str, measured: Measured) -> bytes:
    return f"{canonical_json({'key': key, 'measured': measured})}\n".encode()


def _lines(path: Path) -> Iterator[tuple[str, Measured]]:
    """The readable lines; a process that was killed leaves a cut one at the end, and the next run's first line behind
    it."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
                yield record["key"], record["measured"]
            except (ValueError, KeyError, TypeError):
                continue
