"""Intervals against scipy's bootstrap and against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from moa.evaluation.intervals import bootstrap_interval, difference_of_ratios, paired_difference, ratio_of_means


def test_the_interval_is_scipys_when_every_identity_has_one_image():
    values = np.random.default_rng(3).normal(0.5, 0.1, 40)
    ours = bootstrap_interval(values, np.arange(40), draws=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert (ours.mean, ours.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=2e-3), pytest.approx(theirs.high, abs=2e-3))


def test_images_of_one_person_do_not_narrow_the_interval():
    one_each = bootstrap_interval(np.array([0.2, 0.8, 0.4]), np.array(["a", "b", "c"]))
    many_each = bootstrap_interval(np.repeat([0.2, 0.8, 0.4], 50), np.repeat(["a", "b", "c"], 50))
    assert (many_each.low, many_each.high) == pytest.approx((one_each.low, one_each.high))


def test_the_interval_is_deterministic_and_absent_for_one_identity():
    values, who = np.random.default_rng(5).normal(size=40), np.arange(40) // 2
    assert bootstrap_interval(values, who) == bootstrap_interval(values, who)
    assert bootstrap_interval(values, who) != bootstrap_interval(values, who, seed=1)
    single = bootstrap_interval(values, np.zeros(40))
    assert (single.low, single.high, single.mean) == (None, None, pytest.approx(values.mean()))
    assert bootstrap_interval(np.array([]), np.array([])) is None


def test_pairing_finds_a_small_improvement_in_spread_out_scores():
    hard = np.random.default_rng(0).uniform(0, 1, 60)
    who = np.arange(60) % 15
    difference = paired_difference(hard, hard + 0.02, who)
    assert difference.mean == pytest.approx(0.02) and difference.low > 0
    unpaired = bootstrap_interval(hard, who)
    assert unpaired.high - unpaired.low > 0.02


def test_a_ratio_is_of_means_and_its_interval_scipys():
    rng = np.random.default_rng(4)
    below = rng.uniform(0.5, 1.5, 40)
    above = 0.3 * below + rng.normal(0, 0.05, 40)
    ours = ratio_of_means(above, below, np.arange(40), draws=20_000)
    theirs = bootstrap(
        (above, below),
        lambda a, b, axis: a.mean(axis) / b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert ours.mean == pytest.approx(above.mean() / below.mean()) and ours.std is None
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=2e-3), pytest.approx(theirs.high, abs=2e-3))


def test_a_difference_of_ratios_is_drawn_together_and_its_interval_scipys():
    rng = np.random.default_rng(6)
    below = rng.uniform(0.5, 1.5, (2, 40))
    above = [0.3 * below[0] + rng.normal(0, 0.05, 40), 0.2 * below[1] + rng.normal(0, 0.05, 40)]
    ours = difference_of_ratios((above[0], below[0]), (above[1], below[1]), np.arange(40), draws=20_000)
    theirs = bootstrap(
        (above[0], below[0], above[1], below[1]),
        lambda a, b, c, d, axis: c.mean(axis) / d.mean(axis) - a.mean(axis) / b.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert ours.mean == pytest.approx(above[1].sum() / below[1].sum() - above[0].sum() / below[0].sum())
    assert (ours.low, ours.high) == (pytest.approx(theirs.low, abs=2e-3), pytest.approx(theirs.high, abs=2e-3))
    assert difference_of_ratios((above[0], 0 * below[0]), (above[1], below[1]), np.arange(40)) is None


def test_a_ratio_to_nothing_is_none():
    assert ratio_of_means(np.array([]), np.array([]), np.array([])) is None
    assert ratio_of_means(np.ones(2), np.zeros(2), np.arange(2)) is None
    unsure = ratio_of_means(np.ones(2), np.array([0.0, 1.0]), np.arange(2))  # a draw may hold the 0 alone
    assert (unsure.mean, unsure.low, unsure.high) == (2.0, None, None)
    one = ratio_of_means(np.ones(2), np.full(2, 4.0), np.zeros(2))
    assert (one.mean, one.low, one.high) == (0.25, None, None)
