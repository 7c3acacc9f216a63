"""Who may use a dataset folder at once (`.lock`, datasets/FORMAT.md section 2): many that read, or one that writes.

A training shares the lock while it runs, because it opens a shard anew for each sample: shards replaced under it would
silently be other pictures than those it says it learnt. A preprocessing shares it, too, while it looks whether there is
anything to do, so that an up-to-date dataset may be asked for at any time; before it changes a file it takes the lock
for itself. Nobody waits.

A finished dataset may lie in a folder that nobody here can write to, such as a read-only mount: it can be asked for all
the same, and cannot be changed.
"""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from preprocessing.disk import ANOTHER
from preprocessing.errors import OutputError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system that has none


@contextmanager
def shared(out: Path) -> Iterator[Callable[[], None]]:
    """Make the folder and share its lock; the function it yields takes the lock for this process alone.

    The system lets go of it when this process ends, however it ends. Both raise OSError where the folder cannot be
    written (that of a finished dataset: the function alone does), and OutputError where it cannot be locked, another
    preprocessing is writing to it, or (the function) somebody else uses it. A file system without locks (some network
    file systems are mounted so) stops nobody: a warning says so.
    """
    file, refusal = _opened(out)

    def take_alone() -> None:
        if refusal:
            raise refusal
        if file and locks:
            _lock(file.fileno(), fcntl.LOCK_EX, out, "a training, evaluation or preprocessing uses this folder")

    with file or nullcontext():
        locks = file and _lock(file.fileno(), fcntl.LOCK_SH, out, "another preprocessing is writing to this folder")
        yield take_alone


def _opened(out: Path) -> tuple[IO[str] | None, OSError | None]:
    """The lock's file, and why the folder cannot be changed, if so; then there may be no file either."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Network file systems take an exclusive lock only on what is open for writing, a shared one for reading.
        return (out / LOCK).open("a+"), None
    except OSError as error:
        if not (out / "manifest.json").is_file():
            raise
        refusal = error
    try:
        return (out / LOCK).open(), refusal
    except OSError:
        return None, refusal


def _lock(descriptor: int, kind: int, out: Path, user: str) -> bool:
    """Take a lock; False where there are none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise OutputError(f"{out}: {user}; wait for it, stop it or {ANOTHER}") from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning(
                "%s: cannot be locked (%s); see to it that nobody else uses it meanwhile", out, error.strerror
            )
            return False
        raise OutputError(f"{out}: cannot be locked ({error.strerror}); {ANOTHER}") from error
