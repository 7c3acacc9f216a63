"""The training task in a flow run: a killed process is started again; only cancelling ends a healthy one."""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled, Cancelling, Crashed, Failed, Running

from flows import train
from flows.errors import TrainingFailedError
from flows.files import read_json
from flows.launch import flow_run_cancelled
from flows.overrides import resolve
from flows.settings import LifecycleConfig
from flows.torchrun import Draft, follow
from flows.trained import run_training

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

# Stands for the training processes: dies by SIGKILL as often as `deaths` says, then finishes.
TRAINING = """
import json, os, pathlib, signal, sys
folder, deaths = pathlib.Path(sys.argv[1]), int(sys.argv[2])
tries = folder / "tries"
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
print(json.dumps({"event": "start", "step": 0}), flush=True)
if len(tries.read_text()) <= deaths:
    os.kill(os.getpid(), signal.SIGKILL)
(folder / "export").mkdir()
(folder / "export/manifest.json").write_text("{}")
"""
REFUSING = """
import sys
print("rank 0: TrainConfigError: seed", file=sys.stderr)
sys.exit(1)
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LifecycleConfig:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    return resolve("miniature", [], "run")


@flow(name="training")
def training(config: LifecycleConfig) -> Path:
    return train.train_adapter.with_options(retry_delay_seconds=0)(config, run_training(config))


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str, *arguments: str) -> None:
    command = [sys.executable, "-c", code, *arguments]
    monkeypatch.setattr(train, "training_command", lambda draft, processes: command)


def test_a_killed_training_is_started_again(
    server: None, config: LifecycleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, TRAINING, str(config.run), "2")
    assert training(config) == config.run / "export" / "manifest.json"
    assert (config.run / "tries").read_text() == "xxx"
    assert read_json(config.run / "config.json")["steps"] == config.train.steps


def test_a_refused_training_is_not_and_leaves_no_configuration(
    server: None, config: LifecycleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, REFUSING)
    with pytest.raises(TrainingFailedError, match="rank 0: TrainConfigError: seed"):
        training(config)
    assert (config.run / "train.log").read_text().count("rank 0") == 1
    assert not list(config.run.glob("config*.json"))


@flow(name="watched")
def watched() -> dict[str, bool]:
    """What the supervisor of a healthy training thinks of each state that its flow run may be given."""
    cancelled, answers = flow_run_cancelled(), {}
    with get_client(sync_client=True) as client:
        for state in (Crashed, Failed, Cancelling, Cancelled, Running):
            client.set_flow_run_state(flow_run.id, state(), force=True)
            answers[state.__name__] = cancelled()
    return answers


def test_images_that_are_encoded_and_steps_move_the_bar(config: LifecycleConfig) -> None:
    shown: list[tuple[object, ...]] = []
    draft = Draft(run_training(config))
    for record in (
        {"event": "latents", "done": 128, "total": 512},
        {"step": 3, "loss": 0.25},
        {"step": 4, "loss": None},
    ):
        follow(record, draft, 150, lambda *values: shown.append(values))  # type: ignore[arg-type]
    draft.discard()
    assert shown == [(128, 512, "images encoded"), (3, 150, "loss 0.2500"), (4, 150, "")]


def test_only_a_person_who_cancels_ends_a_healthy_training(server: None) -> None:
    """`make ui` started again, or a heartbeat that was late, may call a living run crashed."""
    expected = {"Crashed": False, "Failed": False, "Cancelling": True, "Cancelled": True, "Running": False}
    assert watched() == expected


@flow(name="part")
def part(whole: str) -> list[bool]:
    """As the training of a lifecycle: before and after a person cancels the lifecycle, whose parts keep their state."""
    cancelled = flow_run_cancelled()
    before = cancelled()
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(whole), Cancelling(), force=True)
        answers = [before, cancelled()]
        client.set_flow_run_state(UUID(whole), Running(), force=True)
    return answers


@flow(name="whole")
def whole() -> list[bool]:
    return part(flow_run.id)


def test_who_cancels_a_lifecycle_cancels_its_training(server: None) -> None:
    assert whole() == [False, True]
