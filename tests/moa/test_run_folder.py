"""One training at a time in a run folder: the second is refused, on all its ranks, and touches nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moa.errors import RunFolderError
from moa.run_folder import LOCK, alone_in
from moa.train_config import TrainConfig
from tests.moa.training import ALONE, MakeConfig, run

HOLD = (
    f"import fcntl, sys; f = open(sys.argv[1] + '/{LOCK}', 'a'); fcntl.flock(f, 2); print('held', flush=True); input()"
)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def command(config: TrainConfig, *launcher: str) -> subprocess.Popen[str]:
    """The training in processes of its own."""
    path = config.run_folder / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.model_dump_json())
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "moa.train", str(path)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def test_a_second_training_is_refused_and_touches_nothing(make_config: MakeConfig) -> None:
    """The first one holds the folder from its start, before it has loaded anything; killed, it holds it no longer."""
    config = make_config(steps=100_000, checkpoint_every=1)
    first = command(config)
    try:
        while "checkpoint" not in (line := first.stdout.readline()):
            assert line, first.stderr.read()
        with pytest.raises(RunFolderError, match=r"run is in use by another training: wait for it, stop it, or choose"):
            run(config)
    finally:
        first.kill()
        first.communicate()
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
    done = max(int(path.name[5:]) for path in (config.run_folder / "checkpoints").glob("step-*"))
    assert run(config.model_copy(update={"steps": done + 1})) == 0


@pytest.mark.slow
def test_all_ranks_end_with_a_message(make_config: MakeConfig) -> None:
    config = make_config()
    config.run_folder.mkdir(parents=True)
    with open(config.run_folder / LOCK, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = command(config, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "rank 0: RunFolderError: " in err and "is in use by another training" in err
    assert not (config.run_folder / "metrics.jsonl").exists()


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
