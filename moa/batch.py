"""From shard samples to the tensors of a training step: tokens, bound words, crops, and every random number.

Sample `number` n of the endless stream (step * global_batch + place in the batch) takes all its randomness from
(seed, n): the augmentation of its subjects, its timestep, its noise and the coins for dropping conditions and masking
the loss. So a `Batch` is complete, the step that follows draws nothing, and ranks, micro-batches, workers and
restarts cannot change the numbers.

Letters: B samples, S subject slots (the most in this batch), T tokens, H, W image, h, w latent, n present subjects.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPImageProcessor, CLIPTokenizer

from moa.augment import augment_subject
from moa.binding import bind
from moa.data import Sample, ShardDataset, batch_numbers, sample_index
from moa.errors import WordTruncatedError
from moa.latents import LatentCache
from moa.loader import load
from moa.subjects import encoder_pixels
from moa.train_config import TrainConfig

_DRAWS, _AUGMENTATION = 0, 1  # independent random streams of one sample


@dataclass(frozen=True)
class Draws:
    """The random numbers of one sample."""

    timestep: int  # 0 .. max_timestep-1
    dropped: bool  # train it without prompt and subjects
    masked: bool  # count the noise loss on the foreground only
    noise: Tensor  # [C, h, w] normal: what the U-Net has to find
    posterior_noise: Tensor  # [C, h, w] normal: the VAE's sample around its mean


@dataclass(frozen=True)
class Example:
    """One sample, ready to be stacked."""

    image: Tensor  # uint8 [3, H, W]; empty with cached latents
    moments: Tensor  # [2, C, h, w], the posterior of the image's latents; empty without a cache
    labels: Tensor  # uint8 [H, W], the mask of `moa.data.Sample`
    input_ids: Tensor  # int64 [T]
    positions: list[int]  # token index of each subject's word, -1: left out; empty when dropped
    pixels: Tensor  # [subjects with a position, 3, height, width], input of the image encoder
    draws: Draws


@dataclass(frozen=True)
class Batch:
    """Stacked examples. Slots without subject have position -1."""

    images: Tensor  # uint8 [B, 3, H, W]; [0] with cached latents
    moments: Tensor  # [B, 2, C, h, w]: mean and standard deviation of each latent; [0] without a cache
    labels: Tensor  # uint8 [B, H, W]
    input_ids: Tensor  # int64 [B, T]
    positions: Tensor  # int64 [B, S]
    pixels: Tensor  # [n, 3, height, width]: the present slots, row by row
    slots: Tensor  # int64 [n]: place of each of them among the B * S slots
    timesteps: Tensor  # int64 [B]
    masked: Tensor  # bool [B]
    noise: Tensor  # [B, C, h, w]
    posterior_noise: Tensor  # [B, C, h, w]

    @property
    def present(self) -> Tensor:
        """bool [B, S]: slots that hold a subject."""
        return self.positions >= 0

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by `DataLoader`)."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change) -> Batch:
        return Batch(**{field.name: change(getattr(self, field.name)) for field in dataclasses.fields(self)})


class TrainingSet(Dataset):
    """Maps a sample number of the endless stream to its `Example`.

    `latent_shape` is (C, h, w) of the VAE for the dataset's images. With `latents` the images themselves are not used.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        tokenizer: CLIPTokenizer,
        image_processor: CLIPImageProcessor,
        latent_shape: tuple[int, int, int],
        config: TrainConfig,
        latents: LatentCache | None = None,
    ):
        self.dataset, self.config, self.latent_shape, self.latents = dataset, config, latent_shape, latents
        self.tokenizer, self.image_processor = tokenizer, image_processor

    def __getitem__(self, number: int) -> Example:
        index = sample_index(len(self.dataset), self.config.seed, number)
        sample = self.dataset[index]
        draws = draw(self.config, number, self.latent_shape)
        positions = [] if draws.dropped else self._positions(sample)
        return Example(
            image=_nothing() if self.latents else torch.from_numpy(sample.image).permute(2, 0, 1).contiguous(),
            moments=self.latents[index] if self.latents else _nothing(),
            labels=torch.from_numpy(sample.mask),
            input_ids=self._tokens("" if draws.dropped else sample.meta["caption"]),
            positions=positions,
            pixels=self._pixels([c for c, p in zip(sample.subjects, positions, strict=False) if p >= 0], number),
            draws=draws,
        )

    def _tokens(self, caption: str) -> Tensor:
        length = self.tokenizer.model_max_length
        encoded = self.tokenizer(caption, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return encoded.input_ids[0]

    def _positions(self, sample: Sample) -> list[int]:
        """Token index of each subject's word; -1, with a warning, where the text encoder does not read that far."""
        positions, caption = [], sample.meta["caption"]
        for subject in sample.meta["subjects"]:
            try:
                positions += bind(self.tokenizer, caption, [(subject["start"], subject["end"])])
            except WordTruncatedError as error:
                warnings.warn(f"sample {sample.key}: subject {subject['index']} is left out: {error}", stacklevel=2)
                positions.append(-1)
        return positions

    def _pixels(self, subjects: list[Image.Image], number: int) -> Tensor:
        rng = np.random.default_rng([self.config.seed, number, _AUGMENTATION])
        crops = [augment_subject(crop, self.config.augmentation, rng) for crop in subjects]
        return encoder_pixels(crops, self.image_processor) if crops else _nothing()


def _nothing() -> Tensor:
    return torch.empty(0)


def draw(config: TrainConfig, number: int, latent_shape: tuple[int, int, int]) -> Draws:
    """All random numbers of sample `number` but its augmentation: a function of (config.seed, number)."""
    rng = np.random.default_rng([config.seed, number, _DRAWS])
    timestep, coins = rng.random(), rng.random(2)
    noise, posterior_noise = torch.from_numpy(rng.standard_normal((2, *latent_shape), dtype=np.float32))
    return Draws(
        timestep=int(timestep * config.max_timestep),
        dropped=bool(coins[0] < config.condition_dropout),
        masked=bool(coins[1] < config.masked_loss_probability),
        noise=noise,
        posterior_noise=posterior_noise,
    )


def collate(examples: list[Example], least: int = 1) -> Batch:
    """Stacks examples, padding the subject slots to the most that one of them has, and to `least`."""
    slots = max(least, *(len(example.positions) for example in examples))
    positions = torch.tensor([example.positions + [-1] * (slots - len(example.positions)) for example in examples])
    pixels = [example.pixels for example in examples if len(example.pixels)]
    draws = [example.draws for example in examples]
    return Batch(
        images=_stack([example.image for example in examples]),
        moments=_stack([example.moments for example in examples]),
        labels=torch.stack([example.labels for example in examples]),
        input_ids=torch.stack([example.input_ids for example in examples]),
        positions=positions,
        pixels=torch.cat(pixels) if pixels else _nothing(),
        slots=(positions.flatten() >= 0).nonzero().squeeze(1),
        timesteps=torch.tensor([d.timestep for d in draws]),
        masked=torch.tensor([d.masked for d in draws]),
        noise=torch.stack([d.noise for d in draws]),
        posterior_noise=torch.stack([d.posterior_noise for d in draws]),
    )


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if tensors[0].numel() else _nothing()


def batches(samples: TrainingSet, start: int, rank: int, world: int, pin_memory: bool) -> Iterator[Batch]:
    """The micro-batches of `rank` from step `start` (0-based) to the last: `accumulation` of them for each step.

    For a compiled U-Net they have two slots or more: it would be compiled anew for one, but for no other number.
    """
    lists, stack = _micro_batches(samples.config, start, rank, world), collate
    if samples.config.compile:
        stack = partial(collate, least=2)
    return load(samples, lists, workers=samples.config.num_workers, pin_memory=pin_memory, collate=stack)


def _micro_batches(config: TrainConfig, start: int, rank: int, world: int) -> Iterator[list[int]]:
    """Lists of sample numbers."""
    size = config.micro_batch(world)
    for step in range(start, config.steps):
        numbers = batch_numbers(step, config.global_batch, rank, world)
        for first in range(0, len(numbers), size):
            yield list(numbers[first : first + size])
