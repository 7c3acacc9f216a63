"""The records that publishing leaves in a run folder: `publication.json` and `promotion.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from moa.errors import HubError
from moa.hub.content import FileDigest


class Record(BaseModel):
    """A frozen JSON record, written atomically with sorted keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def write(self, path: Path) -> Path:
        """Write to a temporary name beside `path`, then rename."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(
            json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
        os.replace(temporary, path)
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record back.

        Raises:
            HubError: missing, not JSON, or with other fields; names the file.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except (OSError, ValidationError) as error:
            raise HubError(
                f"{path}: no usable {cls.__name__.lower()} record ({error}); publish the run again"
            ) from error


class Publication(Record):
    """A verified revision of a repository: what was published where."""

    repo_id: str
    endpoint: str
    branch: str
    commit: str
    files: dict[str, FileDigest]
    adapter_digest: str
    source: str | None = None
    """Whatever the publisher knows its input by; the same source need not be published again."""


class Promotion(Record):
    """A move of `main` to the content of a publication. `previous` is the head before: the way back."""

    repo_id: str
    endpoint: str
    candidate: str
    commit: str
    previous: str
    tag: str
