"""Drawing with a tiny pipeline: the pipeline, a person to draw, and images small enough to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from moa.pipeline import MoAPipeline
from moa.subjects import Subject
from tests.tiny_models import (
    tiny_image_encoder,
    tiny_image_processor,
    tiny_moa_unet,
    tiny_scheduler,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)


def tiny_pipeline(folder: Path, **parts: Any) -> MoAPipeline:
    """A pipeline of its own as if trained, always of the same random weights; `parts` replace components.

    `folder` takes the tokenizer's files.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        components = {
            "vae": tiny_vae(),
            "text_encoder": tiny_text_encoder(),
            "tokenizer": tiny_tokenizer(folder / "tokenizer"),
            "unet": tiny_moa_unet(tiny_unet()),
            "scheduler": UniPCMultistepScheduler.from_config(tiny_scheduler().config),
            "safety_checker": None,
            "feature_extractor": None,
            "subject_encoder": tiny_image_encoder(),
            "subject_processor": tiny_image_processor(),
        }
        return quiet(MoAPipeline(**{**components, **parts}, requires_safety_checker=False))


def stock(pipe: Any) -> StableDiffusionPipeline:
    """The base pipeline from the same weights."""
    own = ("unet", "subject_encoder", "subject_processor")
    components = {name: part for name, part in pipe.components.items() if name not in own}
    base = StableDiffusionPipeline(**components, unet=pipe.unet.to_base_unet(), requires_safety_checker=False)
    base.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    return quiet(base)


def quiet(pipe: Any) -> Any:
    """The pipeline without its progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def person(seed: int) -> Image.Image:
    """A cut-out of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 16, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA")


def man(seed: int = 1) -> list[Subject]:
    """The subject of a prompt that names a man."""
    return [Subject("man", person(seed))]


def draw(pipe: Any, prompt: str | list[str] | None, subjects: Any = None, **options: Any) -> Tensor:
    """Images [n, 3, 32, 32], or what `output_type` says, of two steps from seed 0."""
    options = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.manual_seed(0), **options}
    return pipe(prompt, subjects, **options).images if subjects is not None else pipe(prompt, **options).images
