"""Means with 95 % bootstrap intervals over identities, for one table, for the difference of two and for a ratio.

Images of one person are not independent, so whole identities are drawn with replacement (cluster bootstrap); each draw
is the statistic over the images of the drawn identities. Deterministic for a seed. Letters: n images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """Mean over images with its 95 % bootstrap interval `[low, high]`, None for fewer than two identities, and the
    population standard deviation over images, None for a ratio of means."""

    mean: float
    low: float | None
    high: float | None
    std: float | None


def bootstrap_interval(
    values: np.ndarray, identities: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean of `values [n]` with a 95 % percentile interval over identities `[n]`; None for no values."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        return None
    sums, counts = _resampled_sums([values, np.ones_like(values)], identities, draws, seed)
    return Interval(float(values.mean()), *_bounds(sums, counts), float(values.std()))


def paired_difference(
    a: np.ndarray, b: np.ndarray, identities: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """`bootstrap_interval` of b - a for two methods scored on the same images' keys: `a`, `b`, `identities` are
    aligned `[n]`.

    Pairing removes what both share (a hard prompt, a hard face), so smaller improvements can be told from noise.
    """
    return bootstrap_interval(np.asarray(b, np.float64) - np.asarray(a, np.float64), identities, draws=draws, seed=seed)


def ratio_of_means(
    numerator: np.ndarray, denominator: np.ndarray, identities: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean of `numerator [n]` over mean of `denominator [n]`, aligned by image, with its interval over identities.

    None for no values or a denominator whose mean is not positive; no bounds when that of a draw is not.
    """
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if len(numerator) == 0 or denominator.mean() <= 0:
        return None
    mean = float(numerator.mean() / denominator.mean())
    above, below = _resampled_sums([numerator, denominator], identities, draws, seed)
    return Interval(mean, *_bounds(above, below), None)


def _resampled_sums(columns: list[np.ndarray], identities: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """Sums `[draws]` of each column `[n]` over the same identities drawn with replacement; no draws for one."""
    _, index = np.unique(np.asarray(identities), return_inverse=True)
    sums = [np.bincount(index, weights=column) for column in columns]
    identity_count = len(sums[0])
    shape = (draws, identity_count) if identity_count > 1 else (0, 1)
    drawn = np.random.default_rng(seed).integers(identity_count, size=shape)
    return [each[drawn].sum(axis=1) for each in sums]


def _bounds(above: np.ndarray, below: np.ndarray) -> tuple[float | None, float | None]:
    """The 2.5 and 97.5 percentiles of `above / below [draws]`; None without draws or with a divisor not above 0."""
    if len(below) == 0 or (below <= 0).any():
        return None, None
    low, high = np.percentile(above / below, [2.5, 97.5])
    return float(low), float(high)
