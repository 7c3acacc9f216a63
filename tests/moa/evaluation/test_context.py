"""What counts as the scene: against the prior all that the prior shows beside its person, between two subjects all that
neither covers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moa.evaluation.context import Scene, SceneComparer
from moa.evaluation.faces import Face
from moa.evaluation.journal import Journal
from moa.evaluation.measure import Measurement
from moa.evaluation.metrics import PersonBox

PERSON = PersonBox(head=0.5, side=0.5, above=0.0, below=0.0)  # the face alone
SMALL, LARGE = (0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 8.0, 8.0)  # 16 and 64 of 256 pixels


def picture(folder: Path, name: str, white: tuple[float, ...] | None) -> None:
    """Black, 16x16, with a white person in the box."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    if white:
        x0, y0, x1, y1 = map(int, white)
        pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).save(folder / name)


def seen(name: str, *boxes: tuple[float, float, float, float]) -> Measurement:
    nothing = np.zeros(1, np.float32)
    faces = tuple(Face(box, 0.9) for box in boxes)
    layout = np.zeros((8, 8, 3), np.uint8)
    return Measurement(name, 16, 16, faces, (nothing,) * len(faces), nothing, layout, None, None)


@pytest.fixture
def compare(tmp_path):
    for name, white in (("prior", None), ("grown", LARGE), ("kept", SMALL)):
        picture(tmp_path, f"{name}.png", white)

    def columns(images: tuple[str, ...], prior: str | None, faces: dict[str, tuple], person: PersonBox = PERSON):
        with Journal(tmp_path / "journal.jsonl") as journal:
            known = {name: seen(name, *boxes) for name, boxes in faces.items()}
            return SceneComparer(tmp_path, person, journal).columns(Scene("swap_change", images, prior), known)

    return columns


def test_a_person_who_outgrows_the_priors_changes_the_scene(compare):
    faces = {"prior.png": (SMALL,), "grown.png": (LARGE,), "kept.png": (SMALL,)}
    columns = compare(("grown.png", "kept.png"), "prior.png", faces)
    grown, kept = columns["grown.png"], columns["kept.png"]
    assert (grown["context_change_inside"], grown["context_change_outside"]) == pytest.approx((1.0, 48 / 240))
    assert (kept["context_change_inside"], kept["context_change_outside"]) == (1.0, 0.0)


def test_a_prior_without_a_face_leaves_the_images_own(compare):
    columns = compare(("grown.png",), "prior.png", {"prior.png": (), "grown.png": (LARGE,)})
    assert columns["grown.png"] == {"context_change_inside": 1.0, "context_change_outside": 0.0}
    assert compare(("grown.png",), "prior.png", {"prior.png": (), "grown.png": ()}) == {"grown.png": {}}


def test_a_swap_is_local_where_neither_person_stands(compare):
    columns = compare(("grown.png", "kept.png"), None, {"grown.png": (LARGE,), "kept.png": (SMALL,)})
    for image in columns.values():
        assert (image["swap_change_inside"], image["swap_change_outside"]) == pytest.approx((48 / 64, 0.0))


def test_images_of_which_one_shows_nobody_are_not_compared(compare):
    columns = compare(("grown.png", "kept.png"), None, {"grown.png": (LARGE,), "kept.png": ()})
    assert columns == {"grown.png": {}, "kept.png": {}}


def test_the_largest_face_is_the_persons(compare):
    columns = compare(("grown.png",), "prior.png", {"prior.png": (LARGE, SMALL), "grown.png": ()})
    assert columns["grown.png"] == {"context_change_inside": 1.0, "context_change_outside": 0.0}


def test_the_journal_knows_a_change_by_its_images_faces_and_reach(compare, tmp_path):
    images, faces = ("grown.png", "kept.png"), {"grown.png": (LARGE,), "kept.png": (SMALL,)}
    first = compare(images, None, faces)
    assert compare(images, None, faces | {"grown.png": (SMALL,)}) != first
    assert compare(images, None, faces, PersonBox(head=1.0, side=0.5, above=0.0, below=0.0)) != first
    for image in images:
        (tmp_path / image).unlink()
    assert compare(images[::-1], None, faces) == first
