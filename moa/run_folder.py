"""The folder of a run (datasets/FORMAT.md, section 5): one training has it at a time, and it says how far that is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moa import checkpoint as checkpoints
from moa.adapter import read_adapter
from moa.atomic import replacing
from moa.distributed import Ranks
from moa.errors import AdapterError, RunFolderError, TrainConfigError
from moa.file_lock import Warn, locked
from moa.train_config import TrainConfig, changed_settings, refuse_changes

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path, here: Ranks, warn: Warn) -> Iterator[None]:
    """Holds the folder's lock, by rank 0.

    Raises `RunFolderError`, on every rank, when another training holds it or the folder cannot be written. On a file
    system without locks `warn` gets a message.
    """
    with ExitStack() as held:
        problem = _take(held, folder, warn) if here.first else ""
        if here.from_first(int(problem != "")):
            raise RunFolderError(problem or f"{folder}: rank 0 says why it cannot be used")
        yield


def _take(held: ExitStack, folder: Path, warn: Warn) -> str:
    """Why the folder cannot be held; empty when it is."""
    busy = RunFolderError(f"{folder} is in use by another training: wait for it, stop it, or choose another run folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(folder / LOCK, busy, warn))
    except RunFolderError as error:
        return str(error)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}): fix permissions, or choose another run folder"
    return ""


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


def is_exported(config: TrainConfig, record: dict[str, Any], done: int, warn: Warn) -> bool:
    """Whether the run is finished: its last step is done and exported. Where all checkpoints were deleted, the record
    in the adapter says whether this training made it. A damaged adapter is told to `warn`, and counts as none. Raises
    `TrainConfigError` for an export beyond the steps that are asked for."""
    export = config.run_folder / "export"
    if not (export / "manifest.json").is_file():
        return False
    try:
        origin = read_adapter(export).provenance
    except AdapterError as error:
        warn(f"the exported adapter is not usable, and made again: {error}")
        return False
    if done or origin.get("step") != config.steps:
        if not done:
            _no_checkpoint_left(export, origin.get("step") or 0, config.steps, warn)
        return done == config.steps == origin.get("step")
    inputs = {**origin.get("inputs", {}), "image_encoder": origin.get("image_encoder")}
    return not changed_settings({**origin.get("training", {}), "inputs": inputs}, record)


def _no_checkpoint_left(export: Path, trained: int, steps: int, warn: Warn) -> None:
    if trained > steps:
        raise TrainConfigError(f"steps is {steps}, but {export} is beyond it: raise steps, or use a new folder")
    warn(
        f"{export} was trained to step {trained}, but no checkpoint of it is left to go on from: all {steps} steps are "
        "trained"
    )


def drop_checkpoints(folder: Path, warn: Warn) -> int:
    """Deletes the checkpoints of a finished training, which can then be trained no further; returns how many.

    None goes, and 0 is returned, while one is needed: `folder` is in use, it was asked for more steps than were
    exported, or its export is not whole. On a file system without locks nobody can tell, so none goes either. What
    cannot be deleted is told to `warn`.
    """
    busy = RunFolderError(f"{folder} is in use")

    def refuse(_: str) -> None:
        raise busy

    try:
        with locked(folder / LOCK, busy, refuse):
            found = checkpoints.steps(folder / "checkpoints")
            return checkpoints.delete(folder / "checkpoints", warn) if _is_done(folder, found) else 0
    except OSError:  # RunFolderError is one; or there is no such folder, or it may not be written to
        return 0


def _is_done(folder: Path, steps: Sequence[int]) -> bool:
    """Whether a run's newest checkpoint is of the last step it was asked for, and that step is exported whole."""
    try:
        asked = json.loads((folder / "config.json").read_text(encoding="utf-8"))["steps"]
        return bool(steps) and max(steps) == asked == read_adapter(folder / "export").provenance.get("step")
    except (OSError, ValueError, KeyError, TypeError):  # AdapterError is a ValueError
        return False


def add_metrics(path: Path, line: dict[str, Any]) -> None:
    """Appends a line to metrics.jsonl. Raises `RunFolderError` when it cannot be written (disk full, no permission)."""
    with _writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")


def cut_metrics(path: Path, done: int) -> None:
    """Drops the lines of steps that will be done again; a half-written last line goes too. Raises `RunFolderError`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            kept += [line + "\n"] if json.loads(line)["step"] <= done else []
        except ValueError:
            continue
    with _writing(path), replacing(path, path.with_suffix(".jsonl.writing")) as file:
        file.write("".join(kept).encode())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}): make room or fix permissions, then run again"
        ) from error
