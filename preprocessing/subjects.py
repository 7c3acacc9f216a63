"""Subject crops and the label map: what the image encoder sees of a person, and where the losses look for it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from preprocessing.frame import OTHER_PERSON


def label_map(subjects: list[np.ndarray], others: list[np.ndarray], side: int) -> np.ndarray:
    """Masks bool [side, side] -> labels uint8: 0 background, i+1 subject i, 255 other people.

    Where masks overlap, subjects lie over others and larger subjects over smaller ones, which are farther away.
    """
    labels = np.zeros((side, side), np.uint8)
    for mask in others:
        labels[mask] = OTHER_PERSON
    for index in sorted(range(len(subjects)), key=lambda index: int(subjects[index].sum())):
        labels[subjects[index]] = index + 1
    return labels


def mask_box(mask: np.ndarray) -> list[int]:
    """The smallest `[x0, y0, x1, y1]` around a mask that is not empty, end exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def subject_crop(image: np.ndarray, mask: np.ndarray, *, size: int, margin: float) -> Image.Image:
    """The subject in a square RGBA image of `size` pixels; everything that is not the subject is transparent black.

    The square is centred on the mask's box and `margin` (share of the box's longer side) wider on each side; it may
    reach beyond the image.
    """
    x0, y0, x1, y1 = mask_box(mask)
    edge = round(max(x1 - x0, y1 - y0) * (1 + 2 * margin))
    left, top = (x0 + x1 - edge) // 2, (y0 + y1 - edge) // 2
    cut_out = np.dstack([image, np.uint8(255) * mask]) * mask[..., None]
    square = np.zeros((edge, edge, 4), np.uint8)
    square[y0 - top : y1 - top, x0 - left : x1 - left] = cut_out[y0:y1, x0:x1]
    crop = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))
    return Image.fromarray(crop * (crop[..., 3:] > 0))
