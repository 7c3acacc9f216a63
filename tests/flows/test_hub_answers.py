"""A Hub that does not answer is told where a person waits, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.files import write_json
from flows.hub_answers import silent_hub
from flows.overrides import resolve
from moa.hub.server import LocalHub
from tests.web_server import serving, write_certificate


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")  # without one, Prefect would be asked for its Secret block
    monkeypatch.delenv("HF_HUB_OFFLINE")


@pytest.mark.parametrize("stage", ["publish", "gate", "rollback", "lifecycle"])
def test_a_hub_that_does_not_answer_is_named_in_seconds(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own tries, and those of the tasks, take eight minutes."""
    (problem,) = silent_hub(resolve("miniature", ["publish.endpoint=https://huggingface.co"]), stage)
    assert "publish.endpoint: https://huggingface.co does not answer (" in problem.what and "network" in problem.remedy
    with LocalHub(tmp_path / "hub") as hub:
        there = resolve("miniature", [f"publish.endpoint={hub.endpoint}"])
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # not the way to a Hub on this machine
        assert silent_hub(there, stage) == []
    (problem,) = silent_hub(there, stage)
    assert f"{hub.endpoint} does not answer" in problem.what and "python -m moa.hub.server" in problem.remedy


def test_a_hub_whose_certificate_is_not_trusted_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = write_certificate(tmp_path / "certificate.pem")
    with serving(200, b"", certificate) as url:
        there = resolve("miniature", [f"publish.endpoint={url}"])
        (problem,) = silent_hub(there, "publish")
        assert f"{url} is not trusted (" in problem.what and "set SSL_CERT_FILE" in problem.remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert silent_hub(there, "publish") == []


def test_the_hub_is_asked_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    far = resolve("miniature", ["publish.endpoint=https://huggingface.co"])
    assert silent_hub(far, "train") == silent_hub(resolve("miniature"), "publish") == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a problem of its own
    assert silent_hub(far, "publish") == []


def test_what_is_promoted_there_is_asked_for_once(tmp_path: Path) -> None:
    """A run that trains on from it has to get it first, and so has its evaluation, which compares with it."""
    far = ["publish.endpoint=https://huggingface.co"]
    on = resolve("miniature", [*far, "train_from=promoted"], "on")
    for stage, record in (("train", "config.json"), ("evaluate", "champion.json"), ("ablate", "champion.json")):
        (problem,) = silent_hub(on, stage)
        assert "does not answer" in problem.what
        write_json(on.run / record, {})
        assert silent_hub(on, stage) == []
        (on.run / record).unlink()
