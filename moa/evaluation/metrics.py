"""The numbers of the evaluation, as pure functions of arrays: no files, no models, no hidden randomness.

Letters: n images, d embedding width, H x W pixels. IP and PC follow FastComposer's protocol, which the MoA paper uses
(section 4); intervals and context change go beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """Mean over images with its 95 % bootstrap interval `[low, high]`, None for fewer than two identities, and the
    population standard deviation over images."""

    mean: float
    low: float | None
    high: float | None
    std: float


def identity_preservation(face: np.ndarray | None, reference: np.ndarray) -> float:
    """IP of one image, 0..1: cosine of two unit face embeddings `[d]`, clamped at 0; no face (None) counts 0."""
    if face is None:
        return 0.0
    return float(max(np.dot(face, reference), 0.0))


def prompt_consistency(image: np.ndarray, text: np.ndarray) -> float:
    """PC of one image, -1..1: cosine of the unit CLIP embeddings `[d]` of image and prompt, neither clamped nor
    scaled."""
    return float(np.dot(image, text))


def person_region(face: tuple[float, float, float, float], width: int, height: int) -> np.ndarray:
    """Where the person of a face stands: bool `[H, W]`.

    A box in units of the face's size, since the face is all that is detected: 1.75 face widths to either side of its
    centre (arms), 0.75 face heights above it (hair), and 7 below its lower edge (a person is 7.5 to 8 heads tall),
    clipped to the image. `face` is `[x0, y0, x1, y1]` in pixels.
    """
    x0, y0, x1, y1 = face
    centre, face_width, face_height = (x0 + x1) / 2, x1 - x0, y1 - y0
    left, right = centre - 1.75 * face_width, centre + 1.75 * face_width
    top, bottom = y0 - 0.75 * face_height, y1 + 7 * face_height
    region = np.zeros((height, width), dtype=bool)
    rows = slice(max(0, int(np.floor(top))), max(0, int(np.ceil(bottom))))
    columns = slice(max(0, int(np.floor(left))), max(0, int(np.ceil(right))))
    region[rows, columns] = True
    return region


def context_change(image: np.ndarray, prior: np.ndarray, region: np.ndarray) -> tuple[float | None, float | None]:
    """Mean absolute difference, 0..1, between an image and the prior's of the same prompt and seed: (inside, outside).

    `image` and `prior` are uint8 `[H, W, 3]`; `region` is bool `[H, W]`, True where the person stands. The paper's
    claim is that personalization leaves the context alone: a large change inside with a small one outside. A side
    without pixels is None.
    """
    if image.shape != prior.shape:
        raise ValueError(f"an image of {image.shape} cannot be compared with a prior image of {prior.shape}")
    difference = np.abs(image.astype(np.int16) - prior.astype(np.int16)).mean(axis=2) / 255
    inside = float(difference[region].mean()) if region.any() else None
    outside = float(difference[~region].mean()) if not region.all() else None
    return inside, outside


def bootstrap_interval(
    values: np.ndarray, identities: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean of `values [n]` with a 95 % percentile interval over identities `[n]`; None for no values.

    Images of one person are not independent, so whole identities are drawn with replacement (cluster bootstrap); each
    draw is the mean over the images of the drawn identities. Deterministic for a seed.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return None
    _, index = np.unique(np.asarray(identities), return_inverse=True)
    low, high = None, None
    if index.max() > 0:
        low, high = map(float, np.percentile(_resampled_means(values, index, draws, seed), [2.5, 97.5]))
    return Interval(float(values.mean()), low, high, float(values.std()))


def paired_difference(
    a: np.ndarray, b: np.ndarray, identities: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """`bootstrap_interval` of b - a for two methods scored on the same images' keys: `a`, `b`, `identities` are
    aligned `[n]`.

    Pairing removes what both share (a hard prompt, a hard face), so smaller improvements can be told from noise.
    """
    return bootstrap_interval(np.asarray(b, np.float64) - np.asarray(a, np.float64), identities, draws=draws, seed=seed)


def _resampled_means(values: np.ndarray, index: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means `[draws]` of `values [n]` over identities drawn with replacement; `index [n]` numbers the identities from
    0."""
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(draws, len(counts)))
    return sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
