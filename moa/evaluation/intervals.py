"""Means with 95 % intervals over identities, for one table, for the difference of two, and for ratios.

Images of one person are not independent, so whole identities are drawn with replacement (cluster bootstrap); each draw
is the statistic over the images of the drawn identities. An observation of two people counts as often as both are drawn
(pigeonhole bootstrap, Owen 2007): two that share a person are not independent either. Where images do not know the
person (a prior's), another unit takes the identity's place.

Half of the interval's width is t * sqrt(n / (n - 1)) * the draws' standard deviation, t the 97.5 % quantile of
Student's distribution with n - 1 degrees of freedom, n the units. For a mean of one value each that is the classical t
interval. The draws' percentiles instead are too narrow for the 6 to 15 people of a suite (they miss the truth in 16 to
7 % of suites instead of 5 %; Hesterberg 2015, section 4). Of shares (values 0 and 1) it is at least as wide as if
images were independent and four more of them off by one: where nobody differs, all or nothing, the draws do not either,
and few images would look like certainty. Deterministic. Letters: n images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

DRAWS, SEED = 2000, 0  # of the bootstrap
KNOWN = 0.95  # least share of draws that must have a value; a few may hold none of what is rare
Table = tuple[np.ndarray, np.ndarray]  # numerator [n], denominator [n]


@dataclass(frozen=True)
class Interval:
    """Mean over `n` images with its 95 % interval `[low, high]`, None for fewer than two units, and the population
    standard deviation over images, None for a ratio of means."""

    n: int
    mean: float
    low: float | None
    high: float | None
    std: float | None


def bootstrap_interval(values: np.ndarray, units: np.ndarray, *, images: int | None = None) -> Interval | None:
    """Mean of `values [n]` with its interval over units `[n]`, or `[n, 2]` where a value is about two; None for no
    values. Of values in 0..1 (scores, shares) the interval, too, ends there. `images` is how many distinct ones the
    values are of, n by default: people may share an image, and it tells no more for that."""
    values = np.asarray(values, dtype=np.float64)
    found = _mean(values, units, images, shares=_are_shares(values))
    if found is None or found.low is None or found.high is None or values.min() < 0 or values.max() > 1:
        return found
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def paired_difference(a: np.ndarray, b: np.ndarray, units: np.ndarray, *, images: int | None = None) -> Interval | None:
    """Mean of b - a with its interval, for two methods scored on the same images' keys: `a`, `b`, `units` are aligned
    `[n]`; `images` as for `bootstrap_interval`.

    Pairing removes what both share (a hard prompt, a hard face), so smaller improvements can be told from noise.
    """
    difference = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    return _mean(difference, units, images, shares=_are_shares(a, b))


def ratio_of_means(numerator: np.ndarray, denominator: np.ndarray, units: np.ndarray) -> Interval | None:
    """Mean of `numerator [n]` over mean of `denominator [n]`, aligned by image, with its interval over units.

    None for no values or a denominator whose mean is not positive; no bounds when that of many draws (`KNOWN`) is not.
    """
    shares = _are_shares(numerator, denominator)
    return _interval(_quotient, [numerator, denominator], units, shares=shares)


def difference_of_ratios(before: Table, after: Table, units: np.ndarray) -> Interval | None:
    """`ratio_of_means` of the one table less that of the other, both aligned `[n]` and drawn together. None and no
    bounds as there."""
    return _interval(lambda a, b, c, d: _quotient(c, d) - _quotient(a, b), [*before, *after], units)


def _mean(values: np.ndarray, units: np.ndarray, images: int | None, *, shares: bool) -> Interval | None:
    found = _interval(_quotient, [values, np.ones_like(values)], units, images, shares=shares)
    return found and replace(found, mean=float(values.mean()), std=float(values.std()))


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN for a divisor not above 0."""
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def _are_shares(*columns: np.ndarray) -> bool:
    """Whether all values are 0 or 1."""
    return all(np.isin(column, (0, 1)).all() for column in columns)


def _interval(
    statistic: Callable[..., np.ndarray],
    columns: list[np.ndarray],
    units: np.ndarray,
    images: int | None = None,
    *,
    shares: bool = False,
) -> Interval | None:
    """A statistic of the sums of columns `[n]`, with its interval over units drawn with replacement. `shares`: it is
    the quotient of two columns made of nothing but 0 and 1, of `images` distinct images, n by default."""
    columns = [np.asarray(column, np.float64) for column in columns]
    whole = float(statistic(*(column.sum(keepdims=True) for column in columns))[0])
    if len(units) == 0 or np.isnan(whole):
        return None
    images = images or len(units)
    count, sums = _resampled_sums(columns, np.asarray(units))
    drawn = statistic(*sums)
    known = drawn[~np.isnan(drawn)]
    if len(known) == 0 or len(known) < KNOWN * len(drawn):
        return Interval(images, whole, None, None, None)
    half = student.ppf(0.975, count - 1) * np.sqrt(count / (count - 1)) * known.std()
    if shares:
        above, below = columns
        half = max(half, _least_half(above, below, whole, images))
    return Interval(images, whole, whole - float(half), whole + float(half), None)


def _least_half(above: np.ndarray, below: np.ndarray, whole: float, images: int) -> float:
    """Half of the interval of their quotient `whole`, if images were independent and four more were off by one: about
    3.9 / n where none of n is off, of which the exact 97.5 % bound is 3.7 / n."""
    off = np.square(above - whole * below).sum() * (images / len(above))
    return float(norm.ppf(0.975) * np.sqrt(off + 4) / (images + 4) / below.mean())


def _resampled_sums(columns: list[np.ndarray], units: np.ndarray) -> tuple[int, list[np.ndarray]]:
    """The number of distinct units `[n]` or `[n, 2]`, and the sums `[DRAWS]` of each column `[n]` when they are drawn
    with replacement, the same for all columns. No draws for one unit, or when all observations are about the same two;
    draws without any observation are left out."""
    names, index = np.unique(units, return_inverse=True)
    alike, row = np.unique(np.sort(index.reshape(len(units), -1), axis=1), axis=0, return_inverse=True)
    if len(alike) < 2:
        return len(names), [np.empty(0) for _ in columns]
    count = len(names)
    times = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    weights = times[:, alike].prod(axis=2)
    weights = weights[weights.any(axis=1)]
    return count, [weights @ np.bincount(row.ravel(), weights=column) for column in columns]
