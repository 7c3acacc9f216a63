"""Author and licence of single photographs, from a file in the layout of FFHQ's ffhq-dataset-v2.json.

`{"0": {"metadata": {"author": "...", "license": "...", ...}, ...}, ...}`, keyed by the image's number. CC BY asks for
the author's name beside every copy, so each sample of the shards carries it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Whom a photograph belongs to and under which licence."""

    licence: str
    author: str


def read_credits(root: Path, name: str) -> dict[int | None, Credit]:
    """Credits by image number. Raises SourceError that names the file."""
    path = root / name
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(number): Credit(licence=entry["metadata"]["license"], author=entry["metadata"]["author"])
            for number, entry in entries.items()
        }
    except FileNotFoundError as error:
        raise SourceError(f"{path}: source.credits is not there; fetch it or take the field out") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: not in the layout of ffhq-dataset-v2.json ({error!r})") from error
