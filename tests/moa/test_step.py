"""The forward pass of a step: which pixels are whose, where features land, what the model has to predict."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from moa.batch import Batch
from moa.distributed import GradientBuffer
from moa.errors import TrainConfigError
from moa.models import load_models
from moa.step import latent_masks, prior_share, subject_features, training_losses
from moa.train_state import TrainState
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.training import ALONE, MakeConfig, first_batch
from tests.tiny_models import tiny_base


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_step_is_the_equations_written_out(kind: str) -> None:
    """Three samples (two people, one beside a stranger, dropped conditions) and networks that return what they are told
    to: what the U-Net is asked, and what comes of its answer."""
    samples, slots, width, layers = 3, 2, 5, {0: 4, 1: 4, 2: 2}  # layer -> side of its maps
    labels = torch.zeros(samples, 8, 8, dtype=torch.uint8)
    labels[0, :4, :3], labels[0, 5:, 5:] = 1, 2
    labels[1, :3, :], labels[1, 6:, :2] = 1, 255
    labels[2, 2:7, 2:7] = 3  # a third person, for whom this batch has no slot
    batch = Batch(
        images=torch.empty(0),
        moments=torch.rand(samples, 2, 4, 4, 4),
        labels=labels,
        input_ids=torch.arange(samples)[:, None],
        positions=torch.tensor([[2, 5], [3, -1], [-1, -1]]),
        pixels=torch.randn(3, width),
        slots=torch.tensor([0, 1, 2]),
        timesteps=torch.tensor([17, 400, 799]),
        masked=torch.tensor([True, False, True]),
        noise=torch.randn(samples, 4, 4, 4),
        posterior_noise=torch.randn(samples, 4, 4, 4),
    )
    text, answer = torch.randn(samples, 7, 6), torch.randn(samples, 4, 4, 4, requires_grad=True)
    routers = {layer: torch.rand(samples, side, side, requires_grad=True) for layer, side in layers.items()}
    columns = {layer: torch.rand(samples, slots, side, side) for layer, side in layers.items() if layer}
    asked = []

    def unet(noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, cross_attention_kwargs: dict) -> object:
        moa = cross_attention_kwargs["moa"]
        asked.extend([noisy, timesteps, text, moa])
        for layer in layers:
            moa.recorder.add_router(layer, routers[layer])
            if layer in columns:
                moa.recorder.add_attention(layer, columns[layer])
        return SimpleNamespace(sample=answer)

    scheduler = DDPMScheduler(prediction_type=kind)
    models = SimpleNamespace(
        unet=unet,
        vae=SimpleNamespace(dtype=torch.float32, config=SimpleNamespace(shift_factor=0.3, scaling_factor=0.7)),
        text_encoder=lambda ids: [text[ids[:, 0]]],
        image_encoder=_Doubling(dtype=torch.float32, config=SimpleNamespace(projection_dim=width)),
        scheduler=scheduler,
        router_layers=(0, 2),
    )
    config = SimpleNamespace(lambda_router=0.02, lambda_object=0.5)
    losses = training_losses(models, batch, config)

    kept = scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    latents = (batch.moments[:, 0] + batch.moments[:, 1] * batch.posterior_noise - 0.3) * 0.7
    noisy, timesteps, words, moa = asked
    torch.testing.assert_close(noisy, kept.sqrt() * latents + (1 - kept).sqrt() * batch.noise)
    assert torch.equal(timesteps, batch.timesteps) and torch.equal(words, text)
    assert torch.equal(moa.features[[0, 0, 1], [0, 1, 0]], 2 * batch.pixels)
    assert not moa.features[1, 1].any() and not moa.features[2].any()
    assert torch.equal(moa.positions, batch.positions) and moa.active is None  # the third runs the mixture, too

    target = batch.noise if kind == "epsilon" else kept.sqrt() * batch.noise - (1 - kept).sqrt() * latents
    error = (answer - target).square().mean(dim=1)
    subjects = torch.stack([_shrunk(labels == number, 2) for number in (1, 2)], dim=1)
    foreground = _shrunk((labels > 0) & (labels < 255), 2)
    masked = [_mean(error[0], foreground[0]), error[1].mean(), _mean(error[2], foreground[2])]
    torch.testing.assert_close(losses.masked, torch.stack(masked).mean())
    prior = (routers[0] + routers[2].repeat_interleave(2, 1).repeat_interleave(2, 2)) / 2
    torch.testing.assert_close(losses.router, ((1 - foreground) * (1 - prior)).square().sum(dim=(1, 2)).mean())
    found = []
    for row, slot in ((0, 0), (0, 1), (1, 0)):
        masks = {4: subjects[row, slot], 2: _shrunk(subjects[row : row + 1, slot], 2)[0]}
        sides = [(maps[row, slot], masks[layers[layer]]) for layer, maps in columns.items()]
        found.append(sum(_mean(maps, 1 - mask) - _mean(maps, mask) for maps, mask in sides) / 2)
    torch.testing.assert_close(losses.object, ((found[0] + found[1]) / 2 + found[2]) / 3)
    torch.testing.assert_close(losses.total, losses.masked + 0.02 * losses.router + 0.5 * losses.object)
    for ours, where in ((losses.background_share, 1 - foreground), (losses.foreground_share, foreground)):
        halves = [(routers[0][row], where[row]) for row in range(3)]
        halves += [(routers[2][row], _shrunk(where[row : row + 1], 2)[0]) for row in range(3)]
        torch.testing.assert_close(ours, sum(_mean(maps, mask) for maps, mask in halves) / 2)
    expected = [losses.total, losses.masked, losses.router, losses.object]
    expected = [0.25 * loss for loss in expected] + [
        losses.background_share,
        losses.foreground_share,
        torch.tensor(3.0),
    ]
    statistics = losses.statistics(0.25)
    assert torch.equal(statistics, torch.stack(expected)) and not statistics.requires_grad
    assert not losses.background_share.requires_grad and not losses.foreground_share.requires_grad
    models.router_layers = ()  # a single branch
    alone = training_losses(models, batch, config)
    shares = torch.stack([alone.router, alone.background_share, alone.foreground_share, alone.routed])
    assert not shares.any() and torch.equal(alone.total, alone.masked + 0.5 * alone.object)


class _Doubling(SimpleNamespace):
    """An image encoder whose features are twice its pixels."""

    def __call__(self, pixels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(image_embeds=2 * pixels)


def _shrunk(maps: torch.Tensor, by: int) -> torch.Tensor:
    return maps.float().unfold(1, by, by).unfold(2, by, by).mean(dim=(3, 4))


def _mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum()


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
    assert prior_share([fine, fine, coarse], left).tolist() == pytest.approx([1.3 / 3])
    assert prior_share([], left).tolist() == [0.0]
    assert prior_share([fine], torch.zeros_like(left)).tolist() == [0.0]


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
