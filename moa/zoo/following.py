"""Does the base model draw what the prompt says? The share of its pictures whose scene, object and class word the
classifiers of zoo/attributes find to be those of the prompt; the same on real held-out pictures with the same captions
stands beside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from moa.zoo.attributes import ATTRIBUTES, AttributeClassifier, Words, described_pictures
from moa.zoo.pictures import Pictures, to_unit

SAMPLING = {"num_inference_steps": 20, "guidance_scale": 3.0, "height": 64, "width": 64}


def prompted(pictures: Pictures, count: int) -> tuple[list[int], list[Words]]:
    """Positions and words of the first `count` plain photos of one person with an object: their captions are the
    prompts."""
    found = [
        (int(k), words)
        for k, words in zip(*described_pictures(pictures), strict=True)
        if words["item"] and pictures.meta[k]["attributes"]["style"] == "photo"
    ][:count]
    return [k for k, _ in found], [words for _, words in found]


def measure(
    pipeline: StableDiffusionPipeline, classifier: AttributeClassifier, pictures: Pictures, count: int = 320
) -> dict[str, float]:
    """Shares of `count` generated pictures that show what was asked for: `followed_scene`, `followed_item`,
    `followed_word`; and of the real pictures with the same captions: `real_scene`, `real_item`, `real_word`."""
    chosen, asked = prompted(pictures, count)
    drawn = generate(pipeline, [pictures.meta[k]["caption"] for k in chosen])
    quality: dict[str, float] = {}
    for label, pixels in (("followed", drawn), ("real", to_unit(pictures.images[chosen]))):
        shares = agreement(classifier.words(pixels), asked)
        quality |= {f"{label}_{name}": share for name, share in shares.items()}
    return quality


def agreement(found: Sequence[Words], asked: Sequence[Words]) -> dict[str, float]:
    """Share of pictures in which each attribute is what was asked for."""
    pairs = list(zip(found, asked, strict=True))
    return {name: float(np.mean([f[name] == a[name] for f, a in pairs])) for name in ATTRIBUTES}


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], batch: int = 16) -> Tensor:
    """One picture for each prompt, `[N, 3, H, W]` in -1..1; prompt k starts from the noise of seed k."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(start + k) for k in range(len(part))]
        images.append(pipeline(part, generator=generators, output_type="np", **SAMPLING).images)
    return torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() * 2 - 1
