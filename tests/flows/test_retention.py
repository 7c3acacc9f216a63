"""Older runs of a schedule lose their checkpoints, and nothing that anybody still needs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from prefect.logging import disable_run_logger

from flows.files import read_json, write_json
from flows.overrides import resolve
from flows.remembered import forget
from flows.retention import runs_to_thin, thin_checkpoints
from flows.settings import LifecycleConfig, write_lifecycle
from moa import checkpoint
from moa.adapter import save_adapter
from tests.tiny_models import tiny_moa_unet

SCHEDULE = ("train_from=promoted", "runs_with_checkpoints=2")


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))


def decided(name: str, day: int, decision: str = "rejected", overrides: tuple[str, ...] = SCHEDULE) -> LifecycleConfig:
    """A run that was trained and decided on at a day."""
    config = resolve("miniature", overrides, name)
    write_lifecycle(config)
    exported = write_json(config.run / "export/manifest.json", {"digest": f"sha256:{name}"})
    os.utime(exported, (day, day))
    write_json(config.run / "gate.json", {"decision": decision, "candidate": {"adapter_digest": f"sha256:{name}"}})
    if decision == "promoted":
        os.utime(write_json(config.run / "promotion.json", {}), (day, day))
    return config


def thinned(config: LifecycleConfig) -> list[str]:
    return [run.name for run in runs_to_thin(config)]


def test_the_newest_and_the_promoted_run_keep_their_checkpoints() -> None:
    runs = [decided(name, day) for day, name in enumerate(("z", "b", "a", "c"))]
    assert thinned(runs[-1]) == ["b", "z"], "by age, not by name"
    decided("b", 1, "promoted")
    assert thinned(runs[-1]) == ["z"], "the champion can be trained further"
    decided("z", 0, "promoted")
    assert thinned(runs[-1]) == ["z"], "the champion of now alone"
    assert thinned(runs[0]) == ["z"], "whichever run looks"
    os.utime(runs[0].run / "promotion.json", (9, 9))
    assert thinned(runs[-1]) == ["b"], "by when it was promoted, not when it was trained"
    (runs[1].run / "promotion.json").unlink()
    assert thinned(runs[-1]) == ["b"], "a lost record is an old one"


def test_without_the_setting_nothing_is_thinned() -> None:
    runs = [decided(name, day, overrides=("train_from=promoted",)) for day, name in enumerate(("a", "b", "c", "d"))]
    assert thinned(runs[-1]) == []
    assert thinned(decided("e", 5)) == [], "nor by a later run that has it: they are a person's"
    for day, name in enumerate(("f", "g", "h")):
        decided(name, day)
    assert thinned(runs[-1]) == [], "nor by a run without it those of a schedule"


def test_a_run_whose_setting_is_forgotten_keeps_its_checkpoints() -> None:
    runs = [decided(name, day) for day, name in enumerate(("a", "b", "c", "d"))]
    assert thinned(runs[-1]) == ["b", "a"]
    forget("a", ["runs_with_checkpoints"])
    assert thinned(runs[-1]) == ["b"]


@pytest.mark.parametrize("other", ["publish.repo_id=you/other", "publish.endpoint=http://127.0.0.1:1"])
def test_runs_of_another_repository_are_left_alone_and_do_not_count(other: str) -> None:
    decided("a", 0)
    decided("b", 1, overrides=(*SCHEDULE, other))
    decided("c", 2, overrides=(*SCHEDULE, other))
    assert thinned(decided("d", 3)) == []


def test_runs_of_another_preset_are_left_alone_and_do_not_count() -> None:
    a, *_ = [decided(name, day) for day, name in enumerate(("a", "b", "c"))]
    write_json(a.run / "lifecycle.json", read_json(a.run / "lifecycle.json") | {"preset": "ffhq_sd15"})
    assert thinned(decided("d", 3)) == ["b"]


def test_a_run_that_is_not_decided_is_left_alone() -> None:
    for day, name in enumerate(("no-gate", "trained-further", "half-written", "cut", "no-record")):
        decided(name, day)
    runs = decided("c", 8).run.parent
    decided("d", 9)
    (runs / "no-gate/gate.json").unlink()
    write_json(runs / "trained-further/export/manifest.json", {"digest": "sha256:another"})
    (runs / "half-written/export/manifest.json").unlink()
    (runs / "cut/gate.json").write_text("{")
    (runs / "no-record/gate.json").write_text("[]")
    (runs / "hub").mkdir()
    assert thinned(decided("e", 10)) == ["c"]


def trained(config: LifecycleConfig, step: int) -> None:
    """What training leaves in a run, of a real adapter and real checkpoints; the gate has judged it."""
    unet = tiny_moa_unet()
    save_adapter(unet, config.run / "export", {"inputs": {}, "step": step, "commit": None})
    digest = read_json(config.run / "export/manifest.json")["digest"]
    write_json(config.run / "gate.json", {"decision": "rejected", "candidate": {"adapter_digest": digest}})
    write_json(config.run / "config.json", {"steps": step})
    for at in (step - 1, step):
        checkpoint.save(config.run / "checkpoints", at, {"weights": {"w": torch.zeros(2)}}, {}, keep=2)


def test_checkpoints_go_and_everything_else_stays(caplog: pytest.LogCaptureFixture) -> None:
    runs = [decided(name, day) for day, name in enumerate(("a", "b", "c", "d"))]
    for day, config in enumerate(runs):
        trained(config, step=4)
        os.utime(config.run / "export/manifest.json", (day, day))
    write_json(runs[1].run / "config.json", {"steps": 9})  # it is to be trained further
    variant = runs[0].run / "ablations/no-moa"
    shutil.copytree(runs[0].run, variant, ignore=shutil.ignore_patterns("ablations"))
    before = {path for path in runs[0].run.rglob("*") if path.is_file() and "checkpoints" not in path.parts}
    with disable_run_logger():
        thin_checkpoints.fn(runs[-1])
        thin_checkpoints.fn(runs[-1])
    assert [len(checkpoint.steps(run.run / "checkpoints")) for run in runs] == [0, 2, 2, 2]
    assert checkpoint.steps(variant / "checkpoints") == []
    after = {path for path in runs[0].run.rglob("*") if path.is_file()}
    assert after - {folder / ".lock" for folder in (runs[0].run, variant)} == before
