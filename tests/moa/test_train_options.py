"""Each option of `TrainConfig` changes something, and what only splits the work differently changes no number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

import moa.train
from moa.adapter import read_adapter, save_adapter
from moa.config import MoAConfig
from moa.errors import TrainConfigError
from moa.models import load_models
from moa.step import training_losses
from moa.train import started_from
from moa.train_config import SubjectAugmentation
from tests.moa.training import ALONE, MakeConfig, compile_by, first_batch, metrics, run, same, tensors
from tests.tiny_models import IMAGE_DIM, tiny_moa_unet


@pytest.fixture(scope="module")
def two_steps() -> dict[str, dict[str, torch.Tensor]]:
    """Weights after two steps, by run; the unchanged run is computed once."""
    return {}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1e-4},
        {"warmup": 10},
        {"weight_decay": 0.1},
        {"max_grad_norm": 0.01},
        {"lambda_router": 1.0},
        {"lambda_object": 1.0},
        {"condition_dropout": 0.9},
        {"masked_loss_probability": 0.0},
        {"max_timestep": 10},
        {"global_batch": 2},
        {"precision": "bf16"},
        {"augmentation": SubjectAugmentation(flip=1, background=0.5)},
        {"augmentation": SubjectAugmentation(background=1)},
        {"augmentation": SubjectAugmentation(colour=0.5)},
        {"augmentation": SubjectAugmentation(geometry=0.5)},
        {"augmentation": SubjectAugmentation(rotation=45)},
    ],
    ids=str,
)
def test_option_changes_the_weights(
    make_config: MakeConfig, two_steps: dict[str, dict[str, torch.Tensor]], change: dict[str, object]
) -> None:
    if not two_steps:
        reference = make_config(steps=2, out=make_config().out / "reference")
        run(reference)
        two_steps.update(load_file(reference.out / "checkpoints/step-00000002/weights.safetensors"))
    config = make_config(steps=2, **change)
    run(config)
    weights = load_file(config.run_folder / "checkpoints/step-00000002/weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not same(weights, two_steps)


def test_accumulation_gives_the_same_weights_in_smaller_pieces(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    step = moa.train.training_losses
    monkeypatch.setattr(moa.train, "training_losses", lambda m, b, c: sizes.append(len(b.images)) or step(m, b, c))
    weights = []
    for accumulation in (1, 4):
        config = make_config(
            steps=3, accumulation=accumulation, lambda_object=1.0, out=make_config().out / f"{accumulation}"
        )
        run(config)
        weights.append(load_file(config.run_folder / "checkpoints/step-00000003/weights.safetensors"))
    assert sizes == [4] * 3 + [1] * 12
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(make_config: MakeConfig) -> None:
    results = []
    for on in (False, True):
        config = make_config(gradient_checkpointing=on, lambda_router=1.0, lambda_object=1.0)
        models = load_models(config, ALONE.device)
        calls: list[object] = []
        block = models.unet.mid_block.attentions[0].transformer_blocks[0]
        block.register_forward_pre_hook(lambda *args, calls=calls: calls.append(None))
        training_losses(models, first_batch(models, config), config).total.backward()
        results.append((len(calls), {name: p.grad for name, p in models.unet.moa_parameters()}))
    (plain, gradients), (checkpointed, recomputed) = results
    assert (plain, checkpointed) == (1, 2)
    for name, gradient in gradients.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_compiled_step_is_one_graph_for_all_batches_with_the_same_gradients(
    make_config: MakeConfig, shallow_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where layers are checkpointed, which leave their maps to the losses."""
    counter = CompileCounter()
    compile_by(monkeypatch, counter)
    changes = {"base": shallow_base, "gradient_checkpointing": True, "lambda_router": 1.0, "lambda_object": 1.0}
    configs = [make_config(compile=on, **changes) for on in (False, True)]
    plain, compiled = (load_models(config, ALONE.device) for config in configs)
    one = first_batch(plain, configs[0])
    for slots, moved in ((2, 0), (4, 1)):
        positions = torch.where(one.present, one.positions + moved, -1)
        positions = F.pad(positions, (0, slots - positions.shape[1]), value=-1)
        batch = dataclasses.replace(one, positions=positions, slots=(positions.flatten() >= 0).nonzero().squeeze(1))
        gradients = []
        for models, config in zip((plain, compiled), configs, strict=True):
            models.unet.zero_grad()
            training_losses(models, batch, config).total.backward()
            gradients.append({name: p.grad.clone() for name, p in models.unet.moa_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)
    assert counter.frame_count == 1


def test_a_machine_that_cannot_compile_is_told(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def backend(*_: object) -> None:
        raise OSError("there is no C++ compiler")

    small = torch.compile(torch.nn.Linear(1, 1), backend=backend)  # fails as the U-Net would, in less time
    monkeypatch.setattr(moa.train, "training_losses", lambda *_: small(torch.zeros(1)))
    config = make_config()
    config.run_folder.mkdir()
    (config.run_folder / "config.json").write_text(config.model_dump_json())
    assert moa.train.main([str(config.run_folder / "config.json")]) == 1
    told = capfd.readouterr().err
    assert "there is no C++ compiler" in told and "set compile to false" in told


def test_average_is_what_is_exported(make_config: MakeConfig) -> None:
    exports = {}
    for decay in (0.0, 0.9):
        config = make_config(ema_decay=decay, learning_rate=1e-2, out=make_config().out / str(decay))
        run(config)
        saved = tensors(config, 4)
        group = "average" if decay else "weights"
        exports[decay] = read_adapter(config.run_folder / "export").tensors
        for name, tensor in exports[decay].items():
            if f"{group}/{name}" in saved:  # the buffers of an adapter are not trained
                torch.testing.assert_close(tensor, saved[f"{group}/{name}"].half())
    assert not same(exports[0.0], exports[0.9])


def test_warm_start_begins_where_the_adapter_ended(make_config: MakeConfig) -> None:
    first = make_config(learning_rate=1e-2, out=make_config().out / "first")
    run(first)
    config = make_config(init=first.out / "export")
    models = load_models(config, ALONE.device)
    exported = read_adapter(first.out / "export").tensors
    for name, parameter in models.unet.moa_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter.detach(), exported[name].float())
    run(config)
    inputs = json.loads((config.run_folder / "export" / "manifest.json").read_text())["inputs"]
    digest = json.loads((first.out / "export" / "manifest.json").read_text())["digest"]
    assert inputs["init"] == digest
    assert read_adapter(first.out / "export").provenance["started_from"] is None
    started = {"digest": digest, "step": first.steps, "datasets": ["tiny"]}
    assert read_adapter(config.run_folder / "export").provenance["started_from"] == started
    with pytest.raises(TrainConfigError, match="holds an adapter of .*'moa'.* asks for .*'single_branch'"):
        load_models(
            make_config(init=first.out / "export", moa=MoAConfig(image_dim=IMAGE_DIM, architecture="single_branch")),
            ALONE.device,
        )


@pytest.mark.parametrize(
    ("own", "before", "names"),
    [
        (
            {"name": "ours"},
            {"digest": "d", "step": 7, "datasets": ["ffhq", "portraits"]},
            ["ffhq", "ours", "portraits"],
        ),
        ({"name": "ours"}, {"digest": "d", "step": 7, "datasets": ["ours"]}, ["ours"]),
        (None, None, []),  # of an earlier version
    ],
)
def test_what_a_model_started_from_is_known_over_any_number_of_trainings(
    tmp_path: Path, own: dict[str, str] | None, before: dict[str, Any] | None, names: list[str]
) -> None:
    """Its data carry their terms along, and a schedule trains on night after night: the record must not grow."""
    record = {"step": 5} | ({"dataset": own, "started_from": before} if own else {})
    save_adapter(tiny_moa_unet(), tmp_path / "export", record)
    digest = read_adapter(tmp_path / "export").digest
    assert started_from(tmp_path / "export") == {"digest": digest, "step": 5, "datasets": names}


def test_single_branch_trains_without_router(make_config: MakeConfig) -> None:
    config = make_config(moa=MoAConfig(image_dim=IMAGE_DIM, architecture="single_branch"))
    run(config)
    assert all(line["loss_router"] == 0 and line["router_background"] is None for line in metrics(config))
    assert not [name for name in tensors(config, 4) if "router" in name]


def test_rows_without_conditions_train_the_mixture(make_config: MakeConfig) -> None:
    config = make_config(condition_dropout=1.0, weight_decay=0.0)
    run(config)
    assert all(line["grad_norm"] > 0 and line["loss_router"] > 0 for line in metrics(config))
    assert all(line["loss_object"] == 0 for line in metrics(config))  # there is no subject's token to look at


def test_threads_and_workers(make_config: MakeConfig) -> None:
    weights = []
    for workers in (0, 2):
        config = make_config(num_workers=workers, num_threads=1, out=make_config().out / str(workers))
        torch.set_num_threads(2)
        run(config)
        assert torch.get_num_threads() == 1
        weights.append(tensors(config, 4))
    assert same(*weights)
