"""Locks between processes, on files. The system lets go of one when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Warn = Callable[[str], None]


@contextmanager
def locked(path: Path, busy: Exception, warn: Warn, *, shared: bool = False) -> Iterator[None]:
    """Holds the lock of the file `path`, made where it is missing: alone, or with all others who share it.

    Nobody waits: raises `busy` when somebody else has it. Raises OSError when the file can be neither made nor opened.
    A file system without locks (some network file systems are mounted so) stops nobody: `warn` gets a message.
    """
    access = os.O_RDONLY if shared else os.O_RDWR  # network file systems lock alone only what is open for writing
    file = os.open(path, access | os.O_CREAT, 0o666)
    try:
        held = _take(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, path, busy, warn)
        try:
            yield
        finally:
            if held:
                fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would not do while a child process has it open, too
    finally:
        os.close(file)


def _take(file: int, kind: int, path: Path, busy: Exception, warn: Warn) -> bool:
    """Whether the lock is held now; False where there are no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError as error:
        raise busy from error
    except OSError as error:
        warn(f"{path.parent} cannot be locked ({error.strerror}): see to it that nobody else changes it meanwhile")
        return False
