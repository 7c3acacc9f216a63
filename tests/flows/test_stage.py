"""Progress in the UI: shown where the Prefect server answers, and never the end of healthy work."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from flows import stage
from flows.launch import run_process
from flows.stage import Progress

TRAINING = """
import json
for step in range(1, 4):
    print(json.dumps({"step": step}), flush=True)
"""


class Server:
    """Stands for the server's artifacts; the numbers in `away` say which calls fail."""

    def __init__(self, *away: int) -> None:
        self.away, self.calls, self.shown = away, 0, list[tuple[str, float]]()
        self.artifact = uuid4()

    def create(self, *, progress: float, key: str, description: str) -> UUID:
        self._take("create", progress)
        return self.artifact

    def update(self, *, artifact_id: UUID, progress: float, description: str) -> None:
        assert artifact_id == self.artifact
        self._take("update", progress)

    def _take(self, verb: str, progress: float) -> None:
        self.calls += 1
        if self.calls in self.away:
            raise httpx.ConnectError("All connection attempts failed")
        self.shown.append((verb, round(progress)))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "SECONDS_BETWEEN_UPDATES", 0.0)
    monkeypatch.setattr(stage, "SECONDS_AFTER_FAILURE", 0.0)
    monkeypatch.setattr(stage, "get_run_logger", lambda: logging.getLogger("moa-test"))


def serve(monkeypatch: pytest.MonkeyPatch, *away: int) -> Server:
    server = Server(*away)
    monkeypatch.setattr(stage, "create_progress_artifact", server.create)
    monkeypatch.setattr(stage, "update_progress_artifact", server.update)
    return server


def train(log: Path) -> None:
    with Progress("train", "Training") as progress:
        command = [sys.executable, "-c", TRAINING]
        run_process(command, log=log, on_record=lambda record: progress(record["step"], 3))


@pytest.mark.parametrize(
    ("away", "shown"),
    [
        ((), [("create", 0), ("update", 33), ("update", 67), ("update", 100), ("update", 100)]),
        ((2, 3), [("create", 0), ("update", 100), ("update", 100)]),
        ((1, 2), [("create", 67), ("update", 100), ("update", 100)]),
        ((1, 2, 3, 4, 5), []),
    ],
    ids=["never away", "back later", "away at first", "never there"],
)
def test_a_server_that_is_away_does_not_end_the_work(
    away: tuple[int, ...],
    shown: list[tuple[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(monkeypatch, *away)
    train(tmp_path / "train.log")
    assert (tmp_path / "train.log").read_text().count("step") == 3, "the process came to its end"
    assert server.shown == shown
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == bool(away)
    assert all("Training goes on" in text and "connection attempts failed" in text for text in warnings)


def test_a_server_that_failed_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client tries for a minute, in which nobody looks after the training."""
    monkeypatch.setattr(stage, "SECONDS_AFTER_FAILURE", 300.0)
    server = serve(monkeypatch, 2)
    with Progress("train", "Training") as progress:
        for step in (1, 2, 3):
            progress(step, 3)
        assert server.calls == 2
    assert server.shown == [("create", 0), ("update", 100)], "the end is shown at any rate"


def test_an_error_of_the_work_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(monkeypatch)
    with pytest.raises(ValueError, match="the work"), Progress("train", "Training"):
        raise ValueError("the work")
    assert server.shown == [("create", 0)]
