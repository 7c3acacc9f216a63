"""What the image encoder sees of a subject, and which subjects are refused.    pytest tests/moa/test_subjects.py"""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from moa.errors import SubjectError
from moa.subjects import Subject, check_features, encoder_pixels, image_features, processor_folder, upright
from tests.tiny_models import IMAGE_DIM, IMAGE_SIZE, tiny_image_encoder, tiny_image_processor

PROCESSOR = tiny_image_processor()
RED, CLEAR = (255, 0, 0, 255), (9, 200, 9, 0)


def normalised(colour: tuple[int, ...]) -> torch.Tensor:
    values = [(c / 255 - m) / s for c, m, s in zip(colour, PROCESSOR.image_mean, PROCESSOR.image_std, strict=False)]
    return torch.tensor(values).view(3, 1, 1)


def test_transparent_parts_and_padding_are_neutral_and_nothing_is_cropped():
    image = Image.new("RGBA", (IMAGE_SIZE, IMAGE_SIZE // 2), CLEAR)
    image.paste(RED, (0, 0, 4, IMAGE_SIZE // 2))  # touches the left edge
    (pixels,) = encoder_pixels([image], PROCESSOR)
    assert pixels.shape == (3, IMAGE_SIZE, IMAGE_SIZE)
    quarter = IMAGE_SIZE // 4
    torch.testing.assert_close(pixels[:, quarter:-quarter, :4], normalised(RED).expand(3, IMAGE_SIZE // 2, 4))
    neutral = pixels.clone()
    neutral[:, quarter:-quarter, :4] = 0
    assert neutral.abs().max() < 0.5 / 255 / 0.25


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "CMYK", "1"])
def test_any_mode_and_size_becomes_encoder_input(mode):
    image = Image.fromarray(
        np.random.default_rng(torch.initial_seed()).integers(0, 255, (50, 20, 3), dtype=np.uint8)
    ).convert(mode)
    pixels = encoder_pixels([image, Image.new("RGB", (300, 200), "blue")], PROCESSOR)
    assert pixels.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE) and torch.isfinite(pixels).all()


def test_a_photograph_is_turned_upright():
    upright = Image.fromarray(np.random.default_rng(torch.initial_seed()).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    turned = upright.rotate(90)
    turned.getexif()[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    assert torch.equal(encoder_pixels([turned], PROCESSOR), encoder_pixels([upright], PROCESSOR))


def test_junk_in_exif_data_costs_them_alone():
    data = io.BytesIO()
    Image.new("RGB", (20, 30), "teal").save(data, "JPEG", exif=b"Exif\0\0junkjunkjunk")
    plain = upright(Image.open(data))
    assert plain.size == (20, 30) and not plain.getexif()
    assert torch.isfinite(encoder_pixels([Image.open(data)], PROCESSOR)).all()


def test_the_padding_is_the_same_on_both_sides():
    """In a wide image above and below, in a tall one left and right."""
    for size in ((48, 16), (16, 48)):
        pixels = encoder_pixels([Image.new("RGB", size, "white")], PROCESSOR)
        assert torch.allclose(pixels, pixels.flip(-1, -2), atol=1e-4)
        assert pixels[..., IMAGE_SIZE // 2, IMAGE_SIZE // 2].min() > 1, "and the image in the middle"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (0, 5)), "empty"),
        (Image.new("RGBA", (8, 8), CLEAR), "transparent"),
        ("photo.png", "str"),
        (Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "mode I;16: convert it to 8-bit"),
        (Image.new("F", (8, 8)), "mode F"),
        (Image.new("LAB", (8, 8)), "mode LAB"),
    ],
    ids=["no pixels", "nothing visible", "a path", "16-bit grey", "float", "LAB"],
)
def test_images_without_a_subject_are_refused(image, message):
    with pytest.raises(SubjectError, match=f"image 1 .*{message}"):
        encoder_pixels([Image.new("RGB", (8, 8)), image], PROCESSOR)


def test_a_file_that_breaks_off_is_refused():
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(data, "PNG")
    image = Image.open(io.BytesIO(data.getvalue()[:-40]))
    with pytest.raises(SubjectError, match="image 0 .*cannot be decoded"):
        encoder_pixels([image], PROCESSOR)


def test_a_file_that_was_closed_before_it_was_read_is_refused(tmp_path):
    """As behind the usual `with Image.open(...) as image`."""
    Image.new("RGB", (8, 8)).save(tmp_path / "me.png")
    with Image.open(tmp_path / "me.png") as image:
        pass
    with pytest.raises(SubjectError, match="image 0 .*its file is closed.*load"):
        encoder_pixels([image], PROCESSOR)
    image = Image.open(tmp_path / "me.png")
    image.close()
    with pytest.raises(SubjectError, match="image 0 .*closed image.*load"):
        encoder_pixels([image], PROCESSOR)


def test_a_decoder_may_fail_as_it_likes(tmp_path):
    """Pillow raises a ValueError for a DDS file that breaks off, and for transparency that a palette cannot have."""
    data = io.BytesIO()
    Image.new("RGBA", (16, 16)).save(data, "DDS")
    transparent = Image.new("RGB", (8, 8))
    transparent.info["transparency"] = (1, 2, 3)
    for image in (Image.open(io.BytesIO(data.getvalue()[:-40])), transparent.quantize(4)):
        with pytest.raises(SubjectError, match="image 0 .*cannot be decoded"):
            encoder_pixels([image], PROCESSOR)


@torch.no_grad()
def test_features_are_the_projected_embeddings_of_the_encoder():
    encoder = tiny_image_encoder()
    pixels = torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE)
    features = image_features(encoder, pixels)
    assert features.shape == (3, IMAGE_DIM)
    pooled = encoder.vision_model(pixels).pooler_output
    torch.testing.assert_close(features, pooled @ encoder.visual_projection.weight.T)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(IMAGE_DIM + 1), "shape"),
        (torch.zeros(2, IMAGE_DIM), "shape"),
        (torch.full((IMAGE_DIM,), float("nan")), "NaN"),
        (torch.full((IMAGE_DIM,), float("inf")), "infinity"),
        (torch.full((IMAGE_DIM,), 1e300, dtype=torch.float64), "infinity"),
        (torch.zeros(IMAGE_DIM, device="meta"), "no tensor"),
        ("me.jpg", "no tensor"),
    ],
)
def test_bad_features_are_refused_by_name(features, message):
    with pytest.raises(SubjectError, match=f"'man'.*{message}"):
        check_features(features, IMAGE_DIM, "man")


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.float8_e4m3fn, torch.int64], ids=str)
def test_good_features_are_flattened_and_of_one_precision(kind):
    features = torch.arange(IMAGE_DIM)[None].to(kind)
    torch.testing.assert_close(check_features(features, IMAGE_DIM, "man"), features[0].float(), rtol=0, atol=0)


def test_a_subject_has_an_image_or_features():
    for fields in ({}, {"image": Image.new("RGB", (1, 1)), "features": torch.zeros(2)}):
        with pytest.raises(SubjectError, match="'man'"):
            Subject("man", **fields)
    with pytest.raises(SubjectError, match=r"word of a subject is a Image: give Subject\(word, image\)"):
        Subject(Image.new("RGB", (1, 1)), "man")


@pytest.mark.parametrize("position", ["2", 2.0, True, [2], torch.tensor(2.0), torch.tensor([2, 3])])
def test_a_position_is_a_whole_number(position):
    with pytest.raises(SubjectError, match=r"position of subject 'man' is .*give the index of its token"):
        Subject("man", features=torch.zeros(2), position=position)


@pytest.mark.parametrize("position", [None, 2, np.int64(2), torch.tensor(2)])
def test_any_whole_number_is_a_position(position):
    assert Subject("man", features=torch.zeros(2), position=position).position == position


def test_the_image_processor_is_the_encoders_own_or_the_one_beside_it(tmp_path):
    encoder, beside = tmp_path / "image_encoder", tmp_path / "feature_extractor"
    encoder.mkdir()
    assert processor_folder(encoder) == encoder
    beside.mkdir()
    assert processor_folder(encoder) == beside
    (encoder / "preprocessor_config.json").touch()
    assert processor_folder(encoder) == encoder
