"""A file is whole under its name or not there: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, draft: Path, *, first_stays: bool = False) -> Iterator[BinaryIO]:
    """A file to write as `draft`, on the same file system, which becomes `path` at the end of the block; after an error
    nothing is left of it, and `path` is as it was.

    Two who may write `path` at once need drafts of their own. `first_stays`: the file of who is done first is kept, not
    that of the last. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not (first_stays and path.exists()):
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
