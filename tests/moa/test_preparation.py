"""Photographs become the cut-outs that training has.    pytest tests/moa/test_preparation.py"""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from moa.errors import PersonNotFoundError, PreparerWeightsError
from moa.preparation import (
    CROP_SIZE,
    PortraitPreparer,
    SegmentationPreparer,
    cut_out,
    framed,
    head_and_shoulders,
    is_photograph,
    prepared,
)
from preprocessing.frame import Box
from preprocessing.segmentation import silhouette
from preprocessing.subjects import subject_crop
from preprocessing.world import World
from tests.moa.photographs import DATA, needs_photographs


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(torch.initial_seed()).integers(0, 255, (height, width, 3), dtype=np.uint8)


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = np.random.default_rng(0).random((y1 - y0, x1 - x0)) < 0.7
    mask[y0, x0] = mask[y1 - 1, x1 - 1] = True
    return mask


@pytest.mark.parametrize("box", [(5, 3, 40, 90), (0, 0, 100, 96), (60, 90, 63, 92)], ids=["tall", "all", "tiny"])
def test_a_cut_out_is_the_crop_of_the_training_data(box):
    """The two rooms must not import each other; here they meet."""
    image, mask = noise(96, 100), blob(96, 100, box)
    expected = subject_crop(image, mask, size=CROP_SIZE, margin=0.1)
    assert np.array_equal(np.asarray(cut_out(image, mask)), np.asarray(expected))


@pytest.mark.parametrize("face", [(30.0, 20.0, 60.0, 58.5), (-4.0, 70.0, 30.0, 96.0)])
def test_head_and_shoulders_are_those_of_the_training_data(face):
    assert np.array_equal(head_and_shoulders(face, (96, 96)), silhouette(Box(*face), 96))
    wide = head_and_shoulders(face, (96, 200))
    assert wide.shape == (96, 200) and np.array_equal(wide[:, :96], silhouette(Box(*face), 96))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (4, 4)), True),
        (Image.new("CMYK", (4, 4)), True),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), True),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 254)), True),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 127)), False),
        (Image.new("LA", (4, 4), (1, 0)), False),
    ],
    ids=["RGB", "CMYK", "opaque RGBA", "soft RGBA", "RGBA", "LA"],
)
def test_an_image_with_nothing_transparent_is_a_photograph(image, expected):
    assert is_photograph(image) is expected


@pytest.mark.parametrize("clear, expected", [(0, True), (4, True), (5, False), (60, False)])
def test_a_photograph_may_have_a_few_transparent_pixels(clear, expected):
    """Round corners of a screenshot, the edge of an image that was turned by a degree."""
    alpha = np.full((10, 10), 255, np.uint8)
    alpha.flat[:clear] = 0
    image = Image.fromarray(np.dstack([noise(10, 10), alpha]))
    assert is_photograph(image) is expected

    class Preparer:
        def prepare(self, photograph, name):
            return (photograph, name)

    found = prepared(image, Preparer(), "me")
    assert (found == (image, "me")) is expected and (expected or found.size == (CROP_SIZE, CROP_SIZE))


def test_a_palette_with_a_transparent_entry_is_a_cut_out():
    image = Image.new("P", (4, 4))
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert is_photograph(image)
    image.info["transparency"] = 0
    assert not is_photograph(image)


def on_a_canvas(image: np.ndarray, mask: np.ndarray, scale: int = 1) -> Image.Image:
    """What a matting program makes of a photograph: its frame, or a larger one, transparent but for the person."""
    height, width = mask.shape
    canvas = Image.new("RGBA", (scale * width, scale * height))
    canvas.paste(
        Image.fromarray(np.dstack([image, np.uint8(255) * mask])), (width * (scale - 1), height // 3 * (scale - 1))
    )
    return canvas


def bust() -> np.ndarray:
    """A mask bool [96, 100] with smooth edges."""
    return head_and_shoulders((35.0, 20.0, 55.0, 44.0), (96, 100))


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("box", [(5, 3, 40, 90), (0, 0, 100, 96), (40, 30, 60, 45)], ids=["tall", "all", "small"])
def test_a_cut_out_of_another_program_becomes_the_crop_of_the_training_data(box, scale):
    image, mask = noise(96, 100), blob(96, 100, box)
    found = framed(on_a_canvas(image, mask, scale))
    assert np.array_equal(np.asarray(found), np.asarray(subject_crop(image, mask, size=CROP_SIZE, margin=0.1)))
    assert framed(found) is found


@pytest.mark.parametrize("framing", ["photos", "scenes"])
def test_crops_of_the_training_data_stay_as_they_are(framing):
    """Resized to whole pixels, with ringing edges, and through both kinds of WebP, as in shards."""
    world, crops = World(torch.initial_seed() % 1000, framing={"heldout": framing}), 0
    for number in range(16):
        scene = world.scene(number, "heldout")
        for mask in (np.asarray(scene.mask) == label for label in range(1, len(scene.people) + 1)):
            for size, lossless in ((64, True), (224, False)) if mask.any() else ():
                data = io.BytesIO()
                crop = subject_crop(np.asarray(scene.image), mask, size=size, margin=0.1)
                crop.save(data, "WEBP", lossless=lossless, exact=True, quality=90)
                stored = Image.open(data).convert("RGBA")
                assert framed(stored) is stored, (number, size)
                crops += 1
    assert crops >= 30


@pytest.mark.parametrize(
    "change",
    [lambda crop: crop.crop((0, 0, 224, 200)), lambda crop: crop.crop((20, 20, 204, 204)),
     lambda crop: crop.crop((-30, -30, 254, 254)), lambda crop: crop.crop((-20, 0, 204, 224))],
    ids=["not square", "without margin", "with a wide margin", "out of the middle"],
)  # fmt: skip
def test_a_crop_that_is_framed_otherwise_is_framed_anew(change):
    crop = subject_crop(noise(96, 100), bust(), size=CROP_SIZE, margin=0.1)
    again = framed(change(crop))
    assert again is not crop and again.size == (CROP_SIZE, CROP_SIZE)
    assert framed(again) is again
    assert np.abs(np.asarray(again, int) - np.asarray(crop))[..., 3].mean() < 8, "the same person at the same place"


def test_soft_edges_stay_soft_and_haze_is_not_what_is_there():
    image = np.full((90, 90, 4), (200, 90, 40, 4), np.uint8)  # a breath of the background everywhere
    image[30:60, 30:60, 3] = 120
    image[35:55, 35:55, 3] = 255
    found = np.asarray(framed(Image.fromarray(image)))
    start, inner = round(CROP_SIZE * 3 / 36), round(CROP_SIZE * 8 / 36)  # 30 pixels and 3 of margin on each side
    assert np.abs(found[start + 8 : inner - 8, CROP_SIZE // 2, 3].astype(int) - 120).max() <= 8
    assert (found[inner + 20 : -inner - 20, CROP_SIZE // 2] == (200, 90, 40, 255)).all()
    faint = image.copy()
    faint[..., 3] //= 12  # 10 and 21 at most: who is faint all over is there all the same
    assert np.asarray(framed(Image.fromarray(faint)))[CROP_SIZE // 2, start + 12, 3] == pytest.approx(10, abs=2)


def test_a_cut_out_is_turned_upright_first():
    upright = on_a_canvas(noise(60, 80), blob(60, 80, (10, 5, 30, 50)))
    turned = upright.rotate(90, expand=True)
    turned.getexif()[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    assert np.array_equal(np.asarray(framed(turned)), np.asarray(framed(upright)))


def test_a_large_cut_out_is_reduced_first():
    image, mask = noise(96, 100), bust()
    large = on_a_canvas(image, mask).resize((3000, 2880), Image.Resampling.NEAREST)
    difference = np.abs(np.asarray(framed(large), int) - np.asarray(cut_out(image, mask)))
    assert difference[..., 3].mean() < 8


def test_a_cut_out_of_nothing_is_left_to_who_refuses_it():
    nothing = Image.new("RGBA", (8, 9), (9, 200, 9, 0))
    assert framed(nothing) is nothing


class GivenFaces(PortraitPreparer):
    """Knows where the faces are, and what it was shown."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        super().__init__()
        self.boxes, self.shown = list(boxes), []

    def _faces(self, image):
        self.shown.append(image)
        return self.boxes


def test_the_largest_face_is_the_subject():
    image, small, large = noise(96, 96), (8.0, 8.0, 18.0, 20.0), (50.0, 10.0, 80.0, 50.0)
    found = GivenFaces(small, large).prepare(Image.fromarray(image), "subject 'man'")
    assert np.array_equal(np.asarray(found), np.asarray(cut_out(image, head_and_shoulders(large, (96, 96)))))


def test_a_photograph_is_turned_upright_and_reduced():
    turned = Image.fromarray(noise(600, 2100))
    turned.getexif()[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    preparer = GivenFaces((100.0, 100.0, 150.0, 160.0))
    assert preparer.prepare(turned, "x").size == (CROP_SIZE, CROP_SIZE)
    assert preparer.shown[0].shape == (1024, 293, 3)
    expected = np.asarray(Image.fromarray(np.rot90(np.asarray(turned), 3)).resize((293, 1024), Image.Resampling.BOX))
    assert np.abs(preparer.shown[0].astype(int) - expected).mean() < 20


@pytest.mark.parametrize("size", [(64, 64), (12, 300), (1, 1)], ids=str)
def test_a_photograph_without_a_face_is_an_error_that_says_what_to_do(size):
    with pytest.raises(PersonNotFoundError, match=r"no face .* subject 'dog' .*prepare=False"):
        PortraitPreparer().prepare(Image.new("RGB", size, "teal"), "subject 'dog'")


@needs_photographs
def test_real_photographs_give_their_people():
    """Each cut-out holds the face at its place: about a third of its height, above the middle, and no corner."""
    preparer = PortraitPreparer()
    two_people = "celeba-15/002937/000000002.jpg"
    for name in ("celeba-15/000001/000000023.jpg", two_people, "portraits/einstein.jpeg"):
        found = preparer.prepare(Image.open(DATA / name), name)
        alpha = np.asarray(found)[..., 3]
        assert found.mode == "RGBA" and found.size == (CROP_SIZE, CROP_SIZE)
        assert 0.25 < (alpha > 0).mean() < 0.75, name
        assert not alpha[[0, 0, -1, -1], [0, -1, 0, -1]].any(), name
        (x0, y0, x1, y1), *others = preparer._faces(np.asarray(found.convert("RGB")))
        assert not others and 0.2 < (y1 - y0) / CROP_SIZE < 0.6 and (y0 + y1) / 2 < 0.6 * CROP_SIZE, name
        assert abs((x0 + x1) / 2 - CROP_SIZE / 2) < 0.2 * CROP_SIZE, name
        assert framed(found) is found, name


def test_of_the_segments_the_largest_person_is_taken(mask2former, monkeypatch):
    preparer, image = SegmentationPreparer(mask2former), noise(50, 70)
    segments = torch.zeros(50, 70, dtype=torch.int)
    segments[:, :30], segments[10:40, 30:50], segments[5:12, 60:66] = 1, 2, 3  # the sky is larger than both people
    infos = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 1}, {"id": 3, "label_id": 1}]
    found = [{"segmentation": segments, "segments_info": infos}]
    monkeypatch.setattr(preparer._processor, "post_process_panoptic_segmentation", lambda *_, **__: found)
    cut = preparer.prepare(Image.fromarray(image), "x")
    assert np.array_equal(np.asarray(cut), np.asarray(cut_out(image, segments.numpy() == 2)))


def test_a_photograph_without_a_person_is_an_error_that_says_what_to_do(mask2former):
    with pytest.raises(PersonNotFoundError, match=r"no person .* subject 'man' .*prepare=False"):
        SegmentationPreparer(mask2former, threshold=1.0).prepare(Image.fromarray(noise(50, 70)), "subject 'man'")


def test_a_folder_that_is_no_mask2former_is_refused(tmp_path):
    with pytest.raises(PreparerWeightsError, match=r"hf download .*Mask2|hf download facebook"):
        SegmentationPreparer(tmp_path / "nothing")


def test_weights_that_were_cut_are_refused(mask2former, tmp_path):
    folder = shutil.copytree(mask2former, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(PreparerWeightsError, match="cannot be loaded as a Mask2Former"):
        SegmentationPreparer(folder)
