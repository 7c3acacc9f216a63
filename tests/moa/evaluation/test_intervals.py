"""Intervals against the classical ones, how often they hold the truth, and numbers worked out by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from moa.evaluation import intervals
from moa.evaluation.intervals import bootstrap_interval, difference_of_ratios, paired_difference, ratio_of_means

MANY = 20_000  # draws


def classical(residuals: np.ndarray, scale: float = 1.0) -> float:
    """Half of the t interval of a mean, or of a quotient whose residuals these are, over independent units."""
    n = len(residuals)
    return stats.t.ppf(0.975, n - 1) * residuals.std(ddof=1) / np.sqrt(n) / scale


@pytest.mark.parametrize("people", [3, 8, 40])
def test_the_interval_is_students_when_every_identity_has_one_image(people, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", MANY)
    values = np.random.default_rng(3).normal(50, 0.1, people)
    ours, half = bootstrap_interval(values, np.arange(people)), classical(values)
    assert (ours.mean, ours.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))
    assert (ours.low - ours.mean, ours.high - ours.mean) == pytest.approx((-half, half), rel=0.02)


@pytest.mark.parametrize("people", [4, 6, 15])
def test_of_a_hundred_suites_about_five_miss_the_truth(people, monkeypatch):
    """The draws' percentiles would miss it in 18, 16 and 7."""
    monkeypatch.setattr(intervals, "DRAWS", 300)
    suites = np.random.default_rng(people).normal(-1, 1, (400, people))
    found = [bootstrap_interval(values, np.arange(people)) for values in suites]
    missed = np.mean([not each.low <= -1 <= each.high for each in found])
    assert 0.025 <= missed <= 0.085  # 400 suites: three standard deviations about 0.05


@pytest.mark.parametrize("groups", [(6,), (3, 3), (2, 2, 2, 2)], ids=str)
def test_comparisons_that_share_people_are_not_independent(groups, monkeypatch):
    """Each is of two people, who are off by something of their own. Over the people's own means, as if these were
    independent, four in ten suites of (6,) would miss the truth."""
    monkeypatch.setattr(intervals, "DRAWS", 300)
    rng = np.random.default_rng(sum(groups))
    first = np.cumsum((0, *groups[:-1]))
    two = np.array([(a + f, b + f) for f, g in zip(first, groups, strict=True) for a, b in combinations(range(g), 2)])
    missed = []
    for off in rng.normal(0, 1, (400, sum(groups))):
        found = bootstrap_interval(off[two].sum(axis=1) + rng.normal(-1, 0.5, len(two)), two)
        missed.append(not found.low <= -1 <= found.high)
    assert np.mean(missed) <= 0.1


def test_one_comparison_and_one_person_have_no_bounds():
    alone = bootstrap_interval(np.array([0.2, 0.4]), np.array([["a", "b"], ["b", "a"]]))
    assert (alone.n, alone.mean, alone.low, alone.high) == (2, pytest.approx(0.3), None, None)
    two = bootstrap_interval(np.array([0.2, 0.4]), np.array([["a", "b"], ["d", "c"]]))  # half of the draws hold neither
    assert two.low < 0.3 < two.high


def test_an_interval_of_scores_and_shares_ends_where_they_do():
    shares = bootstrap_interval(np.array([1.0, 1.0, 1.0, 0.0]), np.arange(4))
    assert shares.low == 0.0 and shares.high == 1.0
    difference = paired_difference(np.zeros(4), np.array([1.0, 1.0, 1.0, 0.0]), np.arange(4))
    assert difference.low < 0 and difference.high > 1  # how sure it is, for tests against a bound


@pytest.mark.parametrize(("people", "share", "images"), [(4, 0.95, 2), (6, 0.97, 6), (15, 0.97, 10), (15, 0.995, 40)])
def test_shares_near_one_are_not_certain(people, share, images, monkeypatch):
    """Many of these suites show it in all images; by the draws alone 65 and 34 % of the first two miss the truth."""
    monkeypatch.setattr(intervals, "DRAWS", 200)
    who = np.repeat(np.arange(people), images)
    suites = (np.random.default_rng(people).random((200, 2, people * images)) < share).astype(float)
    found = [bootstrap_interval(a, who) for a, _ in suites]
    differences = [paired_difference(a, b, who) for a, b in suites]
    ratios = [ratio_of_means(b, a, who) for a, b in suites]
    for truth, each_interval in ((share, found), (0, differences), (1, ratios)):
        assert np.mean([not each.low <= truth <= each.high for each in each_interval]) <= 0.085


def test_all_and_nothing_by_hand():
    """Of 96 images all: half is 1.96 * sqrt(4) / 100. Each of two people loses one of 8: not certain either."""
    who = np.repeat(np.arange(8), 12)
    everything = bootstrap_interval(np.ones(96), who)
    assert (everything.low, everything.high) == (pytest.approx(1 - 0.0392, abs=1e-4), 1.0)
    nothing = paired_difference(np.ones(96), np.ones(96), who)
    assert (nothing.low, nothing.high) == (pytest.approx(-0.0392, abs=1e-4), pytest.approx(0.0392, abs=1e-4))
    lost = np.tile([0.0, 1, 1, 1, 1, 1, 1, 1], 2)
    difference = paired_difference(np.ones(16), lost, np.repeat([0, 1], 8))
    half = 1.96 * np.sqrt(2 * (1 - 0.125) ** 2 + 14 * 0.125**2 + 4) / 20
    assert (difference.mean, difference.high) == (-0.125, pytest.approx(-0.125 + half, abs=1e-4))
    assert paired_difference(np.full(9, 0.5), np.full(9, 0.5), np.arange(9)).high == 0  # scores: bit for bit the same
    some = np.array([0.0, 1] + 7 * [0.5])
    assert paired_difference(some, some, np.arange(9)).high == 0, "scores too, though two of them might be shares"
    assert ratio_of_means(np.ones(9), np.full(9, 0.5), np.arange(9)).high == 2, "and shares of what is none"
    half_shown = np.tile(
        [1.0, 0.0], 8
    )  # all of them kept: half is 1.96 * sqrt(4) / 20 of images, of which half show it
    kept = ratio_of_means(half_shown, half_shown, np.repeat(np.arange(8), 2))
    assert (kept.low, kept.high) == (pytest.approx(1 - 0.392, abs=1e-4), pytest.approx(1 + 0.392, abs=1e-4))


def test_people_who_share_an_image_make_no_share_surer():
    """As those with one class word share the prior's: 15 people, 4 images."""
    prompts, who = np.arange(4), np.tile(np.arange(4), 15)
    assert bootstrap_interval(np.ones(60), who, images=4) == bootstrap_interval(np.ones(4), prompts)
    shared, alone = paired_difference(np.ones(60), np.ones(60), who, images=4), np.ones(4)
    assert shared == paired_difference(alone, alone, prompts) and shared.high > 0.4
    lost = np.array([1.0, 0, 1, 1])  # off by one image, not by fifteen
    shared, alone = (
        paired_difference(np.ones(60), np.tile(lost, 15), who, images=4),
        paired_difference(alone, lost, prompts),
    )
    assert (shared.low, shared.high) == pytest.approx((alone.low, alone.high))


def test_images_of_one_person_do_not_narrow_the_interval():
    one_each = bootstrap_interval(np.array([0.2, 0.8, 0.4]), np.array(["a", "b", "c"]))
    many_each = bootstrap_interval(np.repeat([0.2, 0.8, 0.4], 50), np.repeat(["a", "b", "c"], 50))
    assert (many_each.low, many_each.high) == pytest.approx((one_each.low, one_each.high))


def test_the_interval_is_deterministic_and_absent_for_one_identity(monkeypatch):
    values, who = np.random.default_rng(5).normal(size=40), np.arange(40) // 2
    assert bootstrap_interval(values, who) == bootstrap_interval(values, who)
    before = bootstrap_interval(values, who)
    monkeypatch.setattr(intervals, "SEED", 1)
    assert bootstrap_interval(values, who) != before
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


def test_a_ratio_is_of_means_and_its_interval_students(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", MANY)
    rng = np.random.default_rng(4)
    below = rng.uniform(0.5, 1.5, 40)
    above = 0.3 * below + rng.normal(0, 0.05, 40)
    ours, ratio = ratio_of_means(above, below, np.arange(40)), above.mean() / below.mean()
    half = classical(above - ratio * below, below.mean())
    assert ours.mean == pytest.approx(ratio) and ours.std is None
    assert (ours.low - ratio, ours.high - ratio) == pytest.approx((-half, half), rel=0.05)


def test_a_difference_of_ratios_is_drawn_together(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", MANY)
    rng = np.random.default_rng(6)
    below = rng.uniform(0.5, 1.5, (2, 40))
    above = np.stack([0.3 * below[0] + rng.normal(0, 0.05, 40), 0.2 * below[1] + rng.normal(0, 0.05, 40)])
    ours = difference_of_ratios((above[0], below[0]), (above[1], below[1]), np.arange(40))
    ratios, means = above.mean(axis=1) / below.mean(axis=1), below.mean(axis=1)
    half = classical((above[1] - ratios[1] * below[1]) / means[1] - (above[0] - ratios[0] * below[0]) / means[0])
    assert ours.mean == pytest.approx(ratios[1] - ratios[0])
    assert (ours.low - ours.mean, ours.high - ours.mean) == pytest.approx((-half, half), rel=0.05)
    assert difference_of_ratios((above[0], 0 * below[0]), (above[1], below[1]), np.arange(40)) is None


def test_a_ratio_to_nothing_is_none():
    assert ratio_of_means(np.array([]), np.array([]), np.array([])) is None
    assert ratio_of_means(np.ones(2), np.zeros(2), np.arange(2)) is None
    assert ratio_of_means(np.ones(2), -np.ones(2), np.arange(2)) is None
    unsure = ratio_of_means(np.ones(2), np.array([0.0, 1.0]), np.arange(2))  # a draw may hold the 0 alone
    assert (unsure.mean, unsure.low, unsure.high) == (2.0, None, None)
    rare = ratio_of_means(np.ones(6), np.array([0.0, 0, 0, 1, 1, 1]), np.arange(6))  # 1 draw of 64 holds only zeros
    assert rare.mean == 2.0 and rare.low is not None
    one = ratio_of_means(np.ones(2), np.full(2, 4.0), np.zeros(2))
    assert (one.mean, one.low, one.high) == (0.25, None, None)
