"""The whole lifecycle with tiny random models, through Prefect, from the command line's entry point."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State, StateType

from flows.ablate import ablate
from flows.begin import begin, one_configuration
from flows.command import run
from flows.lifecycle import lifecycle
from flows.overrides import resolve
from flows.preprocess import preprocess
from flows.server_state import PROCESS
from flows.settings import write_lifecycle
from flows.stage import conclude
from tests.flows.tiny_lifecycle import write_world

# "Nothing to do" is said in the log, the report is made again with the same bytes, locks are taken.
ALWAYS_WRITTEN = {"train.log", "index.html", ".lock", "lock"}


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def arguments(overrides: list[str], *more: str) -> list[str]:
    return [*(word for override in overrides for word in ("--set", override)), *more]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file: a rewritten file differs even when its bytes do not."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name not in ALWAYS_WRITTEN]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.mark.slow
@pytest.mark.prefect
def test_lifecycle_and_ablation_run_and_a_second_run_redoes_nothing(
    server: None, roots: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    named = arguments(write_world(roots / "world"), "--preset", "miniature", "--name", "tiny")
    assert run(lifecycle, named) == 0
    report = Path(capsys.readouterr().out.splitlines()[-1])
    folder = roots / "runs" / "tiny"
    assert report == folder / "report" / "index.html" and report.read_text().startswith("<!doctype html>")
    assert 'href="tiny/report/index.html"' in (roots / "runs" / "index.html").read_text()
    expected = ["lifecycle.json", "config.json", "metrics.jsonl", "train.log", "export/manifest.json"]
    expected += ["publication.json", "evaluation/miniature/summary.json", "evaluation/miniature/manifest.json"]
    assert not [name for name in expected if not (folder / name).is_file()]
    assert '"validation_masked_wrong"' in (folder / "metrics.jsonl").read_text()
    _the_published_revision_was_evaluated_and_promoted(folder)

    assert run(ablate, named) == 0
    labels = {method["label"] for method in read(folder / "evaluation/miniature/summary.json")["methods"]}
    assert {"without MoA layers", "MLP router"} <= labels
    assert read(folder / "ablations/mlp-router/export/config.json")["moa"]["router"] == "mlp"
    assert "MLP router" in report.read_text()

    before, page = files(roots / "runs") | files(roots / "data"), report.read_bytes()
    caplog.clear()
    assert run(lifecycle, named) == 0
    assert [stage for stage in STAGES if f"{stage}: up to date" not in caplog.text] == []
    after = files(roots / "runs") | files(roots / "data")
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    assert report.read_bytes() == page


STAGES = ("preprocess", "train", "publish", "evaluate", "gate", "report")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _the_published_revision_was_evaluated_and_promoted(folder: Path) -> None:
    publication = read(folder / "publication.json")
    summary = read(folder / "evaluation/miniature/summary.json")
    assert summary["provenance"]["commit"] == publication["commit"]
    assert summary["provenance"]["adapter_digest"] == publication["adapter_digest"]
    assert [method["kind"] for method in summary["methods"]] == ["prior", "moa", "champion", "ablation"]
    assert len(summary["pairs"]) == 4, "each method made the pair"
    gate = read(folder / "gate.json")
    assert (gate["decision"], gate["against"]["kind"]) == ("promoted", "champion")
    assert read(folder / "promotion.json")["candidate"] == publication["commit"]


@flow(name="stage")
def stage(name: str) -> float:
    """A stage that is run as a part of another flow."""
    return begin("preprocess", "miniature", None, name).promote.tolerance_ip


@flow(name="whole")
def whole(name: str) -> float:
    """A lifecycle during which another command makes the same run remember something else."""
    config = begin("lifecycle", "miniature", ["promote.tolerance_ip=0.03"], name)
    write_lifecycle(resolve("miniature", ["promote.tolerance_ip=1", "publish.private=false"], name))
    with one_configuration(config):
        return stage(name)


@pytest.mark.prefect
def test_a_lifecycle_goes_on_with_the_settings_that_it_began_with(server: None, roots: Path) -> None:
    assert whole("kept") == 0.03
    kept = read(roots / "runs/kept/lifecycle.json")
    assert (kept["promote"]["tolerance_ip"], kept["publish"]["private"]) == (0.03, True)


@flow(name="half")
def half(preset: str = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path | State[Path]:
    """A flow that came to its end with something left out."""
    return conclude(Path("result"), "2 x the image cannot be read")


@pytest.mark.prefect
def test_an_incomplete_result_is_printed_and_told_in_the_exit_status(
    server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(half, []) == 3
    printed = capsys.readouterr()
    assert printed.out == "result\n" and "warning: 2 x the image cannot be read" in printed.err
    state = half(return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "Incomplete")


@pytest.mark.prefect
def test_a_failed_stage_ends_in_one_clear_line(server: None, roots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = roots / "nowhere.yaml"
    assert run(preprocess, ["--set", f"preprocess.dataset={missing}"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and str(missing) in lines[0]


@pytest.mark.prefect
def test_a_run_says_which_process_it_is(server: None, roots: Path) -> None:
    """So that the next command can tell a killed one."""
    missing = f"preprocess.dataset={roots / 'nowhere.yaml'}"
    assert run(preprocess, ["--preset", "miniature", "--set", missing, "--name", "labelled"]) == 1
    with get_client(sync_client=True) as client:
        labels = [one.labels for one in client.read_flow_runs() if one.parameters.get("name") == "labelled"]
    assert [str(one[PROCESS]).split()[1] for one in labels] == [str(os.getpid())]


@pytest.mark.parametrize("mistake", [["--preset", "miniatur"], ["--set", "train.stepz=1"], ["--set", "train.steps=x"]])
def test_mistakes_end_before_any_work(roots: Path, capsys: pytest.CaptureFixture[str], mistake: list[str]) -> None:
    assert run(lifecycle, mistake) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (roots / "runs").exists()
