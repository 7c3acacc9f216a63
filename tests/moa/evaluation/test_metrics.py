"""Metrics against numbers worked out by hand, and against slow, obvious ways to compute the same."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from moa.evaluation.faces import REAL_PERSON
from moa.evaluation.metrics import (
    PersonBox,
    change,
    content_diversity,
    identity_preservation,
    layout_diversity,
    match_faces,
    person_region,
    prompt_consistency,
    prompt_rank,
)


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_ip_is_the_cosine_clamped_at_zero_and_zero_without_a_face():
    reference = np.array([0.6, 0.8])
    assert identity_preservation(np.array([1.0, 0.0]), reference) == pytest.approx(0.6)
    assert identity_preservation(np.array([-1.0, 0.0]), reference) == 0.0
    assert identity_preservation(None, reference) == 0.0


def test_two_faces_find_their_references_in_any_order():
    references = np.eye(3)[:2]
    faces = np.array([[0.28, 0.96, 0.0], [0.8, -0.6, 0.0], [0.0, 0.0, 1.0]])  # second's, first's, a passer-by's
    for order in permutations(range(3)):
        found = match_faces(faces[list(order)], references)
        assert (found.ip_first, found.ip_second, found.ip) == pytest.approx((0.8, 0.96, 0.8))
        assert found.leakage == pytest.approx((0.0 + 0.28) / 2) and found.assigned  # -0.6 counts 0


def test_the_matching_is_optimal_not_greedy():
    """Both faces resemble the first reference most; the pairing with the larger sum leaves it to the second face."""
    references = np.eye(3)[:2]
    faces = np.array([[0.8, 0.6, 0.0], [0.79, 0.0, np.sqrt(1 - 0.79**2)]])
    found = match_faces(faces, references)
    assert (found.ip_first, found.ip_second) == pytest.approx((0.79, 0.6))
    assert found.leakage == pytest.approx((0.0 + 0.8) / 2) and not found.assigned


@pytest.mark.parametrize(
    ("faces", "assigned"),
    [
        ([[0.4, 0.1], [0.5, 0.8]], True),  # the second face is nearer to the first reference than the first face is
        ([[0.5, 0.6], [0.1, 0.9]], False),  # the first face is nearer to the second reference than to its own
    ],
)
def test_assigned_asks_each_face_and_not_each_reference(faces, assigned):
    third = [np.sqrt(1 - a * a - b * b) for a, b in faces]
    found = match_faces(np.column_stack([faces, third]), np.eye(3)[:2])
    assert (found.ip_first, found.ip_second) == pytest.approx((faces[0][0], faces[1][1])) and found.assigned is assigned


def test_nobody_is_nearer_to_one_of_two_equal_references():
    assert not match_faces(_unit(np.random.default_rng(3), 2, 5), np.eye(5)[[0, 0]]).assigned


def test_the_matching_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        faces, references = _unit(rng, 4, 5), _unit(rng, 2, 5)
        best = max(permutations(range(4), 2), key=lambda pair: sum(references[i] @ faces[pair[i]] for i in range(2)))
        found = match_faces(faces, references)
        own = [max(0.0, references[i] @ faces[best[i]]) for i in range(2)]
        other = [max(0.0, references[1 - i] @ faces[best[i]]) for i in range(2)]
        assert (found.ip_first, found.ip_second, found.ip) == pytest.approx((*own, min(own)))
        assert found.leakage == pytest.approx(np.mean(other))


def test_strangers_are_assigned_half_of_the_time():
    rng = np.random.default_rng(1)
    assigned = [match_faces(_unit(rng, 2, 64), _unit(rng, 2, 64)).assigned for _ in range(2000)]
    assert np.mean(assigned) == pytest.approx(0.5, abs=0.04)


def test_one_face_is_no_pair():
    assert match_faces(np.eye(3)[:1], np.eye(3)[:2]) is None
    assert match_faces(np.zeros((0, 3)), np.eye(3)[:2]) is None


def test_pc_is_the_cosine_and_not_clamped():
    assert prompt_consistency(np.array([-1.0, 0.0]), np.array([0.6, 0.8])) == pytest.approx(-0.6)


def test_the_prompt_rank_counts_the_better_ones():
    image, texts = np.array([1.0, 0.0]), np.array([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
    assert [prompt_rank(image, np.roll(texts, -own, axis=0)) for own in range(4)] == [2, 1, 4, 2]
    assert prompt_rank(image, texts[:1]) is None


def test_the_person_region_follows_the_face_and_stays_in_the_image():
    real = PersonBox(head=1, side=1.75, above=0.75, below=7)
    region = person_region((30, 10, 34, 14), real, width=64, height=64)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    assert (rows[0], rows[-1]) == (7, 41)  # 10 - 0.75 * 4 ... 14 + 7 * 4
    assert (columns[0], columns[-1]) == (25, 38)  # 32 -+ 1.75 * 4
    head, body = np.flatnonzero(region[13]), np.flatnonzero(region[14])
    assert (head[0], head[-1]) == (28, 35) and (body[0], body[-1]) == (25, 38)  # 32 -+ 4 down to the chin
    assert person_region((-80, -5, 160, 80), real, width=64, height=32).all()
    assert person_region((30, 10, 34, 14), real, width=64, height=32).shape == (32, 64)
    small = person_region((30, 10, 34, 14), PersonBox(head=0.5, side=0.5, above=0, below=0), width=64, height=64)
    assert small.sum() == 16 and small[10:14, 30:34].all()


def test_the_person_region_of_a_face_between_pixels_that_is_no_square():
    """Each pixel that the boxes touch; heights are in heights of the face, widths in its widths."""
    person = PersonBox(head=1, side=1.5, above=0.5, below=2)
    region = person_region((20.4, 20.6, 22.6, 24.6), person, width=64, height=64)  # 2.2 wide, 4 high, about 21.5
    expected = np.zeros((64, 64), bool)
    expected[18:25, 19:24] = True  # 20.6 - 0.5 * 4 ... 24.6, 21.5 -+ 2.2
    expected[24:33, 18:25] = True  # ... 24.6 + 2 * 4, 21.5 -+ 3.3
    assert np.array_equal(region, expected)
    outside = PersonBox(head=0.5, side=0.5, above=0, below=0)
    for box in ((-9, -9, -5, -5), (-9, 20, -5, 24), (20, -9, 24, -5), (70, 70, 74, 74)):
        assert not person_region(box, outside, width=64, height=64).any()


def test_a_portrait_leaves_background_beside_the_head():
    """A face of 40 % of the width: shoulders fill the picture, the scene is beside the head."""
    region = person_region((150, 100, 350, 360), REAL_PERSON, width=500, height=600)
    assert not region[:360, :50].any() and region[360:].all() and 0.7 < region.mean() < 0.9


def test_change_parts_inside_from_outside():
    prior = np.zeros((4, 4, 3), np.uint8)
    image, region = prior.copy(), np.zeros((4, 4), bool)
    region[:2] = True
    image[:2] = 51  # a fifth of the range inside
    image[2, 0] = (255, 0, 0)  # one channel of one of eight pixels outside
    inside, outside = change(image, prior, region)
    assert inside == pytest.approx(0.2) and outside == pytest.approx(1 / 3 / 8)
    assert change(prior, image, region) == (inside, outside)  # no wrap-around of unsigned numbers
    assert change(image, prior, np.ones((4, 4), bool))[1] is None
    assert change(image, prior, np.zeros((4, 4), bool))[0] is None


def test_change_is_the_mean_absolute_difference():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    region = rng.random((9, 7)) < 0.4
    difference = np.abs(a.astype(float) - b).mean(axis=2) / 255
    assert change(a, b, region) == pytest.approx((difference[region].mean(), difference[~region].mean()))


def test_change_refuses_images_of_different_sizes():
    with pytest.raises(ValueError, match="cannot be compared"):
        change(np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), bool))


def test_layout_diversity_is_the_mean_difference_to_the_others():
    layouts = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 51, 255)])
    assert layout_diversity(layouts) == pytest.approx([0.6, 0.5, 0.9])  # distances 0.2, 1.0, 0.8
    assert layout_diversity(layouts[[1, 1]]) == pytest.approx([0, 0])
    one, other = np.random.default_rng(4).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert layout_diversity(np.stack([one, other])) == pytest.approx(
        [np.abs(one - other.astype(float)).mean() / 255] * 2
    )


def test_content_diversity_is_the_mean_cosine_distance_to_the_others():
    embeddings = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
    assert content_diversity(embeddings) == pytest.approx([0.7, 0.3, 0.6])  # distances 0.4, 1.0, 0.2
    assert content_diversity(embeddings[[0, 0]]) == pytest.approx([0, 0])
    assert content_diversity(embeddings[[1, 1]]).tolist() == [0, 0]  # in fp32 it is a little longer than 1


def test_one_image_has_no_diversity():
    with pytest.raises(ValueError, match="at least two"):
        layout_diversity(np.zeros((1, 8, 8, 3), np.uint8))
