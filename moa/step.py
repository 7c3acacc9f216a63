"""One training step's forward pass: from a `Batch` to the losses of eq. 9-12.

It draws no random number, and nothing in it makes the processor wait for the GPU: no value is read back, no shape
depends on one, nothing is copied to the device (tests/moa/test_step.py shows it on a GPU that is not there).

Letters: B samples, S subject slots, C latent channels, h, w latent size, D image feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moa.batch import Batch
from moa.conditioning import MoAInput
from moa.data import NO_SUBJECT
from moa.latents import posterior
from moa.losses import masked_loss, object_loss, resize, router_loss, sums_by_size, total_loss
from moa.models import Models
from moa.recorder import Recorder
from moa.subjects import image_features
from moa.train_config import TrainConfig


@dataclass(frozen=True)
class StepLosses:
    """0-dim fp32 tensors of one micro-batch. Losses are means over its samples; only `total` is meant for backward."""

    total: Tensor  # eq. 11
    masked: Tensor
    router: Tensor  # eq. 9; 0 for a single branch, which has no router
    object: Tensor  # eq. 12
    background_share: Tensor  # prior expert's share (eq. 10) of background pixels, summed over the samples
    foreground_share: Tensor  # the same on foreground pixels
    routed: Tensor  # number of samples that went through a router: all, or none for a single branch

    def statistics(self, share: float) -> Tensor:
        """What a step adds up over micro-batches and ranks: the fields in order [7], losses weighted by `share`."""
        means = torch.stack([self.total, self.masked, self.router, self.object]) * share
        return torch.cat([means, torch.stack([self.background_share, self.foreground_share, self.routed])]).detach()


@dataclass(frozen=True)
class Denoised:
    """What the U-Net answers to a batch, with what the losses compare it with."""

    prediction: Tensor  # [B, C, h, w]
    target: Tensor  # [B, C, h, w]
    foreground: Tensor  # [B, 1, h, w]: share of each latent pixel that is any subject
    subjects: Tensor  # [B, S, h, w]: the same for each slot's subject
    routers: list[Tensor]  # prior share [B, h_l, w_l] of the layers in L of eq. 10; empty for a single branch
    attention: list[Tensor]  # [B, S, h_l, w_l] of each cross-attention layer, on the subjects' tokens


def denoise(models: Models, batch: Batch) -> Denoised:
    """Asks the U-Net for the noise in a batch. The gradient reaches its trained parameters only."""
    # What it is asked about: noisy latents, text, subjects. No gradient.
    dtype = models.vae.dtype
    with torch.no_grad():
        latents = encode_images(models, batch)
        noisy = models.scheduler.add_noise(latents, batch.noise, batch.timesteps)
        target = prediction_target(models, latents, batch)
        text = models.text_encoder(batch.input_ids)[0]
        features = subject_features(models, batch)
        for slots in (features, batch.positions):  # of which batches have different numbers: one graph for all
            torch._dynamo.maybe_mark_dynamic(slots, 1)
        foreground, subjects = latent_masks(batch, (latents.shape[-2], latents.shape[-1]))

    # The prediction, and on the way the maps the losses look at.
    recorder = Recorder()
    moa = MoAInput(features, batch.positions, recorder=recorder)  # rows without conditions, too, run the mixture
    prediction = models.unet(noisy.to(dtype), batch.timesteps, text, cross_attention_kwargs={"moa": moa}).sample
    routers = [recorder.router[layer] for layer in models.router_layers if recorder.router]
    return Denoised(prediction, target, foreground, subjects, routers, list(recorder.attention.values()))


def training_losses(models: Models, batch: Batch, config: TrainConfig) -> StepLosses:
    """Losses of one micro-batch in fp32. As each is a mean over samples, those of equal micro-batches average to the
    batch's."""
    found = denoise(models, batch)
    where = torch.where(batch.masked.view(-1, 1, 1, 1), found.foreground, 1.0)
    masked = masked_loss(found.prediction, found.target, where)
    router = router_loss(found.routers, found.foreground) if found.routers else masked.new_zeros(())
    object_ = object_loss(found.attention, found.subjects, batch.present)
    total = total_loss(masked, router, object_, lambda_router=config.lambda_router, lambda_object=config.lambda_object)
    return StepLosses(
        total,
        masked,
        router,
        object_,
        background_share=prior_share(found.routers, 1 - found.foreground).sum(),
        foreground_share=prior_share(found.routers, found.foreground).sum(),
        routed=masked.new_full((), len(batch.positions) if found.routers else 0),
    )


def encode_images(models: Models, batch: Batch) -> Tensor:
    """Scaled fp32 latents [B, C, h, w] of the images, the posterior sampled with the batch's own noise."""
    mean, deviation = batch.moments.float().unbind(1) if len(batch.moments) else posterior(models.vae, batch.images)
    sample = mean + deviation * batch.posterior_noise
    return (sample - (models.vae.config.shift_factor or 0)) * models.vae.config.scaling_factor


def prediction_target(models: Models, latents: Tensor, batch: Batch) -> Tensor:
    """What the base model was trained to predict, [B, C, h, w]: the noise, or the velocity."""
    if models.scheduler.config.prediction_type == "v_prediction":
        return models.scheduler.get_velocity(latents, batch.noise, batch.timesteps)
    return batch.noise


def subject_features(models: Models, batch: Batch) -> Tensor:
    """Image features [B, S, D], zero in empty slots."""
    width = models.image_encoder.config.projection_dim
    features = torch.zeros(batch.positions.numel(), width, device=batch.positions.device)
    if len(batch.pixels):
        pixels = batch.pixels.to(models.image_encoder.dtype)
        features.index_copy_(0, batch.slots, image_features(models.image_encoder, pixels).float())
    return features.view(*batch.positions.shape, width)


def latent_masks(batch: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Share of each latent pixel that is any subject [B, 1, h, w], and each slot's subject [B, S, h, w]."""
    numbers = torch.arange(1, batch.positions.shape[1] + 1, device=batch.labels.device)
    labels = batch.labels.unsqueeze(1)
    anyone = (labels > 0) & (labels < NO_SUBJECT)
    each = labels == numbers.view(1, -1, 1, 1)
    foreground, subjects = (resize(mask.float(), size) for mask in (anyone, each))
    return foreground, subjects


def prior_share(router_maps: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean prior share [B] inside `mask` [B, 1, h, w] over the layers' maps [B, h_l, w_l]; 0 without maps."""
    shares = [mask.new_zeros(len(mask))]
    for size, maps in sums_by_size([maps.detach() for maps in router_maps]).items():
        weight = resize(mask, size).squeeze(1)
        shares.append((maps * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6))
    return torch.stack(shares).sum(0) / max(1, len(router_maps))
