"""The forward pass of a step: which pixels are whose, where features land, what the model has to predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from moa.distributed import GradientBuffer
from moa.errors import TrainConfigError
from moa.models import load_models
from moa.step import latent_masks, prior_share, subject_features, training_losses
from moa.train_state import TrainState
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.training import ALONE, MakeConfig, first_batch
from tests.tiny_models import tiny_base


def test_velocity_targets_follow_the_scheduler(make_config: MakeConfig, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "velocity")
    file = base / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    totals = []
    for folder in (make_config().base, base):
        config = make_config(base=folder, image_encoder=folder / "image_encoder")
        models = load_models(config, ALONE.device)
        totals.append(training_losses(models, first_batch(models, config), config).masked.item())
    assert isinstance(models.scheduler, DDPMScheduler)
    assert abs(totals[0] - totals[1]) > 1e-3
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "sample"}))
    with pytest.raises(TrainConfigError, match="prediction_type 'sample' is not supported"):
        load_models(config, ALONE.device)


def test_masks_are_area_averages_and_a_person_who_is_no_subject_is_background(make_config: MakeConfig) -> None:
    config = make_config(condition_dropout=0.0)
    batch = first_batch(load_models(config, ALONE.device), config)
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    labels[0, :4, :4], labels[0, :4, 4:6], labels[0, 8:] = 1, 2, 255
    object.__setattr__(batch, "labels", labels)
    foreground, subjects = latent_masks(batch, (8, 8))
    assert foreground.shape == (4, 1, 8, 8) and subjects.shape == (4, batch.positions.shape[1], 8, 8)
    assert foreground[0, 0, 0, :3].tolist() == [1.0, 0.5, 0.0] and foreground.sum() == 1.5
    assert subjects[0, 0].sum() == 1.0 and subjects[0, 1].sum() == 0.5


def test_foreground_does_not_depend_on_the_slots_of_the_batch(make_config: MakeConfig) -> None:
    """A batch whose conditions are all dropped has one slot, and images of two people."""
    masks = []
    for rate in (0.0, 1.0):
        config = make_config(condition_dropout=rate)
        batch = first_batch(load_models(config, ALONE.device), config)
        masks.append(latent_masks(batch, (8, 8))[0])
    assert torch.equal(*masks)


def test_prior_share_is_the_mean_inside_the_mask() -> None:
    left = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    fine = torch.tensor([[[0.2, 0.9], [0.4, 0.9]]])
    coarse = torch.tensor([[[0.7]]])
    assert prior_share([fine], left).tolist() == pytest.approx([0.3])
    assert prior_share([fine, coarse], left).tolist() == pytest.approx([0.5])
    assert prior_share([], left).tolist() == [0.0]


def test_features_land_in_their_slots(make_config: MakeConfig) -> None:
    config = make_config(condition_dropout=0.0)
    models = load_models(config, ALONE.device)
    batch = first_batch(models, config)
    assert set(batch.present.sum(1).tolist()) == {1, 2}  # some slots are empty
    features = subject_features(models, batch)
    expected = models.image_encoder(batch.pixels).image_embeds
    assert torch.equal(features[batch.present], expected)
    assert not features[~batch.present].any()


def test_the_step_draws_nothing(make_config: MakeConfig) -> None:
    config = make_config()
    models = load_models(config, ALONE.device)
    batch, before = first_batch(models, config), torch.get_rng_state()
    totals = [training_losses(models, batch, config).total.item() for _ in range(2)]
    assert totals[0] == totals[1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_the_host_never_waits_for_the_gpu(make_config: MakeConfig) -> None:
    """From the batch to the updated weights; the loop reads the statistics once, before the update."""
    config = make_config(ema_decay=0.9)
    models = load_models(config, ALONE.device)
    batch = first_batch(models, config)
    with AbsentGPU() as gpu:
        models, batch = gpu.move(models), gpu.move(batch)
        models.scheduler.alphas_cumprod = gpu.move(models.scheduler.alphas_cumprod)  # the first step carries it there
        state = TrainState(models.unet, config)
        buffer = GradientBuffer(list(state.parameters.values()), extra=8)
        losses = training_losses(models, batch, config)
        losses.total.backward()
        buffer.extra[:-1] += losses.statistics(0.5)
        buffer.clip_(config.max_grad_norm)
        state.update(config.learning_rate)
        assert gpu.waits == []
        assert losses.total.device.type == next(iter(state.average.values())).device.type == "cuda"

        # It would notice.
        losses.total.item(), batch.noise.cpu(), torch.ones(2).to(batch.noise.device), batch.present.nonzero()
        assert len(gpu.waits) == 4
