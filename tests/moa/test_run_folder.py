"""One training at a time in a run folder: the second is refused and touches nothing. Its shards are not changed
while it runs."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moa.train
from moa import checkpoint
from moa.data import unchanging
from moa.errors import MissingInputError, RunFolderError, ShardDataError, TrainConfigError
from moa.run_folder import LOCK, alone_in, drop_checkpoints
from tests.moa.training import ALONE, MakeConfig, run

HOLD = (
    f"import fcntl, sys; f = open(sys.argv[1] + '/{LOCK}', 'a'); fcntl.flock(f, 2); print('held', flush=True); input()"
)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_second_training_is_refused_and_touches_nothing(make_config: MakeConfig) -> None:
    """The first one holds the folder until it ends. SIGTERM ends it with status 143, after it has saved."""
    config = make_config(steps=100_000, checkpoint_every=100_000)
    config.run_folder.mkdir(parents=True)
    path = config.run_folder / "config.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "moa.train", str(path)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    first = subprocess.Popen(command, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while '"loss"' not in (line := first.stdout.readline()):
            assert line, first.stderr.read()
        with pytest.raises(RunFolderError, match=r"run is in use by another training: wait for it, stop it, or choose"):
            run(config)
        first.terminate()
        out, err = first.communicate(timeout=300)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 143, err
    last, done = json.loads(out.splitlines()[-1]), checkpoint.latest(config.run_folder / "checkpoints").step
    assert last["event"] == "stopped" and last["step"] == done
    before = files(config.run_folder)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(config.run_folder)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError):
            run(config)
        assert files(config.run_folder) == before
    finally:
        holder.kill()
        holder.communicate()
    assert run(config.model_copy(update={"steps": done + 1})) == 0


def test_an_error_inside_lets_go_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), alone_in(tmp_path / "run", ALONE, print):
        raise KeyError
    with (
        alone_in(tmp_path / "run", ALONE, print),
        pytest.raises(RunFolderError, match="in use"),
        alone_in(tmp_path / "run", ALONE, print),
    ):
        pass


def test_a_file_system_without_locks_is_a_warning(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def absent(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", absent)
    assert run(make_config(steps=1)) == 0
    first = json.loads(capfd.readouterr().out.splitlines()[0])
    assert first["event"] == "warning" and "cannot be locked (No locks available)" in first["message"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = "file/run cannot be written .*choose another run folder"
    with pytest.raises(RunFolderError, match=message), alone_in(tmp_path / "file" / "run", ALONE, print):
        pass


# The shards it reads.


def may_change(shards: Path) -> bool:
    """Whether preprocessing would get the folder for itself now."""
    with open(shards / ".lock", "a+") as file:  # the name both rooms know from datasets/FORMAT.md
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False


def test_checkpoints_are_dropped_when_nobody_needs_them(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=2, checkpoint_every=1)
    folder, record = config.run_folder, config.run_folder / "config.json"
    run(config)
    kept = checkpoint.steps(folder / "checkpoints")
    assert kept == [2, 1] and drop_checkpoints(folder, print) == 0, "nobody knows how far it was to go"
    record.write_text(config.model_copy(update={"steps": 3}).model_dump_json())
    assert drop_checkpoints(folder, print) == 0, "it goes on from them"
    record.write_text(config.model_dump_json())
    weights = folder / "export/moa.safetensors"
    weights.rename(weights.with_suffix(".gone"))
    assert drop_checkpoints(folder, print) == 0, "the export is made of them"
    weights.with_suffix(".gone").rename(weights)
    with alone_in(folder, ALONE, print):
        assert drop_checkpoints(folder, print) == 0, "somebody trains"
    with monkeypatch.context() as without_locks:
        without_locks.setattr(fcntl, "flock", no_locks)
        assert drop_checkpoints(folder, print) == 0, "who knows whether somebody trains"
    assert checkpoint.steps(folder / "checkpoints") == kept and drop_checkpoints(folder / "none", print) == 0

    assert drop_checkpoints(folder, print) == 2 and checkpoint.steps(folder / "checkpoints") == []
    capsys.readouterr()
    assert run(config) == 0 and '"finished"' in capsys.readouterr().out
    with pytest.raises(TrainConfigError, match="steps is 1, but .*export is beyond it"):
        run(config.model_copy(update={"steps": 1}))
    assert run(config.model_copy(update={"steps": 3})) == 0
    assert "trained to step 2, but no checkpoint of it is left to go on from: all 3 steps" in capsys.readouterr().out


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_shards_are_held_until_the_training_ends(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With loader processes, which inherit the open lock and may outlive the training for a moment."""
    config = make_config(steps=2, num_workers=1)
    step, seen = moa.train.training_losses, []

    def watched(*args):
        seen.append(may_change(config.shards))
        return step(*args)

    monkeypatch.setattr(moa.train, "training_losses", watched)
    assert run(config) == 0
    assert seen == [False, False]
    assert may_change(config.shards)


def test_shards_that_are_being_changed_are_not_trained_on(make_config: MakeConfig, shards: Path) -> None:
    config = make_config()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(shards)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ShardDataError, match=f"{shards} is being changed by preprocessing at this moment: let it"):
            run(config)
        assert not config.run_folder.exists()
    finally:
        holder.communicate("")
    assert run(config.model_copy(update={"steps": 1})) == 0


def test_trainings_share_their_shards(tmp_path: Path) -> None:
    with pytest.raises(KeyError), unchanging(tmp_path, print), unchanging(tmp_path, print):
        assert not may_change(tmp_path)
        raise KeyError
    assert may_change(tmp_path)


def test_shards_in_which_no_lock_can_be_made_are_not_held(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only folder is trained on; one that is not there is named by the check of the inputs."""
    with pytest.raises(MissingInputError, match="absent"):
        run(make_config(shards=tmp_path / "absent"))
    config, opened, refused = make_config(steps=1), os.open, []

    def read_only(path: Path, flags: int, mode: int = 0o777, **rest: object) -> int:
        if path == config.shards / LOCK:
            refused.append(path)
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", read_only)
    assert run(config) == 0
    assert len(refused) == 1
