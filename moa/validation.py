"""The noise error on held-out pictures, while an adapter is trained and when it is done.

The questions are always the same: samples, noise and timesteps depend neither on the run's seed nor on its ranks or its
step; the timesteps are spread evenly over those that are trained on, nothing is augmented and no condition is dropped.
So two numbers differ because two adapters do. Each picture is asked about with its own subjects and with another
picture's: an adapter that uses its subjects has the first error clearly below the second.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import torch
from torch import Tensor

from moa.batch import Batch, TrainingSet, collate
from moa.data import ShardDataset
from moa.distributed import Ranks
from moa.errors import ShardDataError, TrainConfigError
from moa.latents import posterior
from moa.losses import masked_loss
from moa.models import Models
from moa.step import Denoised, denoise
from moa.train_config import VALIDATION_BATCH, SubjectAugmentation, TrainConfig

SEED = 1  # of all validations
PLAIN = SubjectAugmentation(flip=0, background=0, colour=0, geometry=0, rotation=0)


class Validation:
    """The validations of one training run; this rank measures its share of the samples."""

    def __init__(self, models: Models, dataset: ShardDataset, config: TrainConfig, here: Ranks):
        self.models, self.dataset, self.config, self.here = models, dataset, config, here

    def is_due(self, step: int) -> bool:
        """Whether there is a validation after `step` steps."""
        return step % self.config.validation.every == 0 or step == self.config.steps

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # another batch size: compiling for it would take longer than it saves
    def measure(self) -> dict[str, float]:
        """The numbers of a validation line (datasets/FORMAT.md, section 5), the same on each rank. Draws nothing and
        changes nothing."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.here.device)
        for batch in self._batches:
            right = denoise(self.models, batch.to(self.here.device))
            wrong = denoise(self.models, with_other_subjects(batch).to(self.here.device))
            errors = masked_loss(right.prediction, right.target, torch.ones_like(right.foreground))
            sums += torch.stack([errors, subject_error(right), subject_error(wrong)]) * len(batch.positions)
        self.here.sum_(sums)
        names = ("validation_loss", "validation_masked", "validation_masked_wrong")
        return dict(zip(names, (sums / self.config.validation.samples).tolist(), strict=True))

    @cached_property
    def _batches(self) -> list[Batch]:
        return held_out_batches(self.models, self.dataset, self.config, self.config.validation.samples, self.here)


def open_held_out(config: TrainConfig) -> ShardDataset:
    """The split to measure on. Raises `TrainConfigError` when the shards hold too little of it."""
    split = config.validation.split
    try:
        dataset = ShardDataset(config.shards, split)
    except ShardDataError as error:
        raise TrainConfigError(f"validation.split: {error}; name one of them, or set validation.every to 0") from None
    if len(dataset) < 2:
        raise TrainConfigError(
            f"validation.split: {config.shards} has one sample of split {split!r}, so there is no other picture to "
            "take a wrong subject from; hold more back, or set validation.every to 0"
        )
    return dataset


def held_out_batches(
    models: Models, dataset: ShardDataset, config: TrainConfig, samples: int, here: Ranks
) -> list[Batch]:
    """This rank's share of `samples` samples, a multiple of `VALIDATION_BATCH`: on the CPU, their images encoded."""
    changes = {"seed": SEED, "condition_dropout": 0.0, "augmentation": PLAIN}
    height, width = dataset[0].mask.shape
    shape = models.latent_shape(height, width)
    stream = TrainingSet(dataset, models.tokenizer, models.image_processor, shape, config.model_copy(update=changes))
    timesteps = ((torch.arange(samples) + 0.5) * (config.max_timestep / samples)).long()
    batches = []
    for first in range(here.rank * VALIDATION_BATCH, samples, here.world * VALIDATION_BATCH):
        batch = collate([stream[number] for number in range(first, first + VALIDATION_BATCH)])
        with torch.no_grad():
            moments = torch.stack(posterior(models.vae, batch.images.to(here.device)), dim=1).cpu()
        times = timesteps[first : first + VALIDATION_BATCH]
        batches.append(dataclasses.replace(batch, images=batch.images[:0], moments=moments, timesteps=times))
    return batches


def with_other_subjects(batch: Batch) -> Batch:
    """The same pictures and prompts, each with the subjects of the nearest picture before it that shows others (a small
    split is gone through several times), repeated where it has fewer; with its own where all show the same."""
    rows: dict[int, list[int]] = {}
    for place, slot in enumerate(batch.slots.tolist()):
        rows.setdefault(slot // batch.positions.shape[1], []).append(place)
    places = list(rows.values())
    sources = []
    for n, own in enumerate(places):
        before = (places[n - k] for k in range(1, len(places)))
        other = next((them for them in before if not torch.equal(batch.pixels[them], batch.pixels[own])), own)
        sources += [other[i % len(other)] for i in range(len(own))]
    return dataclasses.replace(batch, pixels=batch.pixels[sources])


def subject_error(found: Denoised) -> Tensor:
    """Mean squared error of the noise on the subjects' pixels, 0-dim: eq. 11's masked loss."""
    return masked_loss(found.prediction, found.target, found.foreground)
