"""Image files that may be anything, and the square crop of image, labels and boxes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.errors import Rejection
from preprocessing.frame import Box
from preprocessing.images import SquareCrop, decode_image, decode_labels, read_image_file
from tests.preprocessing.folders import bomb, picture


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes, max_pixels: int = 10**6) -> Image.Image:
    return decode_image(data, max_pixels=max_pixels)


def rejected(data: bytes, max_pixels: int = 10**6) -> str:
    with pytest.raises(Rejection) as rejection:
        decode(data, max_pixels)
    return rejection.value.reason


RGB = Image.fromarray(picture((20, 20)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = RGB.convert("L").convert(mode) if mode == "LA" else RGB.convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    result = decode(encoded(image, kind))
    assert (result.mode, result.size) == ("RGB", (20, 20))
    if mode in ("RGBA", "CMYK", "YCbCr"):
        assert np.abs(np.asarray(result).astype(int) - np.asarray(RGB)).mean() < 12


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16).repeat(4, 0))
    assert np.asarray(decode(encoded(grey)))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparent_pixels_become_white_not_what_hides_there() -> None:
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode(encoded(hidden))).tolist() == [[[255] * 3] * 4] * 4


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    turned = decode(encoded(Image.fromarray(picture((30, 20))), exif=exif))
    assert turned.size == (20, 30)
    assert np.array_equal(np.asarray(turned), np.rot90(picture((30, 20)), 3))


def test_what_is_no_image_is_unreadable() -> None:
    assert rejected(b"") == "unreadable"
    assert rejected(b"just text") == "unreadable"
    assert rejected(encoded(RGB)[:60]) == "unreadable"
    assert rejected(encoded(RGB, "JPEG")[:300]) == "unreadable"
    assert rejected(encoded(RGB, "GIF")) == "unreadable"  # a real image of a kind that FORMAT.md does not list


def test_bombs_are_stopped_before_they_are_decoded() -> None:
    assert rejected(bomb(20_000)) == "too_large"  # above Pillow's own limit, too
    assert rejected(bomb(2_000)) == "too_large"  # above ours
    assert rejected(bomb(900)) == "unreadable"  # decoded, and found empty
    assert rejected(encoded(RGB), max_pixels=399) == "too_large"
    assert decode(encoded(RGB), max_pixels=400).size == (20, 20)


def test_the_declarations_limit_counts_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many
    assert decode(encoded(RGB), max_pixels=400).size == (20, 20)
    assert decode_labels(encoded(RGB.convert("L")), (20, 20)).shape == (20, 20)
    assert Image.MAX_IMAGE_PIXELS == 100, "others in this process keep their protection"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_junk_in_exif_data_is_no_orientation(kind: str) -> None:
    assert decode(encoded(RGB, kind, exif=b"Exif\0\0junkjunkjunk")).size == (20, 20)


def test_want_of_memory_is_no_property_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", full)
    for read in (lambda: decode(encoded(RGB)), lambda: decode_labels(encoded(RGB), (20, 20))):
        with pytest.raises(MemoryError):
            read()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("pipe.png", "dangling.png", "missing.png"):
        with pytest.raises(OSError, match="not a regular file"):
            read_image_file(tmp_path / name, max_pixels=100)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 26)
    with pytest.raises(Rejection, match="too_large"):
        read_image_file(tmp_path / "huge.png", max_pixels=100)


def test_label_maps_must_be_8_bit_and_of_the_images_size() -> None:
    labels = Image.fromarray(np.eye(4, dtype=np.uint8) * 3)
    assert decode_labels(encoded(labels), (4, 4)).tolist() == (np.eye(4, dtype=int) * 3).tolist()
    palette = labels.convert("P")
    palette.putpalette([255, 0, 0] * 256)
    assert decode_labels(encoded(palette), (4, 4)).max() == 3  # indices, not colours
    for data, size in [(encoded(labels), (4, 5)), (encoded(labels.convert("RGB")), (4, 4)), (b"text", (4, 4))]:
        with pytest.raises(Rejection, match="bad_annotation"):
            decode_labels(data, size)


def test_the_square_moves_image_labels_and_boxes_together() -> None:
    pixels = picture((60, 40))
    pixels[10:20, 30:50] = (255, 0, 255)
    labels = np.zeros((40, 60), np.uint8)
    labels[10:20, 30:50] = 7
    square = SquareCrop(60, 40, 80)
    assert square.window == (10, 0, 50, 40)
    image, moved = square.image(Image.fromarray(pixels)), square.labels(labels)
    assert image.shape == (80, 80, 3)
    assert sorted(np.unique(moved)) == [0, 7]
    assert square.box(Box(30, 10, 50, 20)) == Box(40, 20, 80, 40)
    assert moved[20:40, 40:80].min() == 7
    assert moved.sum() == 7 * 20 * 40
    assert image[22:38, 44:].mean(axis=(0, 1)).tolist() == pytest.approx([255, 0, 255], abs=4)
    assert square.box(Box(0, 0, 9, 40)) is None


def test_tall_images_keep_their_top_when_asked() -> None:
    assert SquareCrop(40, 100, 32).window == (0, 30, 40, 70)
    assert SquareCrop(40, 100, 32, "top").window == (0, 0, 40, 40)
    assert SquareCrop(100, 40, 32, "top").window == (30, 0, 70, 40)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(SquareCrop(32, 32, 32).image(Image.fromarray(pixels)), pixels)
