"""People of a suite: from shards only those alone in their picture, from a folder the first photograph by name; another
photograph of each; pairs of them."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moa.data import LOCK, ShardDataset
from moa.errors import PersonNotFoundError, PreparerWeightsError, ShardDataError, SuiteError
from moa.evaluation.preparer import describe_preparer
from moa.evaluation.subjects import choose_pairs, resolve_subjects
from moa.file_lock import locked
from moa.models import folder_digest
from moa.preparation import CROP_SIZE, SegmentationPreparer, framed
from tests.moa.evaluation.fakes import tiny_suite
from tests.moa.shards import write_shards

PROMPTS = [{"id": "park", "text": "a {first} and a {second}"}]


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


def test_where_keeps_samples_with_these_attributes(shards):
    declared = {"kind": "shards", "split": "train", "count": 1, "where": {"style": "photo"}}
    with pytest.raises(SuiteError, match=r"shows only 0 people alone in their picture with \{'style': 'photo'\}"):
        resolve_subjects(tiny_suite(subjects=declared), shards=shards)


def test_where_asks_the_person_too_and_null_means_none(tmp_path, monkeypatch):
    folder = write_shards(tmp_path)
    samples = [ShardDataset(folder, "train")[i] for i in (0, 2)]
    for sample, item in zip(samples, ["fan", None], strict=True):
        sample.meta["attributes"] = {"style": "photo", "people": [{"item": item}]}
    monkeypatch.setattr("moa.evaluation.subjects.ShardDataset", lambda *_: samples)
    declared = {"kind": "shards", "split": "train", "count": 1, "where": {"style": "photo"}}
    for item, word in (("fan", "man"), (None, "boy")):
        where = {"where": declared["where"] | {"item": item}}
        (person,) = resolve_subjects(tiny_suite(subjects=declared | where), shards=folder)
        assert person.word == word


def test_identities_that_look_alike_as_file_names_stay_apart(tmp_path, monkeypatch):
    """Free text: other scripts, accents, slashes. Each is a person of their own, with files of their own."""
    folder = write_shards(tmp_path)
    identities = ["李明", "王芳", "José", "Josè", "m/1", "m-1", ".", "Ann", "ANN", "ann", "x" * 300, "李明"]
    samples = []
    for identity in identities:
        sample = ShardDataset(folder, "train")[0]
        sample.meta["subjects"][0]["identity"] = identity
        samples.append(sample)
    monkeypatch.setattr("moa.evaluation.subjects.ShardDataset", lambda *_: samples)
    declared = {"kind": "shards", "split": "train", "count": 11}
    people = resolve_subjects(tiny_suite(subjects=declared), shards=folder)
    assert [person.other is not None for person in people] == [True, *[False] * 10]
    assert len({person.id.lower() for person in people}) == 11  # as some disks know them
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", person.id) for person in people)
    assert people[7].id == "Ann" and people[8].id.startswith("ANN-") and people[9].id.startswith("ann-")
    assert people[5].id == "m-1" and people[4].id.startswith("m-1-") and people[6].id.startswith("person-")


def test_words_that_differ_in_capital_letters_alone_are_refused(photographs):
    items = [{"id": "one", "word": "man", "image": "one"}, {"id": "two", "word": "Man", "image": "two"}]
    with pytest.raises(SuiteError, match="class words 'man' and 'Man' differ in capital letters alone"):
        resolve_subjects(tiny_suite(subjects={"kind": "folder", "items": items}), images=photographs)


def test_another_photograph_is_a_later_sample_of_the_same_identity(tmp_path, monkeypatch):
    folder = write_shards(tmp_path)
    samples = [ShardDataset(folder, "train")[i] for i in (0, 2, 4, 6)]
    photos = ["photo", "photo", "sketch", "photo"]
    for i, (sample, name, style) in enumerate(zip(samples, ["ann", "bob", "ann", "ann"], photos, strict=True)):
        sample.meta["subjects"][0]["identity"], sample.meta["attributes"] = name, {"style": style}
        samples[i] = replace(sample, image=np.full((8, 8, 3), i, np.uint8))
    monkeypatch.setattr("moa.evaluation.subjects.ShardDataset", lambda *_: samples)
    declared = {"kind": "shards", "split": "train", "count": 2, "where": {"style": "photo"}}
    ann, bob = resolve_subjects(tiny_suite(subjects=declared), shards=folder)
    assert (ann.photo.getpixel((0, 0))[0], ann.other.getpixel((0, 0))[0]) == (0, 3)  # 2 is a sketch
    assert bob.other is None and bob.other_digest is None
    assert ann.digest == replace(ann, other=None).digest and ann.other_digest is not None


def test_shards_that_are_being_changed_are_not_read(tmp_path):
    folder = write_shards(tmp_path)
    with (
        locked(folder / LOCK, ShardDataError("preprocessing has it"), print),
        pytest.raises(ShardDataError, match="is being changed by preprocessing at this moment: let it finish"),
    ):
        resolve_subjects(tiny_suite(), shards=folder)
    assert len(resolve_subjects(tiny_suite(), shards=folder)) == 2


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
    assert people[0].other is not None and people[0].other.getpixel((0, 0))[0] > 200  # one/b.jpg
    assert people[1].other is None  # its declaration names a file
    (photographs / "one" / "._a.png").write_bytes(b"what macOS knows of a.png")
    assert [p.source for p in resolve_subjects(_folder_suite(), images=photographs)] == ["one/a.png", "two/b.png"]
    elsewhere = resolve_subjects(_folder_suite(root="/nowhere"), images=photographs)
    assert [p.digest for p in elsewhere] == [p.digest for p in people]


def test_the_model_is_given_the_cut_out_person_and_all_of_a_picture_without_one(photographs, monkeypatch):
    class Preparer:
        def prepare(self, photograph, name):
            if name == "two":
                raise PersonNotFoundError("nobody there")
            return photograph.convert("RGBA").resize((5, 5))

    monkeypatch.setattr("moa.evaluation.subjects.load_preparer", lambda _: Preparer())
    one, two = resolve_subjects(_folder_suite(), images=photographs)
    assert (one.reference.mode, one.reference.size, one.photo.size) == ("RGBA", (5, 5), (30, 20))
    assert two.reference is two.photo


def test_a_cut_out_among_the_photographs_keeps_its_transparency(photographs):
    """It goes to the model as to the pipeline, framed; the face finder sees grey, not the clear pixels."""
    cut = Image.new("RGBA", (60, 40), (200, 10, 10, 0))
    cut.paste((0, 0, 255, 255), (20, 10, 40, 30))
    (photographs / "one" / "b.jpg").unlink()
    for name in ("one/a.png", "one/b.png"):
        cut.save(photographs / name)
    opaque = Image.new("RGBA", (30, 20), "green")
    opaque.save(photographs / "two/b.png")
    one, two = resolve_subjects(_folder_suite(), images=photographs)
    assert (one.reference.mode, one.reference.size) == ("RGBA", (CROP_SIZE, CROP_SIZE))
    assert np.array_equal(np.asarray(one.reference), np.asarray(framed(cut)))
    for photo in (one.photo, one.other):
        assert (photo.mode, photo.size) == ("RGB", (60, 40))
        assert [photo.getpixel(at) for at in ((0, 0), (30, 20))] == [(128, 128, 128), (0, 0, 255)]
    assert two.reference is two.photo and two.photo.mode == "RGB"  # opaque: a photograph, here without a face


def test_a_segmentation_model_cuts_people_out_of_photographs_where_one_is_named(photographs, mask2former):
    """In noise there is no face, so the default gives all of it."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photographs / "one/a.png")
    whole, cut = (
        resolve_subjects(_folder_suite(), images=photographs, segmenter=folder)[0] for folder in (None, mask2former)
    )
    assert whole.reference is whole.photo and cut.photo.size == (30, 20)
    expected = SegmentationPreparer(mask2former).prepare(cut.photo, "one")
    assert (cut.reference.mode, cut.reference.size) == ("RGBA", (CROP_SIZE, CROP_SIZE))
    assert np.array_equal(np.asarray(cut.reference), np.asarray(expected)) and cut.digest != whole.digest
    with pytest.raises(PreparerWeightsError, match="absent cannot be loaded as a Mask2Former"):
        resolve_subjects(_folder_suite(), images=photographs, segmenter=photographs / "absent")


def test_people_of_shards_are_cut_out_already(shards, people, tmp_path):
    found = resolve_subjects(tiny_suite(), shards=shards, segmenter=tmp_path / "absent")
    assert [person.digest for person in found] == [person.digest for person in people]
    assert describe_preparer(tiny_suite(), tmp_path / "absent") is None


def test_the_preparer_is_named_with_the_digest_of_its_weights(mask2former, tmp_path):
    other = shutil.copytree(mask2former, tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"others")
    found = [describe_preparer(_folder_suite(), folder) for folder in (None, mask2former, other)]
    assert [each["name"] for each in found] == ["PortraitPreparer", "SegmentationPreparer", "SegmentationPreparer"]
    assert len({each["weights"] for each in found}) == 3 and all("sha256:" in each["weights"] for each in found)
    assert found[1]["weights"] == folder_digest(mask2former)


def test_a_photograph_that_cannot_be_had_is_its_persons_problem(photographs):
    (photographs / "two" / "b.png").write_bytes(b"GIF89a")
    one, two = resolve_subjects(_folder_suite(), images=photographs)
    assert one.usable and one.problem is None
    assert two.problem == "subjects.items.two.image: two/b.png cannot be read as an image (UnidentifiedImageError)"
    assert (two.usable, two.photo, two.reference, two.digest, two.word) == (False, None, None, None, "woman")
    (photographs / "two" / "b.png").unlink()
    assert resolve_subjects(_folder_suite(), images=photographs)[1].problem.endswith("two/b.png holds no photograph")
    (photographs / "one" / "b.jpg").write_bytes(b"no picture")
    assert resolve_subjects(_folder_suite(), images=photographs)[0].other is None


def test_a_picture_like_a_bomb_is_not_opened(photographs, monkeypatch):
    monkeypatch.setattr("moa.evaluation.subjects.MAX_PIXELS", 599)
    assert "has 30x20 pixels; scale it down first" in resolve_subjects(_folder_suite(), images=photographs)[0].problem


def test_a_photograph_stands_upright_as_a_phone_stored_it(photographs):
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees clockwise to display"
    Image.new("RGB", (30, 20)).save(photographs / "two" / "b.png", exif=turned)
    Image.new("RGB", (30, 20)).save(photographs / "one" / "a.png", exif=b"Exif\0\0junkjunkjunk")
    assert [person.photo.size for person in resolve_subjects(_folder_suite(), images=photographs)] == [
        (30, 20),
        (20, 30),
    ]


def test_a_folder_that_is_not_there_is_no_persons_problem(photographs):
    with pytest.raises(SuiteError, match="subjects.root: .*absent is no folder"):
        resolve_subjects(_folder_suite(), images=photographs / "absent")


def test_the_digest_follows_pixels_and_word(photographs):
    before = resolve_subjects(_folder_suite(), images=photographs)
    Image.new("RGB", (30, 20), (0, 0, 254)).save(photographs / "one" / "a.png")
    after = resolve_subjects(_folder_suite(), images=photographs)
    assert before[0].digest != after[0].digest and before[1].digest == after[1].digest


def _choose(people, count: int) -> list[tuple[str, str]]:
    suite = tiny_suite(pairs={"count": count, "prompts": PROMPTS, "seeds": [0]})
    return [(first.id, second.id) for first, second in choose_pairs(suite, people)]


@pytest.mark.parametrize("number", [2, 5, 6])
def test_pairs_meet_everybody_equally_often(people, number):
    some = [replace(people[0], id=name) for name in "abcdef"[:number]]
    everybody = number * (number - 1) // 2
    for count in range(1, everybody + 1):
        pairs = _choose(some, count)
        met = Counter({person.id: 0 for person in some})
        met.update(name for pair in pairs for name in pair)
        assert len(set(pairs)) == count and all(first < second for first, second in pairs)
        assert max(met.values()) - min(met.values()) <= (2 if number % 2 else 1)  # of an odd number one sits out
    with pytest.raises(SuiteError, match=f"{number} people make only {everybody} pairs"):
        _choose(some, everybody + 1)
    assert choose_pairs(tiny_suite(), some) == []
