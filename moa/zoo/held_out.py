"""How much an adapter knows about its subject, without drawing anything: the noise error on held-out people.

The error inside the subjects (eq. 11's masked loss) with the right subject, with another picture's and without one, at
the same noise and timesteps. An adapter that uses its subject has the first clearly below the others.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from moa.batch import Batch, TrainingSet, batches
from moa.config import MoAConfig
from moa.data import ShardDataset
from moa.models import load_models
from moa.step import training_losses
from moa.train_config import SubjectAugmentation, TrainConfig

BATCH = 16


def measure_adapter(
    adapter: Path,
    moa: MoAConfig,
    base: Path,
    image_encoder: Path,
    shards: Path,
    *,
    count: int = 256,
) -> dict[str, float]:
    """`error_right`, `error_wrong`, `error_without` (mean squared error of the noise on subject pixels: right subject,
    another picture's, none), and the routers' mean prior share `prior_share_background`, `prior_share_foreground` (not
    for a single branch)."""
    config = TrainConfig(
        shards=shards,
        split="heldout",
        base=base,
        image_encoder=image_encoder,
        init=adapter,
        moa=moa,
        steps=max(1, count // BATCH),
        global_batch=BATCH,
        seed=1,
        condition_dropout=0.0,
        masked_loss_probability=1.0,
        max_timestep=1000,
        augmentation=SubjectAugmentation(flip=0, background=0, colour=0, geometry=0, rotation=0),
    )
    models = load_models(config, torch.device("cpu"))
    models.unet.eval()
    dataset = ShardDataset(shards, "heldout")
    height, width = dataset[0].mask.shape
    samples = TrainingSet(dataset, models.tokenizer, models.image_processor, models.latent_shape(height, width), config)
    sums = torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches(samples, 0, 0, 1, pin_memory=False):
            right = training_losses(models, batch, config)
            wrong = training_losses(models, dataclasses.replace(batch, pixels=batch.pixels.roll(1, dims=0)), config)
            without = training_losses(models, _without_subjects(batch), config)
            shares = (right.background_share, right.foreground_share, right.routed)
            sums += torch.stack([*(x.masked * BATCH for x in (right, wrong, without)), *shares]).double()
    seen = config.steps * BATCH
    errors = {name: float(value) / seen for name, value in zip(("right", "wrong", "without"), sums[:3], strict=True)}
    quality = {f"error_{name}": value for name, value in errors.items()}
    if sums[5]:
        quality["prior_share_background"], quality["prior_share_foreground"] = (float(s / sums[5]) for s in sums[3:5])
    return quality


def _without_subjects(batch: Batch) -> Batch:
    """The same prompts with nobody bound to their words."""
    nobody = torch.full_like(batch.positions, -1)
    return dataclasses.replace(batch, positions=nobody, pixels=batch.pixels[:0], slots=batch.slots[:0])
