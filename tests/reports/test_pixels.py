"""Pixels in the page, against numbers worked out by hand.

pytest tests/reports/test_pixels.py
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reports.images import Thumbnails
from reports.pixels import RAMP, difference, heat, shrink


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def test_difference_is_absolute_and_amplified(tmp_path: Path) -> None:
    one, other = np.full((8, 8, 3), 100), np.full((8, 8, 3), 100)
    other[0, 0] = (106, 97, 100)  # mean change 3
    other[0, 1] = (0, 0, 0)  # mean change 100, clipped at gain 3
    image, pixel_art = difference(save(tmp_path / "a.png", one), save(tmp_path / "b.png", other), 160, 3.0)
    pixels = np.asarray(image)
    assert pixel_art
    assert pixels[0, 0].tolist() == [9, 9, 9] and pixels[0, 1].tolist() == [255, 255, 255]
    assert pixels.sum() == 3 * (9 + 255)


def test_difference_of_other_sizes_is_refused(tmp_path: Path) -> None:
    first = save(tmp_path / "a.png", np.zeros((8, 8, 3)))
    second = save(tmp_path / "b.png", np.zeros((8, 9, 3)))
    with pytest.raises(ValueError, match="differ in size"):
        difference(first, second, 160, 1.0)


def test_router_maps_are_dark_for_the_prior_and_light_for_the_person(tmp_path: Path) -> None:
    grey = np.full((4, 8), 255)  # two tiles of 4 pixels: prior only, personal expert only
    grey[:, 4:] = 0
    image, _ = heat(save(tmp_path / "s.png", grey), columns=2, rows=1)
    pixels = np.asarray(image)
    assert pixels[0, 0].tolist() == RAMP[0].tolist() and pixels[0, 7].tolist() == RAMP[-1].tolist()


@pytest.mark.parametrize(("columns", "rows"), [(3, 1), (2, 3), (4, 1)])
def test_sprite_of_another_shape_is_refused(tmp_path: Path, columns: int, rows: int) -> None:
    with pytest.raises(ValueError, match="square tiles"):
        heat(save(tmp_path / "s.png", np.zeros((4, 8))), columns, rows)


def test_large_sprites_keep_whole_tiles(tmp_path: Path) -> None:
    image, _ = heat(save(tmp_path / "s.png", np.zeros((64, 64 * 50))), columns=50, rows=1)
    assert image.size == (20 * 50, 20)


def test_photographs_shrink_and_pixel_art_does_not(tmp_path: Path) -> None:
    assert shrink(save(tmp_path / "p.png", np.zeros((256, 512, 3))), 160)[0].size == (160, 80)
    image, pixel_art = shrink(save(tmp_path / "m.png", np.zeros((64, 64, 3))), 16)
    assert image.size == (64, 64) and pixel_art


def test_each_picture_is_made_once(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.zeros((64, 64, 3)))
    with Thumbnails(tmp_path) as thumbs:
        first = thumbs.thumb(path, 100)
        assert first.uri.startswith("data:image/webp;base64,") and first.pixelated and first.href == "m.png"
        path.unlink()
        assert thumbs.thumb(path, 100).uri == first.uri
        lost = thumbs.thumb(tmp_path / "lost.png", 100)
        assert (lost.uri, lost.href, lost.problem) == ("", "", "image file missing")


def test_a_page_with_little_room_gets_smaller_thumbnails(tmp_path: Path) -> None:
    save(tmp_path / "p.png", np.zeros((256, 512, 3)))
    with Thumbnails(tmp_path, scale=0.5) as thumbs:
        assert (thumbs.thumb(tmp_path / "p.png", 160).width, thumbs.thumb(tmp_path / "p.png", 320).width) == (80, 160)


def test_pixel_art_keeps_its_pixels_in_256_colours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 200, 64)[:, None, None] + np.array([0, 20, 40])
    many = np.clip(ramp + rng.normal(0, 8, (64, 64, 3)), 0, 255).astype(np.uint8)
    few = rng.integers(0, 256, (200, 3), dtype=np.uint8)[rng.integers(0, 200, (64, 64))]
    for name, pixels, error in (("many", many, 4.0), ("few", few, 0.0)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        with Thumbnails(tmp_path) as thumbs:
            uri = thumbs.thumb(tmp_path / f"{name}.png", 256).uri
        shown = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")
        assert shown.size == (64, 64) and shown.getcolors(256)
        assert np.abs(np.asarray(shown, int) - pixels).mean() <= error
