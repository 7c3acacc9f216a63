"""Validation while training: the same questions each time, another picture's subjects, and no trace in the weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import moa.validation
from moa.batch import Batch
from moa.data import ShardDataset
from moa.distributed import Ranks
from moa.errors import TrainConfigError
from moa.models import load_models
from moa.step import denoise
from moa.train_config import SubjectAugmentation, ValidationSettings
from moa.train_state import TrainState
from moa.validation import Validation, held_out_batches, open_held_out, with_other_subjects
from tests.moa.shards import write_shards
from tests.moa.training import ALONE, MakeConfig, compile_by, metrics, run, same, tensors

NAMES = ("validation_loss", "validation_masked", "validation_masked_wrong")


@pytest.fixture(scope="module")
def both_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with eight samples to train on and six held out."""
    folder = write_shards(tmp_path_factory.mktemp("both"))
    add_split(folder, samples=6)
    return folder


def add_split(folder: Path, samples: int) -> None:
    """Adds held-out samples to a shard folder."""
    other = write_shards(folder / "other", samples=samples, split="heldout")
    manifest, more = (json.loads((place / "manifest.json").read_text()) for place in (folder, other))
    manifest["shards"] += more["shards"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for file in (other / "shards").iterdir():
        file.rename(folder / "shards" / file.name)
    shutil.rmtree(other)


def test_weights_and_other_lines_are_those_of_a_run_without(
    make_config: MakeConfig, both_splits: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where it falls on a resume; the last step is measured whether or not it is due."""
    options = {"shards": both_splits, "steps": 5, "ema_decay": 0.9, "learning_rate": 1e-2, "checkpoint_every": 3}
    settings = ValidationSettings(every=2, samples=16)
    without, measured, resumed = (make_config(out=make_config().out / name, **options) for name in "abc")
    measured, resumed = (config.model_copy(update={"validation": settings}) for config in (measured, resumed))
    run(without)
    capfd.readouterr()
    run(measured)
    printed = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    for steps in (3, 5):
        run(resumed.model_copy(update={"steps": steps}))
    assert same(tensors(without, 5), tensors(measured, 5)) and same(tensors(without, 5), tensors(resumed, 5))

    lines = [line for line in metrics(measured) if "validation_loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert all(line.keys() == {"step", "seconds", *NAMES} for line in lines)
    assert [line for line in printed if "validation_loss" in line] == lines
    assert len({line["validation_masked"] for line in lines}) == 3
    timing = ("seconds", "samples_per_second")
    others = [[{k: v for k, v in line.items() if k not in timing} for line in metrics(c)] for c in (without, measured)]
    assert others[0] == [line for line in others[1] if "loss" in line]
    again = {line["step"]: line for line in metrics(resumed) if "validation_loss" in line}
    assert sorted(again) == [2, 3, 4, 5]
    assert all(again[line["step"]][name] == line[name] for line in lines for name in NAMES)


def test_the_average_is_measured_and_the_weights_come_back(make_config: MakeConfig, both_splits: Path) -> None:
    config = make_config(shards=both_splits, ema_decay=0.9, validation=ValidationSettings(every=1, samples=8))
    models = load_models(config, ALONE.device)
    validation, state = Validation(models, open_held_out(config), config, ALONE), TrainState(models.unet, config)
    before = validation.measure()
    assert validation.measure() == before
    for parameter in state.parameters.values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    changed, weights = validation.measure(), {name: p.detach().clone() for name, p in state.parameters.items()}
    assert changed["validation_masked"] != changed["validation_masked_wrong"]
    with state.averaged():
        assert validation.measure() == before != changed
    assert same(weights, {name: p.detach() for name, p in state.parameters.items()})
    assert validation.measure() == changed
    assert all(p.grad is None for p in state.parameters.values())


def test_questions_do_not_depend_on_the_run(make_config: MakeConfig, both_splits: Path) -> None:
    """Seed, augmentation, dropout, masking and precision of the loss's coins; the timesteps cover those trained on."""
    dataset, asked = ShardDataset(both_splits, "heldout"), []
    for changes in ({}, {"seed": 5, "condition_dropout": 1.0, "augmentation": SubjectAugmentation(flip=1, colour=0.5)}):
        config = make_config(shards=both_splits, max_timestep=160, **changes)
        asked.append(held_out_batches(load_models(config, ALONE.device), dataset, config, 16, ALONE))
    for one, other in zip(*asked, strict=True):
        for field in dataclasses.fields(Batch):
            if field.name != "masked":
                assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name
    assert torch.cat([batch.timesteps for batch in asked[0]]).tolist() == list(range(5, 160, 10))
    assert all(batch.present.any(dim=1).all() for batch in asked[0])


def test_ranks_share_the_work_and_get_the_same_numbers(make_config: MakeConfig, both_splits: Path) -> None:
    """Two ranks of a world of two, one after the other: their sums add up to those of one process."""
    config = make_config(shards=both_splits, validation=ValidationSettings(every=1, samples=24))
    models, dataset = load_models(config, ALONE.device), open_held_out(config)
    sums: list[torch.Tensor] = []

    class Half(Ranks):
        def sum_(self, tensor: torch.Tensor) -> None:
            sums.append(tensor.clone())

    for rank in range(2):
        Validation(models, dataset, config, Half(rank, 2, ALONE.device)).measure()
    whole = Validation(models, dataset, config, ALONE).measure()
    assert (sum(sums) / 24).tolist() == pytest.approx(list(whole.values()), rel=1e-12)
    assert sums[0].min() > 0 and sums[1].min() > 0


def test_each_picture_gets_the_subjects_of_another_one(make_config: MakeConfig, both_splits: Path) -> None:
    config = make_config(shards=both_splits)
    models, dataset = load_models(config, ALONE.device), ShardDataset(both_splits, "heldout")
    (batch,) = held_out_batches(models, dataset, config, 8, ALONE)
    swapped = with_other_subjects(batch)
    slots = batch.positions.shape[1]
    owners: dict[int, list[torch.Tensor]] = {}
    for place, slot in enumerate(batch.slots.tolist()):
        owners.setdefault(slot // slots, []).append(batch.pixels[place])
    assert {len(crops) for crops in owners.values()} == {1, 2}
    for place, slot in enumerate(batch.slots.tolist()):
        row, column = divmod(slot, slots)
        earlier = (owners[(row - k) % 8] for k in range(1, 8))  # six pictures, so a row may repeat the one before it
        source = next(crops for crops in earlier if not torch.equal(crops[0], owners[row][0]))
        assert torch.equal(swapped.pixels[place], source[column % len(source)])
    assert torch.equal(swapped.slots, batch.slots) and torch.equal(swapped.positions, batch.positions)


@pytest.mark.parametrize("pictures", [2, 3, 4])
def test_a_small_split_lends_no_picture_its_own_subjects(
    make_config: MakeConfig, tmp_path: Path, pictures: int
) -> None:
    """It is gone through several times, so neighbours in a batch may be the same picture."""
    shards = write_shards(tmp_path / "shards", samples=pictures, split="heldout")
    config = make_config(shards=shards, split="heldout", validation=ValidationSettings(split="train"))
    models, dataset = load_models(config, ALONE.device), ShardDataset(shards, "heldout")
    for batch in held_out_batches(models, dataset, config, 64, ALONE):
        swapped = with_other_subjects(batch)
        slots = batch.positions.shape[1]
        rows = [slot // slots for slot in batch.slots.tolist()]
        for row in set(rows):
            places = [place for place, at in enumerate(rows) if at == row]
            own = [crop for crop in batch.pixels[places]]
            assert not any(torch.equal(crop, mine) for crop in swapped.pixels[places] for mine in own)


def test_numbers_by_hand(make_config: MakeConfig, both_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A U-Net that is off by 1 on the subjects and by 3 elsewhere, and by 2 on the subjects when they are wrong."""
    config = make_config(shards=both_splits, validation=ValidationSettings(every=1, samples=8))
    models = load_models(config, ALONE.device)
    calls = []

    def denoised(models, batch):
        found = denoise(models, batch)
        calls.append(batch)
        foreground = torch.zeros_like(found.foreground)
        foreground[..., :4] = 1
        off = torch.where(foreground.bool(), 1.0 if len(calls) % 2 else 2.0, 3.0)
        return dataclasses.replace(found, prediction=found.target + off, foreground=foreground)

    monkeypatch.setattr(moa.validation, "denoise", denoised)
    measured = Validation(models, open_held_out(config), config, ALONE).measure()
    share = 4 / calls[0].noise.shape[-1]
    expected = dict(zip(NAMES, (share * 1 + (1 - share) * 9, 1.0, 4.0), strict=True))
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(0, "has no sample of split 'heldout'; its splits are: train; name one"), (1, "has one sample of split 'held")],
)
def test_too_little_held_out_is_told_before_any_work(
    make_config: MakeConfig, tmp_path: Path, samples: int, message: str
) -> None:
    shards = write_shards(tmp_path / "shards")
    if samples:
        add_split(shards, samples)
    config = make_config(shards=shards, validation=ValidationSettings(every=2, samples=8))
    with pytest.raises(TrainConfigError, match=f"^validation.split: .*{message}.*validation.every to 0"):
        run(config)
    assert not (config.run_folder / "checkpoints").exists()
    assert run(config.model_copy(update={"validation": ValidationSettings()})) == 0


@pytest.mark.slow
def test_a_compiled_run_validates_without_compiling_again(
    make_config: MakeConfig,
    shallow_base: Path,
    both_splits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    counter = CompileCounter()
    compile_by(monkeypatch, counter)
    validation = ValidationSettings(every=1, samples=8)
    options = {"base": shallow_base, "shards": both_splits, "steps": 2, "validation": validation}
    lines = []
    for on in (False, True):
        config = make_config(compile=on, out=make_config().out / str(on), **options)
        run(config)
        lines.append(metrics(config))
        assert ('"event": "compile"' in capfd.readouterr().out) is on
    assert counter.frame_count == 1
    for plain, compiled in zip(*lines, strict=True):
        name = "loss" if "loss" in plain else "validation_loss"
        assert compiled[name] == pytest.approx(plain[name], rel=1e-4)
