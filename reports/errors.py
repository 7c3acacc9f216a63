"""What the reports refuse, each error naming the file and saying what to do."""

from __future__ import annotations

from pathlib import Path


class ReportError(Exception):
    """Base of every error of this package; its text is meant for a person."""


class RunNotFoundError(ReportError):
    """The folder given is not there, or holds nothing a report could tell about."""


class CorruptFileError(ReportError):
    """A file is there and does not hold what datasets/FORMAT.md says.

    `path` is the file, `field` the place in it ("methods.0.ip.mean", "line 3", "column pc"), or "" for the whole file.
    """

    def __init__(self, path: Path, field: str, problem: str) -> None:
        self.path, self.field = path, field
        where = f"{path}: {field}" if field else str(path)
        super().__init__(
            f"{where}: {problem}. Write the file again with the stage that makes it (see datasets/FORMAT.md)."
        )
