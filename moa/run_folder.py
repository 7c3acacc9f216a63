"""The folders a training holds while it runs, and how far it is.

Its run folder is its own (datasets/FORMAT.md, section 5). Its shard folder (section 2) it shares with all who read it:
a sample is read by its shard's name, so shards that preprocessing replaced meanwhile would be other pictures under the
digest of the old ones.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from moa import checkpoint as checkpoints
from moa.distributed import Ranks
from moa.errors import RunFolderError, ShardDataError, TrainConfigError
from moa.train_config import TrainConfig, refuse_changes

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system that has none

Warn = Callable[[str], None]


@contextmanager
def alone_in(folder: Path, here: Ranks, warn: Warn) -> Iterator[None]:
    """Holds the folder's lock, by rank 0; the system lets go of it when that process ends, however it ends.

    Raises `RunFolderError`, on every rank, when another training holds it or the folder cannot be written. A file
    system without locks (some network file systems are mounted so) does not stop a training: `warn` gets a message.
    """
    lock, problem = _try_lock(folder, warn) if here.first else (None, "")
    if here.from_first(int(problem != "")):
        raise RunFolderError(problem or f"{folder}: rank 0 says why it cannot be used")
    try:
        yield
    finally:
        if lock:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing alone would not do while a loader process has the file, too
            lock.close()


@contextmanager
def unchanging(shards: Path, here: Ranks, warn: Warn) -> Iterator[None]:
    """Keeps preprocessing from changing a shard folder, by every rank (each machine may have a copy of its own).

    Raises `ShardDataError` when preprocessing is changing it now. A folder in which no lock can be made or opened, as
    in one that is read-only or not there, is not held; one on a file system without locks neither, and `warn` gets a
    message.
    """
    lock = _share(shards, warn if here.first else lambda _: None)
    try:
        yield
    finally:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)  # as above
            os.close(lock)


def _share(shards: Path, warn: Warn) -> int | None:
    """The descriptor of the shared lock; None where there can be none."""
    try:
        lock = os.open(shards / LOCK, os.O_RDONLY | os.O_CREAT, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return lock
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            message = "is being changed by preprocessing at this moment: let it finish, then start the training again"
            raise ShardDataError(f"{shards} {message}") from error
        warn(f"{shards} cannot be locked ({error.strerror}): see to it that preprocessing does not change it meanwhile")
        return None


def _try_lock(folder: Path, warn: Warn) -> tuple[IO[str] | None, str]:
    """The locked file, and what is wrong otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        return None, f"{folder} cannot be written ({error.strerror}): fix permissions, or choose another run folder"
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file, ""
    except OSError as error:
        file.close()
        if error.errno not in _NO_LOCKS:
            return None, f"{folder} is in use by another training: wait for it, stop it, or choose another run folder"
        warn(f"{folder} cannot be locked ({error.strerror}): see to it that no other training uses it")
        return None, ""


def steps_done(config: TrainConfig, record: dict[str, Any], warn: Warn) -> int:
    """The step of the newest good checkpoint, 0 without one. Raises `ConfigChangedError` when it is another run's."""
    found = checkpoints.latest(config.run_folder / "checkpoints", warn)
    if found is None:
        return 0
    refuse_changes(found.state["config"], record, found.path.parent)
    if found.step > config.steps:
        raise TrainConfigError(
            f"steps is {config.steps}, but {found.path} is beyond it: raise steps, or use a new folder"
        )
    return found.step


def is_exported(config: TrainConfig, done: int) -> bool:
    """Whether the run is finished: its last step is done and exported."""
    manifest = config.run_folder / "export" / "manifest.json"
    return done == config.steps and manifest.is_file() and json.loads(manifest.read_text("utf-8"))["step"] == done


def cut_metrics(path: Path, done: int) -> None:
    """Drops the lines of steps that will be done again; a half-written last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kept += [line + "\n"] if json.loads(line)["step"] <= done else []
        except ValueError:
            continue
    draft = path.with_suffix(".jsonl.writing")
    draft.write_text("".join(kept), encoding="utf-8")
    os.replace(draft, path)
