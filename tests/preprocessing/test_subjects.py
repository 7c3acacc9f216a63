"""Subject crops and label maps."""

from __future__ import annotations

import numpy as np

from preprocessing.subjects import label_map, mask_box, subject_crop
from tests.preprocessing.folders import picture


def box_mask(x0: int, y0: int, x1: int, y1: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_labels_put_subjects_over_others_and_large_over_small() -> None:
    small, large, other = box_mask(0, 0, 10, 10), box_mask(5, 0, 40, 20), box_mask(0, 5, 40, 40)
    labels = label_map([small, large], [other], 40)
    assert labels[2, 2] == 1
    assert labels[2, 7] == 2
    assert labels[7, 2] == 1
    assert labels[30, 30] == 255
    assert labels[2, 39] == 2
    labels = label_map([large, small], [other], 40)  # whichever comes first
    assert (labels[2, 2], labels[2, 7], labels[7, 2], labels[30, 30]) == (2, 1, 2, 255)


def test_the_box_ends_exclusively() -> None:
    assert mask_box(box_mask(3, 4, 9, 20)) == [3, 4, 9, 20]


def test_a_crop_is_centred_square_and_black_where_transparent() -> None:
    image = picture((40, 40)) // 2 + 100
    crop = np.asarray(subject_crop(image, box_mask(10, 5, 20, 25), size=24, margin=0.1))
    assert crop.shape == (24, 24, 4)
    assert np.all(crop[..., :3][crop[..., 3] == 0] == 0)
    solid = crop[..., 3] == 255
    assert mask_box(solid) == [7, 2, 17, 22]  # a 24 pixel square at scale 1: the box in its middle
    assert np.array_equal(crop[2:22, 7:17, :3], image[5:25, 10:20])


def test_a_crop_may_reach_beyond_the_image() -> None:
    image = picture((40, 40)) // 2 + 100
    crop = np.asarray(subject_crop(image, box_mask(0, 0, 10, 40), size=48, margin=0.1))
    assert mask_box(crop[..., 3] == 255) == [19, 4, 29, 44]


def test_edges_do_not_darken_when_a_crop_is_resized() -> None:
    white = np.full((40, 40, 3), 255, np.uint8)
    crop = np.asarray(subject_crop(white, box_mask(8, 8, 31, 31), size=17, margin=0.2))
    assert crop[..., :3][crop[..., 3] > 16].min() > 245


def test_the_margin_changes_the_crop() -> None:
    image, mask = picture((40, 40)), box_mask(10, 10, 20, 20)
    tight, wide = (np.asarray(subject_crop(image, mask, size=30, margin=m))[..., 3] for m in (0.0, 0.5))
    assert (tight == 255).mean() == 1
    assert 0.2 < (wide > 127).mean() < 0.3
