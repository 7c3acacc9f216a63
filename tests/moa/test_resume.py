"""A run that was interrupted has the numbers of one that was not; another run's checkpoint is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import moa.train
from moa import checkpoint
from moa.adapter import read_adapter
from moa.distributed import StopRequest
from moa.errors import ConfigChangedError, RunFolderError, TrainConfigError
from moa.models import load_models
from moa.train_state import TrainState
from tests.moa.full_disk import full_disk
from tests.moa.shards import write_shards
from tests.moa.training import ALONE, MakeConfig, metrics, run, same, tensors


def test_n_plus_m_steps_are_n_then_m_steps_bit_for_bit(make_config: MakeConfig) -> None:
    """Weights, moments, average and metrics; checkpoints fall between two metrics lines and between two epochs."""
    options = {"global_batch": 6, "ema_decay": 0.9, "warmup": 5, "log_every": 4, "checkpoint_every": 3}
    whole = make_config(steps=8, out=make_config().out / "whole", **options)
    parts = make_config(steps=3, out=make_config().out / "parts", **options)
    run(whole)
    for steps in (3, 6, 8):
        run(parts.model_copy(update={"steps": steps}))
    assert same(tensors(whole, 8), tensors(parts, 8))
    timing = ("seconds", "samples_per_second")
    lines = [[{k: v for k, v in line.items() if k not in timing} for line in metrics(c)] for c in (whole, parts)]
    # A run that ends logs its last step, so the parts have lines at their ends.
    assert lines[0][0]["step"] == 4 and [line["step"] for line in lines[1]] == [3, 4, 6, 8]
    exports = [read_adapter(config.run_folder / "export").tensors for config in (whole, parts)]
    assert same(*exports)


def test_metrics_after_an_interruption_are_those_of_an_uninterrupted_run(make_config: MakeConfig) -> None:
    options = {"steps": 6, "log_every": 4, "checkpoint_every": 100}
    whole, stopped = (make_config(out=make_config().out / name, **options) for name in ("whole", "stopped"))
    run(whole)
    stop = StopRequest()
    stop.asked = True
    assert run(stopped, stop) == moa.train.EXIT_STOPPED
    assert checkpoint.latest(stopped.out / "checkpoints").step == 1
    assert run(stopped) == 0
    timing = ("seconds", "samples_per_second")
    lines = [[{k: v for k, v in line.items() if k not in timing} for line in metrics(c)] for c in (whole, stopped)]
    assert lines[0] == lines[1]
    assert same(tensors(whole, 6), tensors(stopped, 6))


def test_a_damaged_checkpoint_is_passed_over_and_its_metrics_are_cut(
    make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=6)
    run(config)
    expected = tensors(config, 6)
    weights = config.run_folder / "checkpoints" / "step-00000006" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with open(config.run_folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # a line cut by a crash
    capfd.readouterr()
    run(config)
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [e["event"] for e in events if "event" in e] == ["warning", "resume", "checkpoint", "exported"]
    assert "step-00000006 is damaged: weights.safetensors" in events[0]["message"]
    assert [line["step"] for line in metrics(config)] == [1, 2, 3, 4, 5, 6]
    assert same(tensors(config, 6), expected)


def test_a_resumed_run_does_not_lean_on_the_files_of_its_checkpoint(make_config: MakeConfig) -> None:
    """They are memory maps, and the file is deleted when newer checkpoints are kept."""
    config = make_config(steps=2, ema_decay=0.9)
    run(config)
    state = TrainState(load_models(config, ALONE.device).unet, config)
    state.load(checkpoint.at_step(config.run_folder / "checkpoints", 2))
    before = {name: {k: t.clone() for k, t in group.items()} for name, group in state.groups().items()}
    for file in (config.run_folder / "checkpoints" / "step-00000002").glob("*.safetensors"):
        with open(file, "r+b") as data:
            data.write(b"\1" * file.stat().st_size)
    assert all(same(group, before[name]) for name, group in state.groups().items())


@pytest.mark.parametrize("name", ["moa.safetensors", "config.json", "manifest.json"])
def test_a_damaged_export_is_made_again(make_config: MakeConfig, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """Who finds it damaged says: export it again."""
    config = make_config(steps=2)
    run(config)
    path = config.run_folder / "export" / name
    good = path.read_bytes()
    path.write_bytes(good[:-20])
    capfd.readouterr()
    assert run(config) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == ["warning", "resume", "exported"]
    assert f"{name} is" in events[0]["message"] and "made again" in events[0]["message"]
    assert path.read_bytes() == good


def test_a_disk_that_has_no_room_for_metrics_is_named(make_config: MakeConfig) -> None:
    config = make_config(steps=2, checkpoint_every=100)
    run(config)
    full = config.model_copy(update={"steps": 3})
    before = (config.run_folder / "metrics.jsonl").read_bytes()
    with full_disk(after=10), pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be written \(.*make room"):
        run(full)
    assert (config.run_folder / "metrics.jsonl").read_bytes() == before
    assert [path.name for path in config.run_folder.glob("metrics*")] == ["metrics.jsonl"]
    with full_disk(after=len(before) + 10), pytest.raises(RunFolderError, match=r"metrics.jsonl cannot be written"):
        run(full)
    assert run(full) == 0 and [line["step"] for line in metrics(full)] == [1, 2, 3]


def test_another_configuration_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    run(make_config())
    with pytest.raises(ConfigChangedError, match="learning_rate: 5e-05 -> 0.001"):
        run(make_config(learning_rate=1e-3, steps=8))
    with pytest.raises(ConfigChangedError, match="inputs.shards"):
        run(make_config(shards=write_shards(tmp_path / "other", samples=6)))
    with pytest.raises(TrainConfigError, match="steps is 3, but .*step-00000004 is beyond it"):
        run(make_config(steps=3))


def test_a_finished_run_whose_checkpoints_were_deleted_is_finished(
    make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are the largest part of a run, and what people delete first."""
    config = make_config(steps=2)
    assert run(config) == 0
    shutil.rmtree(config.run_folder / "checkpoints")
    before = {path: path.read_bytes() for path in config.run_folder.rglob("*") if path.is_file()}
    capfd.readouterr()
    assert run(config) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["event"], said["step"]) == ("finished", 2)
    assert {path: path.read_bytes() for path in before} == before
    assert not (config.run_folder / "checkpoints").exists()
    other = config.model_copy(update={"seed": config.seed + 1})
    assert run(other) == 0
    assert (config.run_folder / "export" / "manifest.json").read_bytes() not in before.values()
