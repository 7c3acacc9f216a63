"""Pixels of the pictures in a page: shrunk originals, differences of two images, router maps in colour.

Each function opens its files itself and returns an RGB image and whether it is pixel art, a picture of the miniature
world that browsers magnify with hard edges. A file that is not there or cannot be decoded raises what Pillow raises.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

PIXEL_ART = 128  # sources up to this edge, pixels, are pixel art
SPRITE_EDGE = 1024  # sprites are shrunk to this
SMALL_SPRITE = 512  # up to this edge a sprite shows the cells of its maps as they are
NEUTRAL = (127, 127, 127)  # what the image encoder sees behind a subject
# Share of the personal expert, 0 to 1, in colour: from near black over the blue of MoA to a light that stands out.
RAMP = np.array([(14, 16, 26), (38, 52, 110), (66, 110, 214), (120, 190, 240), (255, 250, 214)], dtype=np.float32)


def shrink(path: Path, edge: int) -> tuple[Image.Image, bool]:
    """The picture with its longer edge at most `edge` pixels; pixel art keeps its size."""
    with Image.open(path) as opened:
        opened.draft("RGB", (edge, edge))  # JPEG only: decodes at a half, a quarter or an eighth
        image = flatten(opened)
    if max(image.size) <= PIXEL_ART:
        return image, True
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image, False


def flatten(image: Image.Image) -> Image.Image:
    """RGB, with transparent pixels on the neutral background the image encoder sees."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (*NEUTRAL, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def difference(path: Path, other: Path, edge: int, gain: float) -> tuple[Image.Image, bool]:
    """Absolute difference of two pictures, mean over the channels, times `gain`: black where they agree, white from
    1/gain on. Raises `ValueError` when their sizes differ."""
    (first, pixel_art), (second, _) = shrink(path, edge), shrink(other, edge)
    if first.size != second.size:
        raise ValueError(f"{path} and {other} differ in size")
    change = np.abs(np.asarray(first, np.float32) - np.asarray(second, np.float32)).mean(axis=2)
    return Image.fromarray(np.clip(change * gain, 0, 255).astype(np.uint8)).convert("RGB"), pixel_art


def heat(path: Path, columns: int, rows: int) -> tuple[Image.Image, bool]:
    """A sprite of `rows` x `columns` grey tiles, 255 = prior only, in the colours of `RAMP`. Raises `ValueError` when
    the tiles do not fit the sprite."""
    with Image.open(path) as opened:
        grey = opened.convert("L")
    if grey.width % columns or grey.height % rows or grey.width // columns != grey.height // rows:
        raise ValueError(f"{path} is not {rows} x {columns} square tiles")
    tile = min(grey.width // columns, max(SPRITE_EDGE // columns, 1))
    if tile * columns < grey.width:
        grey = grey.resize((tile * columns, tile * rows), Image.Resampling.BOX)
    return Image.fromarray(_colours()[255 - np.asarray(grey)]), max(grey.size) <= SMALL_SPRITE


def _colours() -> np.ndarray:
    """RAMP at 256 steps, uint8 (256, 3)."""
    at, knots = np.linspace(0, 1, 256), np.linspace(0, 1, len(RAMP))
    return np.stack([np.interp(at, knots, RAMP[:, channel]) for channel in range(3)], axis=1).round().astype(np.uint8)
