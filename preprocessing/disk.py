"""Trouble with the disk as one sentence: which folder, and what to do. For everything that a preprocessing writes.

Which errors are whose is known here only; `flows/failures.py` says the sentences of the other stages.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import OutputError

ANOTHER = "choose another folder (--out, in flows --set preprocess.out=)"
FULL = (errno.ENOSPC, errno.EDQUOT)  # there is no room
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)  # of somebody, or no folder
_GOES_ON = "finished shards are kept, and it goes on where it stopped"


@contextmanager
def disk_trouble_told(out: Path) -> Iterator[None]:
    """An OSError inside, while `out` is made, becomes an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{out}: {_sentence(error)}") from error


def _sentence(error: OSError) -> str:
    what = error.strerror or str(error)
    file = f": {error.filename}" if error.filename else ""
    if error.errno in FULL:
        return f"the disk is full ({what}{file}). Free some space and run the same command again: {_GOES_ON}"
    if error.errno in NOT_OURS:
        return f"cannot be written ({what}{file}). See whose it is and how it is mounted, or {ANOTHER}"
    return f"{what}{file}. See to the disk or network drive and run the same command again: {_GOES_ON}"
