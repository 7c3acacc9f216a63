"""People of a suite: from shards only those alone in their picture, from a folder the first photograph by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from moa.errors import SuiteError
from moa.evaluation.subjects import resolve_subjects
from tests.moa.evaluation.fakes import tiny_suite


def _folder_suite(root: str | None = None):
    items = [{"id": "one", "word": "man", "image": "one"}, {"id": "two", "word": "woman", "image": "two/b.png"}]
    return tiny_suite(subjects={"kind": "folder", "root": root, "items": items})


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name, colour in (("one/b.jpg", "red"), ("one/a.png", "blue"), ("one/notes.txt", None), ("two/b.png", "green")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if colour:
            Image.new("RGB", (30, 20), colour).save(path)
        else:
            path.write_text("no picture", encoding="utf-8")
    return tmp_path


def test_shards_give_people_who_stand_alone(shards):
    people = resolve_subjects(tiny_suite(), shards=shards)
    assert [(p.id, p.word, p.source) for p in people] == [
        ("man-0", "man", "000000000"),
        ("boy-2", "boy", "000000002"),
    ]
    assert people[0].reference.mode == "RGBA" and people[0].photo.mode == "RGB"
    assert people[0].photo.size == (32, 32)


def test_too_few_people_are_counted(shards):
    with pytest.raises(SuiteError, match=r"subjects.count is 5.*shows only 4 people alone"):
        resolve_subjects(tiny_suite(subjects={"kind": "shards", "split": "train", "count": 5}), shards=shards)


def test_what_must_be_given_is_asked_for(photographs):
    with pytest.raises(SuiteError, match="--shards FOLDER"):
        resolve_subjects(tiny_suite())
    with pytest.raises(SuiteError, match="--images FOLDER"):
        resolve_subjects(_folder_suite())


def test_a_folder_gives_the_first_photograph_by_name(photographs):
    people = resolve_subjects(_folder_suite(), images=photographs)
    assert [(p.id, p.source) for p in people] == [("one", "one/a.png"), ("two", "two/b.png")]
    assert people[0].photo.getpixel((0, 0)) == (0, 0, 255)
    elsewhere = resolve_subjects(_folder_suite(root="/nowhere"), images=photographs)
    assert [p.digest for p in elsewhere] == [p.digest for p in people]


def test_a_photograph_that_cannot_be_had_names_its_person(photographs):
    (photographs / "two" / "b.png").write_bytes(b"GIF89a")
    with pytest.raises(SuiteError, match=r"subjects.items.two.image: .*b.png cannot be read as an image"):
        resolve_subjects(_folder_suite(), images=photographs)
    (photographs / "two" / "b.png").unlink()
    with pytest.raises(SuiteError, match=r"subjects.items.two.image: .*holds no photograph"):
        resolve_subjects(_folder_suite(), images=photographs)


def test_the_digest_follows_pixels_and_word(photographs):
    before = resolve_subjects(_folder_suite(), images=photographs)
    Image.new("RGB", (30, 20), (0, 0, 254)).save(photographs / "one" / "a.png")
    after = resolve_subjects(_folder_suite(), images=photographs)
    assert before[0].digest != after[0].digest and before[1].digest == after[1].digest
