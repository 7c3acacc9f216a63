"""Real photographs with real faces: MTCNN, and datasets/photos.yaml from files to shards."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preprocessing.config import MtcnnFaces, load_dataset
from preprocessing.faces import load_face_finder
from preprocessing.frame import Annotation, Box, Face, Frame, Item
from preprocessing.run import preprocess
from preprocessing.verify import verify
from tests.preprocessing.folders import metadata_of, picture, rejected_of, samples_of

PROJECT = Path(__file__).resolve().parents[2]
PHOTOS = PROJECT.parent / "shared" / "data"
needs_photos = pytest.mark.skipif(
    not PHOTOS.is_dir(), reason=f"real photographs (CelebA is not redistributable) are looked for in {PHOTOS}"
)


def frame(image: np.ndarray) -> Frame:
    item = Item(number=0, name="x.png", split="train", sha256=None, licence="", author="")
    return Frame(item=item, sha256="", image=image, labels=None, annotation=Annotation())


def test_an_image_without_a_face_has_none() -> None:
    finder = load_face_finder(MtcnnFaces(kind="mtcnn"), "cpu")
    assert finder.find([frame(picture((64, 64))), frame(np.zeros((64, 64, 3), np.uint8))]) == [[], []]


def test_boxes_are_clipped_filtered_and_largest_first() -> None:
    finder = load_face_finder(MtcnnFaces(kind="mtcnn", min_probability=0.8), "cpu")
    boxes = np.array([[1, 1, 9, 9], [-3, 5.5, 70, 80], [2, 2, 60, 60], [70, 70, 80, 80]], dtype=object)
    faces = finder._faces(boxes, np.array([0.9, 0.99, 0.7, 0.9], dtype=object), 64)
    assert faces == [Face(Box(0, 5.5, 64, 64), 0.99), Face(Box(1, 1, 9, 9), 0.9)]


@needs_photos
def test_all_fifteen_celeba_faces_and_both_portraits_become_samples(tmp_path: Path) -> None:
    config = load_dataset(PROJECT / "datasets/photos.yaml")
    preprocess(config, tmp_path, source_root=PHOTOS, workers=1)
    assert rejected_of(tmp_path) == {}
    assert verify(tmp_path)["subjects"] == 17
    for name, metadata in metadata_of(tmp_path).items():
        [subject] = metadata["subjects"]
        x0, y0, x1, y1 = subject["face"]["box"]
        assert subject["face"]["probability"] > 0.95, name
        assert y1 - y0 > 40, name
        assert 0.1 < subject["area"] < 0.95, name
        assert (metadata["caption"], subject["start"], subject["end"]) == ("a photo of a person", 13, 19)
    two_people = [k for k, m in samples_of(tmp_path).items() if 255 in np.unique(_mask(m))]
    assert len(two_people) == 1  # 002937: the face behind is nobody's subject
    x0, y0, x1, y1 = metadata_of(tmp_path)["celeba-15/002937/000000002.jpg"]["subjects"][0]["face"]["box"]
    assert (y1 - y0) > 80  # the larger of its two faces


@needs_photos
def test_a_higher_bar_for_faces_drops_images(tmp_path: Path) -> None:
    config = load_dataset(PROJECT / "datasets/photos.yaml")
    strict = config.model_copy(update={"faces": MtcnnFaces(kind="mtcnn", min_face=320)})
    preprocess(strict, tmp_path, source_root=PHOTOS, workers=1)
    assert set(rejected_of(tmp_path).values()) == {"no_face"}


def _mask(members: dict[str, bytes]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(members["mask.png"])))
