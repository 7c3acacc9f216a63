"""Photographs with colour profiles: the colours they mean, in both rooms that read photographs.

pytest tests/test_colours.py
"""

from __future__ import annotations

import inspect
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import moa.colours
import preprocessing.colours
from moa.colours import in_srgb
from moa.subjects import encoder_pixels, upright
from preprocessing.images import decode_image
from tests.colour_profiles import profile, stored_as
from tests.tiny_models import tiny_image_processor

SKIN_LIPS_SHIRT = ((232, 190, 172), (141, 85, 54), (200, 60, 70), (190, 40, 50))
WIDE = ["Display P3", "Adobe RGB"]


def colours() -> Image.Image:
    """Squares of colours that sRGB and the wider spaces have."""
    return Image.fromarray(np.array(SKIN_LIPS_SHIRT, np.uint8).reshape(2, 2, 3).repeat(16, 0).repeat(16, 1))


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """Its bytes as a file, with its profile."""
    data = io.BytesIO()
    image.save(data, kind, icc_profile=image.info.get("icc_profile"), **options)
    return data.getvalue()


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(np.asarray(a.convert("RGB"), int) - np.asarray(b.convert("RGB"))).max())


def test_both_rooms_have_the_same_text():
    assert inspect.getsource(moa.colours) == inspect.getsource(preprocessing.colours)


@pytest.mark.parametrize("name", WIDE)
def test_a_photograph_gets_the_colours_that_its_profile_means(name):
    photograph = stored_as(colours(), name)
    assert difference(photograph, colours()) > 12, "or nobody would see what this test is about"
    found = in_srgb(photograph)
    assert difference(found, colours()) <= 2
    assert found.mode == "RGB" and "icc_profile" not in found.info
    assert "icc_profile" in photograph.info, "what was given stays as it is"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_it_does_in_data_and_in_a_pipeline(kind):
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}[kind]
    data = file_of(stored_as(colours(), "Display P3"), kind, **options)
    assert difference(decode_image(data, max_pixels=10_000), colours()) <= 4
    plain = upright(Image.open(io.BytesIO(data)))
    assert difference(plain, colours()) <= 4 and not plain.info
    processor = tiny_image_processor()
    seen = encoder_pixels([Image.open(io.BytesIO(data))], processor)
    torch.testing.assert_close(seen, encoder_pixels([colours()], processor), rtol=0, atol=0.08)
    raw = Image.open(io.BytesIO(data))
    del raw.info["icc_profile"]
    assert (seen - encoder_pixels([raw], processor)).abs().max() > 0.15


def test_a_photograph_is_turned_too():
    photograph = stored_as(colours().resize((40, 32)).crop((0, 0, 36, 32)), "Display P3")
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    data = file_of(photograph, exif=exif)
    expected = in_srgb(photograph).transpose(Image.Transpose.ROTATE_270)
    assert difference(decode_image(data, max_pixels=10_000), expected) == 0
    assert difference(upright(Image.open(io.BytesIO(data))), expected) == 0


@pytest.mark.parametrize("mode", ["RGBA", "P", "transparent colour", "transparent entry"])
def test_what_is_transparent_stays_so(mode):
    photograph = stored_as(colours(), "Display P3")
    if mode == "RGBA":
        photograph.putalpha(Image.linear_gradient("L").resize((32, 32)))
    elif mode == "transparent colour":
        photograph.info["transparency"] = photograph.getpixel((0, 0))
    else:
        photograph = photograph.quantize(4)
        photograph.info = {"icc_profile": profile("Display P3")}
        photograph.info |= {"transparency": 0} if mode == "transparent entry" else {}
    photograph = Image.open(io.BytesIO(file_of(photograph)))
    alpha = np.asarray(photograph.convert("RGBA"))[..., 3]
    found = in_srgb(photograph)
    assert found.mode == ("RGB" if mode == "P" else "RGBA")
    assert np.array_equal(np.asarray(found.convert("RGBA"))[..., 3], alpha)
    assert difference(found, colours()) <= 4


@pytest.mark.parametrize(
    "icc", [None, profile("sRGB"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_a_photograph_of_srgb_stays_bit_for_bit(icc):
    noise = np.random.default_rng(torch.initial_seed()).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise)
    if icc:
        photograph.info["icc_profile"] = icc
    assert in_srgb(photograph) is photograph
    assert np.array_equal(np.asarray(decode_image(file_of(photograph), max_pixels=10_000)), noise)
    assert np.array_equal(np.asarray(upright(photograph)), noise)


def lab() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


@pytest.mark.parametrize(
    ("mode", "icc"),
    [
        ("RGB", b"junk"),
        ("RGB", b""),
        ("RGB", profile("Display P3")[:300]),
        ("RGB", profile("Display P3")[:36] + bytes(4) + profile("Display P3")[40:]),
        ("RGB", lab()),
        ("RGB", "a name"),
        ("L", profile("Display P3")),
        ("CMYK", profile("Display P3")),
        ("CMYK", b"junk"),
    ],
    ids=["junk", "empty", "cut", "no signature", "of Lab", "text", "RGB for grey", "RGB for CMYK", "junk for CMYK"],
)
def test_a_profile_that_cannot_be_used_is_passed_over(mode, icc):
    photograph = colours().convert(mode)
    plain = np.asarray(upright(photograph))
    photograph.info["icc_profile"] = icc
    assert in_srgb(photograph) is photograph
    assert np.array_equal(np.asarray(upright(photograph)), plain)
    if isinstance(icc, bytes):
        data = file_of(photograph, "JPEG", quality=100, subsampling=0)
        assert difference(decode_image(data, max_pixels=10_000), Image.fromarray(plain)) <= 5
