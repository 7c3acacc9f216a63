"""What a training says before it fails, and that a refused one leaves config.json as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.files import read_json
from flows.overrides import resolve
from flows.torchrun import Draft, LastWords, training_command
from moa.train_config import TrainConfig

# Stands for the training, which needs seconds to import what it needs.
REFUSING = """
import os, sys
print(f"rank {os.environ['RANK']}: MissingInputError: {sys.argv[1]} of {os.environ['WORLD_SIZE']}")
sys.exit(1)
"""


def heard(text: str) -> LastWords:
    words = LastWords()
    for line in text.splitlines():
        words.hear(line)
    return words


def test_a_message_keeps_all_its_lines() -> None:
    """The changes of a configuration are listed one a line."""
    words = heard(
        "noise\nrank 0: ConfigChangedError: undo these changes:\n  seed: 0 -> 77\n  steps: 1 -> 2\n"
        "E1126 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: 1)\nTraceback"
    )
    assert words.message == "rank 0: ConfigChangedError: undo these changes:\n  seed: 0 -> 77\n  steps: 1 -> 2"
    assert str(words) == words.message


def test_the_last_message_of_the_first_rank_counts() -> None:
    words = heard("rank 0: early\nrank 1: other\nrank 0: late\n  detail\nrank 1: other\n  its detail")
    assert words.message == "rank 0: late\n  detail"


def test_a_process_that_was_killed_leaves_no_message_of_its_own() -> None:
    words = heard("some line\nRuntimeError: CUDA error\nE1126 torch/distributed/elastic/x.py] Signal 9")
    assert words.message is None and str(words) == "some line\nRuntimeError: CUDA error" and words
    assert not LastWords()


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    config = resolve("miniature", [], "run")
    return config.train.model_copy(update={"out": config.run})


@pytest.mark.parametrize("event", ["start", "resume", "finished"])
def test_a_draft_becomes_the_configuration_when_the_training_accepts_it(training: TrainConfig, event: str) -> None:
    draft, config = Draft(training), training.run_folder / "config.json"
    draft.hear({"event": "latents", "done": 1})
    assert draft.path.parent == training.run_folder, "a killed flow leaves nothing outside of its run"
    assert draft.path.is_file() and not config.exists()
    draft.hear({"event": event})
    draft.discard()
    assert read_json(config) == training.model_dump(mode="json")
    assert [path.name for path in training.run_folder.iterdir()] == ["config.json"]


def test_a_refused_draft_changes_nothing(training: TrainConfig) -> None:
    accepted = Draft(training)
    accepted.hear({"event": "start"})
    refused = Draft(training.model_copy(update={"seed": 77}))
    refused.discard()
    assert read_json(training.run_folder / "config.json")["seed"] == 0
    assert [path.name for path in training.run_folder.iterdir()] == ["config.json"]


def test_two_drafts_of_one_run_do_not_meet(training: TrainConfig) -> None:
    """The second flow on a run is refused by the training's lock, after it has written its draft."""
    first, second = Draft(training), Draft(training.model_copy(update={"seed": 77}))
    assert read_json(first.path)["seed"] == 0 and read_json(second.path)["seed"] == 77
    second.discard()
    first.hear({"event": "start"})
    assert read_json(training.run_folder / "config.json")["seed"] == 0 and not first.path.exists()


def test_one_process_needs_no_launcher() -> None:
    assert training_command(Path("draft.json"), 1) == [sys.executable, "-m", "moa.train", "draft.json"]


@pytest.mark.slow
def test_what_a_rank_says_before_it_fails_is_kept_without_what_the_launcher_says(tmp_path: Path) -> None:
    """The real launcher, with a module that needs no time to start. It leaves no folder of logs."""
    (tmp_path / "refusing.py").write_text(REFUSING)
    command = [word.replace("moa.train", "refusing") for word in training_command(Path("draft.json"), 2)]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = done.stdout + done.stderr
    assert done.returncode and heard(said).message == "rank 0: MissingInputError: draft.json of 2"
    assert "torch/distributed/elastic" in said and "elastic" not in str(heard(said))
    assert not list(tmp_path.glob("torchelastic_*"))
