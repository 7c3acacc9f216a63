"""The training pictures of the zoo in memory: everything the recipes need of one split of a shard folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moa.data import ShardDataset


@dataclass(frozen=True)
class Pictures:
    """images: uint8 `[N, H, W, 3]`; crops: for each picture the RGBA crops of its subjects, uint8 `[S, C, C, 4]`;
    meta: the samples' metadata (datasets/FORMAT.md, section 2)."""

    images: np.ndarray
    crops: list[np.ndarray]
    meta: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.meta)

    def first(self, count: int) -> Pictures:
        """The first `count` pictures, all where there are fewer."""
        return Pictures(self.images[:count], self.crops[:count], self.meta[:count])

    def draw(self, count: int, generator: torch.Generator) -> np.ndarray:
        """`count` random positions."""
        return torch.randint(len(self), (count,), generator=generator).numpy()

    @cached_property
    def places(self) -> list[np.ndarray]:
        """The positions of the pictures of each scene (beach, park, ...)."""
        scenes = np.array([meta["attributes"]["scene"] for meta in self.meta])
        return [np.flatnonzero(scenes == scene) for scene in np.unique(scenes)]

    def draw_scenes(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, list[str]]:
        """Random whole pictures `[count, H, W, 3]` with their captions; every second picture of one person with its
        description. They show two scenes only, so that people and objects tell them apart and not the background."""
        two = torch.randperm(len(self.places), generator=generator)[:2].tolist()
        chosen = np.concatenate(
            [
                self.places[place][torch.randint(len(self.places[place]), (part,), generator=generator).numpy()]
                for place, part in zip((two[0], two[-1]), (count - count // 2, count // 2), strict=True)
            ]
        )
        texts = []
        for number, k in enumerate(chosen):
            meta = self.meta[k]
            alone = len(meta["subjects"]) == 1 and number % 2
            texts.append(meta["attributes"]["description"] if alone else meta["caption"])
        return self.images[chosen], texts

    def draw_subjects(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, list[str]]:
        """Random subject crops `[count, C, C, 3]`, on neutral grey or a random colour, with the looks of the person
        in words."""
        crops, texts = [], []
        for k in self.draw(count, generator):
            i = int(torch.randint(len(self.crops[k]), (1,), generator=generator))
            plain = torch.rand(1, generator=generator).item() < 0.5
            colour = np.full(3, 127) if plain else torch.randint(256, (3,), generator=generator).numpy()
            crops.append(over(self.crops[k][i], colour))
            texts.append(self.meta[k]["attributes"]["people"][i]["looks"])
        return np.stack(crops), texts


def load_pictures(folder: Path, split: str) -> Pictures:
    """Read a whole split into memory (12 kB a picture at 64x64)."""
    dataset = ShardDataset(folder, split)
    samples = [dataset[k] for k in range(len(dataset))]
    crops = [np.stack([np.asarray(crop) for crop in sample.subjects]) for sample in samples]
    return Pictures(np.stack([sample.image for sample in samples]), crops, [sample.meta for sample in samples])


def over(crop: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """An RGBA crop `[C, C, 4]` on a plain colour, uint8 `[C, C, 3]`."""
    alpha = crop[..., 3:].astype(np.float32) / 255
    return (crop[..., :3] * alpha + colour * (1 - alpha)).astype(np.uint8)


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 `[B, H, W, 3]` to float `[B, 3, H, W]` in -1..1."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
