"""What publishing and promoting return, and a run folder keeps: `publication.json` and `promotion.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moa.errors import HubError
from moa.hub.content import FileDigest

MAIN = "main"  # the branch that people load; candidates are on others


class Publication(BaseModel):
    """A verified revision of a repository: what was published where."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: str
    endpoint: str
    branch: str
    commit: str
    files: dict[str, FileDigest]
    adapter_digest: str
    source: str | None = None
    """Whatever the publisher knows its input by; the same source need not be published again."""

    @classmethod
    def read(cls, path: Path) -> Publication:
        """Read a record back.

        Raises:
            HubError: missing, not JSON, or with other fields; names the file.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise HubError(f"{path} cannot be read ({error.strerror}); publish the run again") from error
        except ValidationError as error:
            wrong = ", ".join(str(problem["loc"][0]) for problem in error.errors() if problem["loc"]) or "its JSON"
            raise HubError(f"{path} is no record of a publication ({wrong}); publish the run again") from error


class Promotion(BaseModel):
    """A move of `main` to the content of a publication. `previous` is the head before: the way back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: str
    endpoint: str
    candidate: str
    commit: str
    previous: str
    tag: str
