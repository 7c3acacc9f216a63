"""Means with 95 % bootstrap intervals over identities, for one table, for the difference of two, and for ratios.

Images of one person are not independent, so whole identities are drawn with replacement (cluster bootstrap); each draw
is the statistic over the images of the drawn identities. Deterministic for a seed. Letters: n images. Where images do
not know the person (a prior's), another unit takes the identity's place. Of a share that is the same for everybody, all
or nothing, the interval has no width, however few they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Table = tuple[np.ndarray, np.ndarray]  # numerator [n], denominator [n]


@dataclass(frozen=True)
class Interval:
    """Mean over `n` images with its 95 % bootstrap interval `[low, high]`, None for fewer than two units, and the
    population standard deviation over images, None for a ratio of means."""

    n: int
    mean: float
    low: float | None
    high: float | None
    std: float | None


def bootstrap_interval(values: np.ndarray, units: np.ndarray, *, draws: int = 2000, seed: int = 0) -> Interval | None:
    """Mean of `values [n]` with a 95 % percentile interval over units `[n]`; None for no values."""
    values = np.asarray(values, dtype=np.float64)
    found = _interval(_quotient, [values, np.ones_like(values)], units, draws, seed)
    return found and Interval(found.n, float(values.mean()), found.low, found.high, float(values.std()))


def paired_difference(
    a: np.ndarray, b: np.ndarray, units: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """`bootstrap_interval` of b - a for two methods scored on the same images' keys: `a`, `b`, `units` are aligned
    `[n]`.

    Pairing removes what both share (a hard prompt, a hard face), so smaller improvements can be told from noise.
    """
    return bootstrap_interval(np.asarray(b, np.float64) - np.asarray(a, np.float64), units, draws=draws, seed=seed)


def ratio_of_means(
    numerator: np.ndarray, denominator: np.ndarray, units: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """Mean of `numerator [n]` over mean of `denominator [n]`, aligned by image, with its interval over units.

    None for no values or a denominator whose mean is not positive; no bounds when that of a draw is not.
    """
    return _interval(_quotient, [numerator, denominator], units, draws, seed)


def difference_of_ratios(
    before: Table, after: Table, units: np.ndarray, *, draws: int = 2000, seed: int = 0
) -> Interval | None:
    """`ratio_of_means` of the one table less that of the other, both aligned `[n]` and drawn together. None and no
    bounds as there."""
    return _interval(lambda a, b, c, d: _quotient(c, d) - _quotient(a, b), [*before, *after], units, draws, seed)


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN for a divisor not above 0."""
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def _interval(
    statistic: Callable[..., np.ndarray], columns: list[np.ndarray], units: np.ndarray, draws: int, seed: int
) -> Interval | None:
    """A statistic of the sums of columns `[n]`, and its percentiles over units drawn with replacement."""
    columns = [np.asarray(column, np.float64) for column in columns]
    whole = statistic(*(column.sum(keepdims=True) for column in columns))[0]
    if len(units) == 0 or np.isnan(whole):
        return None
    drawn = statistic(*_resampled_sums(columns, units, draws, seed))
    known = len(drawn) > 0 and not np.isnan(drawn).any()
    low, high = (float(bound) for bound in np.percentile(drawn, [2.5, 97.5])) if known else (None, None)
    return Interval(len(units), float(whole), low, high, None)


def _resampled_sums(columns: list[np.ndarray], units: np.ndarray, draws: int, seed: int) -> list[np.ndarray]:
    """Sums `[draws]` of each column `[n]` over the same units drawn with replacement; no draws for one unit."""
    _, index = np.unique(np.asarray(units), return_inverse=True)
    sums = [np.bincount(index, weights=column) for column in columns]
    count = len(sums[0])
    drawn = np.random.default_rng(seed).integers(count, size=(draws, count) if count > 1 else (0, 1))
    return [each[drawn].sum(axis=1) for each in sums]
