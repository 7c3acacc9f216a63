"""Metrics against numbers worked out by hand, and the bootstrap against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from moa.evaluation.metrics import (
    bootstrap_interval,
    context_change,
    identity_preservation,
    paired_difference,
    person_region,
    prompt_consistency,
)


def test_ip_is_the_cosine_clamped_at_zero_and_zero_without_a_face():
    reference = np.array([0.6, 0.8])
    assert identity_preservation(np.array([1.0, 0.0]), reference) == pytest.approx(0.6)
    assert identity_preservation(np.array([-1.0, 0.0]), reference) == 0.0
    assert identity_preservation(None, reference) == 0.0


def test_pc_is_the_cosine_and_not_clamped():
    assert prompt_consistency(np.array([-1.0, 0.0]), np.array([0.6, 0.8])) == pytest.approx(-0.6)


def test_the_person_region_follows_the_face_and_stays_in_the_image():
    region = person_region((30, 10, 34, 14), width=64, height=64)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    assert (rows[0], rows[-1]) == (7, 41)  # 10 - 0.75 * 4 ... 14 + 7 * 4
    assert (columns[0], columns[-1]) == (25, 38)  # 32 -+ 1.75 * 4
    assert person_region((-5, -5, 80, 80), width=64, height=32).all()
    assert person_region((30, 10, 34, 14), width=64, height=32).shape == (32, 64)


def test_context_change_parts_inside_from_outside():
    prior = np.zeros((4, 4, 3), np.uint8)
    image, region = prior.copy(), np.zeros((4, 4), bool)
    region[:2] = True
    image[:2] = 51  # a fifth of the range inside
    image[2, 0] = (255, 0, 0)  # one channel of one of eight pixels outside
    inside, outside = context_change(image, prior, region)
    assert inside == pytest.approx(0.2) and outside == pytest.approx(1 / 3 / 8)
    assert context_change(prior, image, region) == (inside, outside)  # no wrap-around of unsigned numbers
    assert context_change(image, prior, np.ones((4, 4), bool))[1] is None
    assert context_change(image, prior, np.zeros((4, 4), bool))[0] is None


def test_context_change_refuses_images_of_different_sizes():
    with pytest.raises(ValueError, match="cannot be compared"):
        context_change(np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), bool))


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
