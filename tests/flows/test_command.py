"""The command line of the flows: help, dry run, exit status."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows.command import run
from flows.evaluate import evaluate
from flows.lifecycle import lifecycle
from flows.prefect_environment import PROJECT
from flows.preprocess import preprocess
from flows.publish import publish
from flows.settings import LifecycleConfig
from preprocessing.config import load_dataset
from preprocessing.sources import open_source


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATA", "MODELS", "RUNS"):
        monkeypatch.setenv(f"MOA_{name}_DIR", str(tmp_path / name.lower()))
    return tmp_path


def test_help_says_what_a_flow_does_and_leaves_the_parameters_of_the_ui_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(publish, ["--help"])
    text = capsys.readouterr().out
    assert "Publishes the trained adapter as a full pipeline" in text and "--dry-run" in text
    assert "Args:" not in text and "fields to replace, as" not in text


def test_a_dry_run_prints_the_configuration_and_writes_nothing(
    roots: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.command.reachable_server", lambda: pytest.fail("a server was started"))
    assert run(lifecycle, ["--set", "train.steps=7", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert LifecycleConfig.model_validate(yaml.safe_load(printed.out)).train.steps == 7
    assert "lifecycle of the run miniature: no problems" in printed.err
    assert list(roots.iterdir()) == []


def test_a_dry_run_names_every_problem(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    assert run(lifecycle, ["--preset", "ffhq_sd15", "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert "* train.base: " in error and "hf download" in error and "accept_licences" in error
    assert error.splitlines()[-1].startswith("lifecycle of the run ffhq-sd15: ") and error.endswith("problems\n")


def test_a_dry_run_counts_the_pictures(roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As preprocessing will split them: by their names."""
    (roots / "photos/more").mkdir(parents=True)
    for number in range(40):
        (roots / f"photos/more/{number}.jpg").write_text(str(number))
    (roots / "photos/me.heic").touch()
    photos = ["--preset", "photos_sd15", "--set", f"preprocess.source_root={roots}/photos", "--dry-run"]
    dataset = load_dataset(PROJECT / "datasets/photos.yaml")
    items = open_source(dataset, roots / "photos").items(dataset, roots / "inventory.json")
    held_out = sum(item.split == "heldout" for item in items)
    for flow in (lifecycle, preprocess):
        run(flow, photos)
        counted = f"pictures: 40 ({40 - held_out} train, {held_out} heldout); left out: 1 x .heic"
        assert counted in capsys.readouterr().err.splitlines() and held_out
    (roots / "empty").mkdir()
    run(lifecycle, [*photos[:3], f"preprocess.source_root={roots}/empty", "--dry-run"])
    error = capsys.readouterr().err
    assert "it holds no files at all" in error and "pictures: " not in error
    run(lifecycle, ["--dry-run"])
    assert capsys.readouterr().err.startswith("pictures: 672 (512 train, 160 heldout)\n")
    run(publish, [*photos])
    assert "pictures: " not in capsys.readouterr().err


@pytest.mark.parametrize("stage", [publish, evaluate])
def test_a_dry_run_names_the_stage_that_has_to_run_first(
    stage: Flow[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stage, ["--preset", "miniature", "--name", "new", "--dry-run"]) == 1
    assert "holds no adapter: run `python -m flows.train --name new` first" in capsys.readouterr().err


def test_a_dry_run_asks_a_server_where_the_token_may_be_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("flows.command.reachable_server", lambda: nullcontext(asked.append("server")))
    monkeypatch.setattr("flows.hub._secret_block", lambda: asked.append("block"))
    assert run(publish, ["--preset", "ffhq_sd15", "--set", "publish.accept_licences=true", "--dry-run"]) == 1
    assert asked == ["server", "block"]


def test_an_interrupted_command_says_how_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.command.reachable_server", interrupted)
    assert run(lifecycle, []) == 130
    assert capsys.readouterr().err == "interrupted. The same command goes on where this one stopped\n"


def test_a_hub_that_does_not_answer_ends_a_command_before_it_begins(
    roots: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.command.reachable_server", lambda: pytest.fail("a server was started"))
    nobody = ["--set", "publish.endpoint=http://127.0.0.1:9"]
    assert run(lifecycle, nobody) == 1
    assert capsys.readouterr().err.startswith("error: lifecycle cannot run yet: publish.endpoint: http://127.0.0.1:9 ")
    assert run(lifecycle, [*nobody, "--dry-run"]) == 1
    assert "* publish.endpoint: http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert list(roots.iterdir()) == []
