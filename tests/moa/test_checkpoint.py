"""A checkpoint is whole or not there: after every kind of interruption the newest good one is found."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moa import checkpoint
from moa.errors import CheckpointError, DamagedCheckpointError


def _save(folder: Path, step: int, keep: int = 3, warn: Callable[[str], None] = print) -> Path:
    groups = {"weights": {"a": torch.full((4,), float(step))}, "optimizer": {"a.step": torch.tensor(float(step))}}
    return checkpoint.save(folder, step, groups, {"step": step, "x": 0.1}, keep, warn)


def _steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    path = _save(tmp_path, 7)
    found = checkpoint.latest(tmp_path)
    assert (found.path, found.step, found.state) == (path, 7, {"step": 7, "x": 0.1})
    assert torch.equal(found.tensors("weights")["a"], torch.full((4,), 7.0))
    assert found.tensors("optimizer")["a.step"].shape == ()
    assert sorted(f.name for f in path.iterdir()) == [
        "COMPLETE", "optimizer.safetensors", "state.json", "weights.safetensors"
    ]  # fmt: skip
    with pytest.raises(CheckpointError, match="has no average.safetensors"):
        found.tensors("average")


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None


def test_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 9, 10, 100):
        _save(tmp_path, step, keep=2)
    assert _steps(tmp_path) == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_file_falls_back_with_a_message(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 1)
    file = _save(tmp_path, 2) / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    messages: list[str] = []
    found = checkpoint.latest(tmp_path, warn=messages.append)
    assert found.step == 1
    assert len(messages) == 1 and "step-00000002" in messages[0] and "falling back" in messages[0]


def test_saving_after_a_fallback_removes_the_damaged_ones_not_the_good(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    for step in (2, 3):
        (_save(tmp_path, step, keep=5) / "COMPLETE").unlink()
    _save(tmp_path, 2, keep=1)
    assert _steps(tmp_path) == ["step-00000002"]
    assert checkpoint.latest(tmp_path).step == 2


def test_a_crash_at_any_point_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each operation that touches the disk fails in turn, as on a full disk."""
    _save(tmp_path, 1)
    real = {"save_file": checkpoint.save_file, "_write_json": checkpoint._write_json, "_flush": checkpoint._flush}
    points = 0
    while True:
        calls = 0

        def faulty(name: str, *args: object) -> None:
            nonlocal calls
            calls += 1
            if calls > points:  # noqa: B023
                raise OSError(28, "No space left on device")
            real[name](*args)

        for name in real:
            monkeypatch.setattr(checkpoint, name, lambda *args, name=name: faulty(name, *args))  # noqa: B023
        try:
            _save(tmp_path, 2)
        except CheckpointError as error:
            assert "make room" in str(error) and "No space left" in str(error)
            assert checkpoint.latest(tmp_path).step in (1, 2)  # 2 only when the rename was done
            assert not [name for name in os.listdir(tmp_path) if name.endswith(".writing")]
            points += 1
        else:
            break
    assert points >= 8
    assert checkpoint.latest(tmp_path).step == 2


def test_a_killed_writer_leaves_no_candidate(tmp_path: Path) -> None:
    _save(tmp_path, 1)
    _save(tmp_path, 2).rename(tmp_path / ".step-00000002.writing")  # all written, not renamed
    assert checkpoint.latest(tmp_path).step == 1
    _save(tmp_path, 3)  # the run went on from step 1 and saves at others
    assert _steps(tmp_path) == ["step-00000001", "step-00000003"]
    assert not list(tmp_path.glob(".step-*"))


def test_other_format_ends_the_run_rather_than_starting_it_anew(tmp_path: Path) -> None:
    path = _save(tmp_path, 1) / "COMPLETE"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "moa-checkpoint/9"}))
    with pytest.raises(CheckpointError, match="format 'moa-checkpoint/9', this version reads 'moa-checkpoint/1'"):
        checkpoint.latest(tmp_path)


def test_a_copy_under_the_name_of_another_step_is_not_taken_for_that_step(tmp_path: Path) -> None:
    """Training would go on at the step of the name, with the weights and the counters of the other."""
    shutil.copytree(_save(tmp_path, 1), tmp_path / "step-00000005")
    with pytest.raises(CheckpointError, match="step-00000005 is one of step 1: give it that name again, or move it"):
        checkpoint.latest(tmp_path)


def test_one_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    digest = checkpoint.file_digest

    def failing(path: Path) -> str:
        if path.parent.name == "step-00000002":
            raise OSError(5, "Input/output error")
        return digest(path)

    monkeypatch.setattr(checkpoint, "file_digest", failing)
    with pytest.raises(CheckpointError, match="step-00000002 cannot be read .*Input/output error") as caught:
        checkpoint.latest(tmp_path)
    assert not isinstance(caught.value, DamagedCheckpointError)


def test_a_good_one_of_a_later_step_is_kept_with_a_message(tmp_path: Path) -> None:
    _save(tmp_path, 9)
    messages: list[str] = []
    _save(tmp_path, 4, warn=messages.append)
    assert _steps(tmp_path) == ["step-00000004", "step-00000009"]
    assert len(messages) == 1 and "step-00000009 is good but not of this run" in messages[0]


def test_what_cannot_be_deleted_is_a_message_and_the_next_save_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 1, keep=1)
    rmtree, messages = shutil.rmtree, []

    def locked(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "step-00000001":
            raise PermissionError(13, "Permission denied")
        rmtree(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", locked)
        _save(tmp_path, 2, keep=1, warn=messages.append)
    assert _steps(tmp_path) == ["step-00000001", "step-00000002"]
    assert len(messages) == 1 and "step-00000001 could not be deleted" in messages[0]
    _save(tmp_path, 3, keep=1)
    assert _steps(tmp_path) == ["step-00000003"]


def test_the_newest_is_not_deleted_where_an_older_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a finished training would go on from the older one."""
    for step in (1, 2, 3):
        _save(tmp_path, step, keep=3)
    rmtree, messages = shutil.rmtree, []

    def locked(path: Path) -> None:
        if path.name == "step-00000002":
            raise PermissionError(13, "Permission denied")
        rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", locked)
        assert checkpoint.delete(tmp_path, messages.append) == 1
    assert checkpoint.steps(tmp_path) == [3, 2] and len(messages) == 1
    assert checkpoint.delete(tmp_path) == 2 and checkpoint.steps(tmp_path) == []


def test_a_disk_that_fills_up_within_a_file_is_a_typed_error(tmp_path: Path) -> None:
    """The library that writes the tensors has errors of its own; a limit on the size of files stands for the disk."""
    _save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot write .*step-00000002 .*File too large.*make room"):
            checkpoint.save(tmp_path, 2, {"weights": {"a": torch.ones(1000)}}, {}, keep=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["step-00000001"]


def test_tensors_that_share_memory_are_saved_and_later_updates_do_not_reach_the_file(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    checkpoint.save(tmp_path, 1, {"weights": {"whole": whole, "same": whole, "turned": whole.view(2, 3).T}}, {}, keep=1)
    whole.zero_()
    found = checkpoint.latest(tmp_path).tensors("weights")
    assert found["whole"].tolist() == found["same"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    found["whole"].zero_()  # whoever goes on from a checkpoint changes its tensors in place
    assert checkpoint.latest(tmp_path).tensors("weights")["whole"].tolist() == [0, 1, 2, 3, 4, 5]
