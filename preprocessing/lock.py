"""Who may use a dataset folder at once (`.lock`, datasets/FORMAT.md section 2): many that read, or one that writes.

A training shares the lock while it runs, because it opens a shard anew for each sample: shards replaced under it would
silently be other pictures than those it says it learnt. A preprocessing shares it, too, while it looks whether there is
anything to do, so that an up-to-date dataset may be asked for at any time; before it changes a file it takes the lock
for itself. Nobody waits.
"""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import OutputError

logger = logging.getLogger(__name__)

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system that has none


@contextmanager
def shared(out: Path) -> Iterator[Callable[[], None]]:
    """Make the folder and share its lock; the function it yields takes the lock for this process alone.

    The system lets go of it when this process ends, however it ends. Both raise OutputError: the folder cannot be
    written or locked; another preprocessing is writing to it; or (the function) somebody else uses it. A file system
    without locks (some network file systems are mounted so) stops nobody: a warning says so.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Network file systems take an exclusive lock only on what is open for writing, a shared one for reading.
        file = (out / LOCK).open("a+")
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error

    def take_alone() -> None:
        if locks:
            _lock(file.fileno(), fcntl.LOCK_EX, out, "a training, evaluation or preprocessing uses this folder")

    with file:
        locks = _lock(file.fileno(), fcntl.LOCK_SH, out, "another preprocessing is writing to this folder")
        yield take_alone


def _lock(descriptor: int, kind: int, out: Path, user: str) -> bool:
    """Take a lock; False where there are none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise OutputError(f"{out}: {user}; wait for it, stop it or choose another --out") from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning(
                "%s: cannot be locked (%s); see to it that nobody else uses it meanwhile", out, error.strerror
            )
            return False
        raise OutputError(f"{out}: cannot be locked ({error.strerror}); choose another --out") from error
