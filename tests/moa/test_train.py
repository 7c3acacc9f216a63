"""The training loop on a tiny model: what it writes, what it moves, and how it fails."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import moa.train
from moa import checkpoint
from moa.adapter import read_adapter
from moa.config import MoAConfig
from moa.errors import MissingInputError, NonFiniteError, ShardDataError, TrainConfigError
from moa.models import Models, find_inputs, load_models
from moa.step import training_losses
from tests.moa.shards import write_shards
from tests.moa.training import ALONE, MakeConfig, first_batch, metrics, poison, run, same, tensors
from tests.tiny_models import IMAGE_DIM

# What training does.


def test_a_run_writes_what_the_format_says_and_is_left_alone_afterwards(
    make_config: MakeConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=5, log_every=2, checkpoint_every=2, keep=2)
    assert run(config) == 0
    lines = metrics(config)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert all(
        line.keys()
        == {"step", "loss", "loss_masked", "loss_router", "loss_object", "lr", "grad_norm", "seconds"}
        | {"router_background", "router_foreground", "samples_per_second"}
        for line in lines
    )
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert sorted(p.name for p in (config.run_folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [line for line in printed if "loss" in line] == lines
    assert [line["event"] for line in printed if "event" in line] == ["start", *["checkpoint"] * 3, "exported"]

    manifest = json.loads((config.run_folder / "export" / "manifest.json").read_text())
    inputs = find_inputs(config)
    assert manifest["inputs"] == {"shards": inputs["shards"], "base": inputs["base"], "init": None}
    assert manifest["step"] == 5
    provenance = read_adapter(config.run_folder / "export").provenance
    assert provenance["seed"] == config.seed
    assert provenance["prediction_type"] == "epsilon"
    assert provenance["dataset"] == {"name": "tiny", "version": 1, "resolution": None, "split": None}

    before = {p: p.stat().st_mtime_ns for p in config.out.rglob("*")}
    assert run(config) == 0
    assert json.loads(capfd.readouterr().out)["event"] == "finished"
    assert {p: p.stat().st_mtime_ns for p in config.out.rglob("*")} == before


def test_loss_falls_and_only_the_personalization_weights_move(make_config: MakeConfig) -> None:
    config = make_config(steps=20, global_batch=8, learning_rate=5e-3, condition_dropout=0.0)
    models = load_models(config, ALONE.device)
    batch = first_batch(models, config, 8)
    before = training_losses(models, batch, config)
    prior = prior_hash(models)
    run(config)
    for name, tensor in load_file(config.run_folder / "checkpoints/step-00000020/weights.safetensors").items():
        parameter = models.unet.get_parameter(name)
        assert not torch.equal(parameter, tensor), name
        parameter.data.copy_(tensor)
    after = training_losses(models, batch, config)
    assert after.masked < 0.9 * before.masked
    assert prior_hash(models) == prior


def prior_hash(models: Models) -> str:
    """Digest of everything that must not move."""
    digest = hashlib.sha256()
    trained = {name for name, _ in models.unet.moa_parameters()}
    for name, tensor in models.unet.state_dict().items():
        if name not in trained:
            digest.update(tensor.numpy().tobytes())
    for model in (models.vae, models.text_encoder, models.image_encoder):
        for tensor in model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_prior_is_frozen_in_the_loop_itself(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Models] = []
    load = moa.train.load_models
    monkeypatch.setattr(moa.train, "load_models", lambda *args: seen.append(load(*args)) or seen[0])
    config = make_config(learning_rate=1.0, weight_decay=0.5)
    fresh = prior_hash(load(config, ALONE.device))
    run(config)
    assert prior_hash(seen[0]) == fresh
    trained = {name for name, _ in seen[0].unet.moa_parameters()}
    assert {name for name, p in seen[0].unet.named_parameters() if p.requires_grad} == trained


# Failures.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "nowhere"}, "base: nowhere/unet/config.json does not exist"),
        ({"image_encoder": "nowhere"}, "image_encoder: nowhere/config.json does not exist"),
        ({"shards": "nowhere"}, "nowhere/manifest.json does not exist"),
        ({"init": "nowhere"}, "init: nowhere/manifest.json does not exist"),
    ],
)
def test_missing_inputs_are_named_before_any_work(
    make_config: MakeConfig, change: dict[str, str], message: str
) -> None:
    config = make_config(**change)
    with pytest.raises(MissingInputError, match=message):
        run(config)
    assert not config.out.exists()


def test_inputs_that_do_not_fit_are_named(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainConfigError, match=f"moa.image_dim is 7, but .*image_encoder gives {IMAGE_DIM}"):
        run(make_config(moa=MoAConfig(image_dim=7)))
    with pytest.raises(TrainConfigError, match="max_timestep: the base model has only 1000 timesteps"):
        run(make_config(max_timestep=1001))
    with pytest.raises(TrainConfigError, match="images of 20 x 20 pixels do not fit .* multiple of 8"):
        run(make_config(shards=write_shards(tmp_path / "odd", size=20)))


def test_damaged_shards_are_found_before_training_unless_told_not_to_look(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "shards")
    tar = shards / "shards" / "train-00000.tar"
    tar.write_bytes(tar.read_bytes() + b"\0")
    with pytest.raises(ShardDataError, match="train-00000.tar is not the shard"):
        run(make_config(shards=shards))
    assert run(make_config(shards=shards, verify_shards=False)) == 0


def test_a_step_that_is_not_finite_is_skipped(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config(steps=3, log_every=3, checkpoint_every=1, keep=3)
    poison(monkeypatch, {2})
    run(config)
    assert same(tensors(config, 1), tensors(config, 2))
    assert not same(tensors(config, 2), tensors(config, 3))
    assert all(t.isfinite().all() for t in tensors(config, 3).values())
    assert all(math.isfinite(v) for v in metrics(config)[0].values())
    skipped = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "skipped" in line]
    assert [(event["step"], event["in_a_row"]) for event in skipped] == [(2, 1)]


def test_too_many_of_them_end_the_run_with_the_last_checkpoint_kept(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(steps=20, max_skipped=2)
    poison(monkeypatch, {3, 5, 6, 7})
    with pytest.raises(NonFiniteError, match="3 steps in a row, up to step 7"):
        run(config)
    found = checkpoint.latest(config.run_folder / "checkpoints")
    assert found.step == 6 and found.state["skipped"] == 2
    assert all(t.isfinite().all() for t in tensors(config, 6).values())


def test_the_command_line_tells_errors_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert moa.train.main([str(tmp_path / "config.json")]) == 1
    error = capfd.readouterr().err
    assert error.startswith("rank 0: MissingInputError: ") and error.count("\n") == 1
    assert moa.train.main([]) == 2
    assert moa.train.main(["--help"]) == 0 and "torchrun" in capfd.readouterr().out


def test_out_of_memory_names_what_to_change(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr(moa.train, "training_losses", full)
    config = make_config()
    config.run_folder.mkdir(parents=True)
    (config.run_folder / "config.json").write_text(config.model_dump_json())
    assert moa.train.main([str(config.run_folder / "config.json")]) == 1
    assert "rank 0: out of memory: raise accumulation" in capfd.readouterr().err


def test_a_rank_says_why_it_ends_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks share their streams, and two writes of one could have another's between them."""
    writes: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=writes.append, flush=lambda: None))
    assert moa.train.main([str(tmp_path / "nowhere.json")]) == 1
    assert len(writes) == 1 and writes[0].startswith("rank 0: ") and writes[0].endswith("\n")
