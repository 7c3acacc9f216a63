"""Drawing styles: a phrase before the caption and a filter over the finished picture. Masks do not change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Filter = Callable[[Image.Image], Image.Image]


def _photo(picture: Image.Image) -> Image.Image:
    return picture


def _pencil(picture: Image.Image) -> Image.Image:
    grey = ImageOps.grayscale(picture)
    blurred = grey.filter(ImageFilter.GaussianBlur(1.2))
    dodge = np.clip(np.asarray(grey, np.float32) / np.maximum(np.asarray(blurred, np.float32), 1) * 255, 0, 255)
    tone = 0.62 * dodge + 0.38 * (120 + 0.53 * np.asarray(grey, np.float32))
    return Image.fromarray(np.clip(tone, 0, 255).astype(np.uint8)).convert("RGB")


def _watercolour(picture: Image.Image) -> Image.Image:
    soft = picture.filter(ImageFilter.ModeFilter(3)).filter(ImageFilter.GaussianBlur(0.6))
    pale = np.asarray(ImageEnhance.Color(soft).enhance(0.75), np.float32) * 0.62 + 96
    return Image.fromarray(np.clip(pale, 0, 255).astype(np.uint8))


def _sepia(picture: Image.Image) -> Image.Image:
    grey = np.asarray(ImageOps.grayscale(picture), np.float32)[..., None] / 255
    toned = np.array([46, 26, 10], np.float32) + grey * np.array([206, 196, 162], np.float32)
    size = picture.width
    ramp = (np.arange(size) - size / 2 + 0.5) / (size / 2)
    vignette = 1 - 0.28 * np.clip(ramp[:, None] ** 2 + ramp[None, :] ** 2 - 0.5, 0, 1)[..., None]
    return Image.fromarray((toned * vignette).astype(np.uint8))


def _poster(picture: Image.Image) -> Image.Image:
    vivid = ImageEnhance.Color(picture).enhance(1.9)
    return ImageOps.posterize(ImageEnhance.Contrast(vivid).enhance(1.35), 2)


STYLES: dict[str, tuple[str, Filter]] = {
    "photo": ("", _photo),
    "pencil": ("a pencil drawing of", _pencil),
    "watercolour": ("a watercolour painting of", _watercolour),
    "sepia": ("an old sepia photo of", _sepia),
    "poster": ("a pop art poster of", _poster),
}
