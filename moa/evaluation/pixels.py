"""Opened images as tensors of a device: how many at a time, those of one size together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def batch_size(device: torch.device, *, cpu: int, gpu: int) -> int:
    """Images in one pass: a processor gains little from more, a GPU waits for its host with fewer."""
    return cpu if device.type == "cpu" else gpu


def by_size(images: Sequence[Image.Image]) -> dict[tuple[int, int], list[int]]:
    """Places of the images of each size (width, height), in order."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, image in enumerate(images):
        places.setdefault(image.size, []).append(place)
    return places


def stacked(images: Sequence[Image.Image], device: torch.device) -> Tensor:
    """uint8 `[B, H, W, 3]` of images of one size and any mode; the copy to a GPU is from pinned memory."""
    coloured = (image if image.mode == "RGB" else image.convert("RGB") for image in images)
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in coloured]))
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels
