"""Augmentation of a subject's crop: the model is to learn the person, not the pose and light of one photo.

Random numbers come from the caller's generator only: (seed, sample number) decides them, so a resumed run sees the
same crops. The last step before the image encoder (neutral background, square, resize, normalisation) is
`moa.subjects.encoder_pixels`, the same in training and inference.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance

from moa.train_config import SubjectAugmentation


def augment_subject(crop: Image.Image, config: SubjectAugmentation, rng: np.random.Generator) -> Image.Image:
    """Varies an RGBA crop (alpha 0 where it is not the subject); the result has the same size.

    Returns RGBA, or RGB when a random colour was put behind the subject. The same number of draws is taken whatever the
    options are, so changing one option leaves the others' choices alone.
    """
    flip, background = rng.random(2)
    red, green, blue = rng.integers(0, 256, size=3).tolist()
    brightness, contrast, saturation = 1 + config.colour * rng.uniform(-1, 1, size=3)
    shift_x, shift_y, zoom, turn = rng.uniform(-1, 1, size=4)

    if flip < config.flip:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.colour:
        crop = _recolour(crop, brightness, contrast, saturation)
    if config.geometry or config.rotation:
        shift = (config.geometry * shift_x, config.geometry * shift_y)
        moved = _move(crop, shift, 1 + config.geometry * zoom, config.rotation * turn)
        crop = moved if moved.getchannel("A").getbbox() else crop  # a sliver at the edge is not moved out of sight
    return _over(crop, (red, green, blue)) if background < config.background else crop


def _recolour(crop: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Global brightness, contrast and saturation; hue and alpha stay."""
    alpha, colour = crop.getchannel("A"), crop.convert("RGB")
    for enhancer, factor in (
        (ImageEnhance.Brightness, brightness),
        (ImageEnhance.Contrast, contrast),
        (ImageEnhance.Color, saturation),
    ):
        colour = enhancer(colour).enhance(factor)
    colour.putalpha(alpha)
    return colour


def _move(crop: Image.Image, shift: tuple[float, float], zoom: float, degrees: float) -> Image.Image:
    """Rotation and zoom about the centre, then a shift in shares of the size; uncovered pixels get alpha 0."""
    w, h = crop.size
    angle = math.radians(degrees)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    centre_x, centre_y = w * (0.5 + shift[0]), h * (0.5 + shift[1])
    # PIL wants the map from output to input pixels. It premultiplies colours by alpha for the resampling, so that the
    # hidden background does not bleed in at the edge.
    inverse = (cos, sin, w / 2 - cos * centre_x - sin * centre_y, -sin, cos, h / 2 + sin * centre_x - cos * centre_y)
    return crop.transform((w, h), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def _over(crop: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    background = Image.new("RGBA", crop.size, (*colour, 255))
    return Image.alpha_composite(background, crop).convert("RGB")
