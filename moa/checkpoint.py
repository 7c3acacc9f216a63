"""Checkpoints that are either whole or not there, without pickle.

    <folder>/step-00000100/
        weights.safetensors, optimizer.safetensors, ...   one file per named group of tensors
        state.json                                        everything that is no tensor
        COMPLETE                                          {"format", "step", "files": {name: sha256}}, written last

A checkpoint is built in a temporary folder, flushed to disk and renamed. `latest` takes the newest whose digests
hold; a damaged one is named in a message and passed over, one that cannot be judged (no permission, a disk that fails,
another format, the name of another step) ends the run, because going on would mean to train its steps again and to
delete it. Older ones are deleted only after the new one is in place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moa.data import file_digest
from moa.errors import CheckpointError, DamagedCheckpointError

FORMAT = "moa-checkpoint/1"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk, its digests verified."""

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, group: str) -> dict[str, Tensor]:
        """The group's tensors, on the CPU, memory-mapped: copy what is to outlive the file.

        Raises `CheckpointError` when the checkpoint has no such group.
        """
        file = self.path / f"{group}.safetensors"
        if not file.is_file():
            raise CheckpointError(f"{self.path} has no {file.name}: it was written by another kind of run")
        return load_file(file)


def save(
    folder: Path,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    warn: Callable[[str], None] = print,
) -> Path:
    """Commits a checkpoint of `step` under `folder`, then keeps the `keep` newest up to it and deletes the others.

    `groups` maps a file name to its named tensors, which may share memory; `state` must be JSON. Raises
    `CheckpointError` when it cannot be written (disk full, no permission); the checkpoints already there are then
    untouched. What cannot be deleted is told to `warn`.
    """
    folder, final = Path(folder), Path(folder) / f"step-{step:08d}"
    draft = folder / f".{final.name}.writing"
    try:
        for abandoned in folder.glob(".step-*.writing"):  # of a save that was killed, perhaps of another step
            shutil.rmtree(abandoned, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, tensors in groups.items():
            save_file({k: _apart(t) for k, t in tensors.items()}, draft / f"{name}.safetensors")
        _write_json(draft / "state.json", state)
        files = {path.name: file_digest(path) for path in sorted(draft.iterdir())}
        _write_json(draft / "COMPLETE", {"format": FORMAT, "step": step, "files": files})
        for path in (*draft.iterdir(), draft):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)  # a damaged one of the same step, or `latest` would have gone past it
        os.replace(draft, final)
        _flush(folder)
    except (OSError, SafetensorError) as error:  # the latter is how `save_file` says that the disk is full
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"cannot write {final} ({error}): make room or fix permissions, then run again"
        ) from error
    for path in _superfluous(folder, step, keep, warn):
        _delete(path, warn)
    return final


def latest(folder: Path, warn: Callable[[str], None] = print) -> Checkpoint | None:
    """The newest complete and undamaged checkpoint under `folder`, or None; each damaged one is told to `warn`.

    Raises `CheckpointError` for one that cannot be read, has another format or the name of another step.
    """
    for step, path in _candidates(Path(folder)):
        try:
            return _open(path, step)
        except DamagedCheckpointError as error:
            warn(f"{error}; falling back to the checkpoint before it")
    return None


def at_step(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of `step`, which `latest` found on another rank. Raises `CheckpointError` if it is not whole."""
    return _open(Path(folder) / f"step-{step:08d}", step)


def steps(folder: Path) -> list[int]:
    """The steps there are checkpoints of, newest first, whole or not."""
    return [step for step, _ in _candidates(Path(folder))]


def delete(folder: Path, warn: Callable[[str], None] = print) -> int:
    """Deletes all checkpoints under `folder`, the oldest first; returns how many. The first that cannot be is told to
    `warn`, and the newer ones stay: training would go on from the newest that is left."""
    oldest_first = reversed(_candidates(Path(folder)))
    return sum(1 for _ in takewhile(lambda found: _delete(found[1], warn), oldest_first))


def _delete(path: Path, warn: Callable[[str], None]) -> bool:
    try:
        shutil.rmtree(path)
        return True
    except OSError as error:
        warn(f"{path} could not be deleted ({error}): delete it yourself, it is not needed any more")
        return False


def _open(path: Path, step: int) -> Checkpoint:
    try:
        complete = json.loads((path / "COMPLETE").read_text(encoding="utf-8"))
        for name, digest in complete["files"].items():
            if file_digest(path / name) != digest:
                raise DamagedCheckpointError(f"checkpoint {path} is damaged: {name} does not have the recorded sha256")
        if complete["format"] != FORMAT:
            raise CheckpointError(
                f"checkpoint {path} has format {complete['format']!r}, this version reads {FORMAT!r}: use a new run "
                "folder, or the version that wrote it"
            )
        if complete["step"] != step:
            raise CheckpointError(
                f"checkpoint {path} is one of step {complete['step']}: give it that name again, or move it away"
            )
        return Checkpoint(path, step, json.loads((path / "state.json").read_text(encoding="utf-8")))
    except CheckpointError:
        raise
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"checkpoint {path} is incomplete ({error})") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read ({error}): make it readable, or delete it") from error


def _superfluous(folder: Path, step: int, keep: int, warn: Callable[[str], None]) -> Iterator[Path]:
    """Those older than the `keep` newest up to `step`, and damaged newer ones, which `latest` passed over.

    A good one of a later step is no work of this run: somebody put it there, or trains in the same folder where that
    cannot be locked.
    """
    others = [(at, path) for at, path in _candidates(folder) if at != step]
    yield from [path for at, path in others if at < step][keep - 1 :]
    for at, path in others:
        if at > step:
            try:
                _open(path, at)
                warn(f"{path} is good but not of this run, which has just saved step {step}: move one of them away")
            except DamagedCheckpointError:
                yield path
            except CheckpointError as error:
                warn(str(error))


def _apart(tensor: Tensor) -> Tensor:
    """A copy on the CPU in memory of its own: files of safetensors hold no two tensors that share memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _candidates(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders, newest first."""
    found = [(int(m[1]), path) for path in folder.glob("step-*") if (m := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
