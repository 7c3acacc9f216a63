"""Augmentation varies a crop within its bounds and keeps the person recognisable."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from moa.augment import _move, augment_subject
from moa.train_config import SubjectAugmentation

CROP = np.zeros((16, 16, 4), np.uint8)
CROP[4:14, 3:8] = (200, 80, 40, 255)
OFF = {"flip": 0.0, "background": 0.0, "colour": 0.0, "geometry": 0.0, "rotation": 0.0}


def _augmented(seed: int = 0, **options: float) -> np.ndarray:
    config = SubjectAugmentation(**{**OFF, **options})
    return np.array(augment_subject(Image.fromarray(CROP), config, np.random.default_rng(seed)))


def test_without_augmentation_the_crop_is_unchanged() -> None:
    assert np.array_equal(_augmented(), CROP)


def test_flip_mirrors() -> None:
    assert np.array_equal(_augmented(flip=1.0), CROP[:, ::-1])


def test_background_fills_one_random_colour_behind_the_subject() -> None:
    images = [_augmented(seed, background=1.0) for seed in (0, 1)]
    for image in images:
        assert image.shape == (16, 16, 3)
        assert np.array_equal(image[4:14, 3:8], CROP[4:14, 3:8, :3])
        assert len(np.unique(image[CROP[..., 3] == 0], axis=0)) == 1
    assert not np.array_equal(images[0][0, 0], images[1][0, 0])


def test_colour_jitter_keeps_the_colour_recognisable_and_the_outline() -> None:
    changed = [_augmented(seed, colour=0.1) for seed in range(20)]
    inside = np.array([image[6, 5, :3] for image in changed], int)
    assert len(np.unique(inside, axis=0)) > 10
    assert np.abs(inside - [200, 80, 40]).max() < 0.25 * 255
    assert all((colour.argmax(), colour.argmin()) == (0, 2) for colour in inside)  # still an orange red
    assert all(np.array_equal(image[..., 3], CROP[..., 3]) for image in changed)


@pytest.mark.parametrize("option", [{"geometry": 0.2}, {"rotation": 30.0}])
def test_geometry_moves_the_subject_within_bounds(option: dict[str, float]) -> None:
    alphas = np.array([_augmented(seed, **option)[..., 3] for seed in range(20)], float)
    assert len(np.unique(alphas, axis=0)) == 20
    area = alphas.sum((1, 2)) / 255 / 50
    assert (area > 0.5).all() and (area < 1.6).all()
    colours = np.array([_augmented(seed, **option) for seed in range(20)])
    assert np.abs(colours[colours[..., 3] > 128][:, :3].astype(int) - [200, 80, 40]).max() <= 3  # no dark fringe


@pytest.mark.parametrize(
    ("move", "expected"),
    [
        ({"shift": (0.25, 0.0)}, np.roll(CROP, 4, axis=1)),
        ({"shift": (0.0, -0.125)}, np.roll(CROP, -2, axis=0)),
        ({"degrees": 90.0}, np.rot90(CROP, -1)),  # clockwise
        ({"degrees": -90.0, "shift": (0.0, 0.125)}, np.roll(np.rot90(CROP), 2, axis=0)),
        ({"degrees": 180.0}, CROP[::-1, ::-1]),
    ],
    ids=str,
)
def test_a_move_turns_about_the_centre_and_then_shifts(move: dict[str, object], expected: np.ndarray) -> None:
    moved = _move(Image.fromarray(CROP), **{"shift": (0.0, 0.0), "zoom": 1.0, "degrees": 0.0, **move})
    assert np.array_equal(np.array(moved)[..., 3] > 128, expected[..., 3] > 128)


def test_a_zoom_is_about_the_centre() -> None:
    square = np.zeros((16, 16, 4), np.uint8)
    square[4:12, 4:12] = 255
    for zoom, span in ((2.0, slice(0, 16)), (0.5, slice(6, 10))):
        expected = np.zeros((16, 16), bool)
        expected[span, span] = True
        moved = _move(Image.fromarray(square), (0.0, 0.0), zoom, 0.0)
        assert np.array_equal(np.array(moved)[..., 3] > 128, expected)


def test_the_two_directions_of_a_shift_are_drawn_apart() -> None:
    centres = [np.argwhere(_augmented(seed, geometry=0.2)[..., 3] > 128).mean(axis=0) for seed in range(20)]
    assert abs(np.corrcoef(np.transpose(centres))[0, 1]) < 0.8


def test_an_augmented_subject_is_always_visible() -> None:
    sliver = np.zeros((16, 16, 4), np.uint8)
    sliver[:, 0] = 255
    config = SubjectAugmentation(geometry=0.5, rotation=45, background=0)
    for seed in range(50):
        image = augment_subject(Image.fromarray(sliver), config, np.random.default_rng(seed))
        assert image.getchannel("A").getbbox()
