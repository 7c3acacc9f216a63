"""The miniature world: deterministic, exact masks, captions that say what is drawn, held-out people kept apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from preprocessing.world import World, contact_sheet
from preprocessing.world.canvas import Canvas
from preprocessing.world.identity import GLASSES, WORDS, sample_identity
from preprocessing.world.items import ITEMS
from preprocessing.world.scenes import SCENES

COUNT = 60


@pytest.fixture(scope="module")
def scenes():
    return [World(3).scene(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def photos():
    return [World(3, framing={"train": "photos"}).scene(index) for index in range(COUNT)]


def test_equal_seeds_draw_equal_pictures(scenes):
    again = [World(3).scene(index) for index in range(COUNT)]
    for first, second in zip(scenes, again, strict=True):
        assert first.image.tobytes() == second.image.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()
        assert (first.caption, first.people) == (second.caption, second.people)


def test_other_seeds_splits_and_indices_draw_other_pictures(scenes):
    others = [World(4).scene(0), World(3).scene(0, "heldout"), scenes[1]]
    assert all(other.image.tobytes() != scenes[0].image.tobytes() for other in others)


def test_masks_belong_to_the_people(scenes, photos):
    for scene in scenes + photos:
        labels = np.asarray(scene.mask)
        assert labels.shape == (64, 64)
        assert set(np.unique(labels)) == {0, *(person["mask_value"] for person in scene.people)}
        for person in scene.people:
            x0, y0, x1, y1 = person["face"]
            assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
            assert (labels[y0:y1, x0:x1] == person["mask_value"]).mean() > 0.2


def test_the_caption_names_everything_that_matters(scenes, photos):
    for scene in scenes + photos:
        assert scene.caption.endswith(SCENES[scene.attributes["scene"]][0])
        assert scene.caption.startswith(scene.attributes["style_words"])
        assert scene.caption.endswith(scene.attributes["scene_words"])
        assert all(
            p["pose_words"] in scene.caption and p["item_words"] in scene.caption for p in scene.attributes["people"]
        )
        position = 0
        for person, record in zip(scene.people, scene.attributes["people"], strict=True):
            position = scene.caption.index(f"a {person['word']}", position) + 1
            assert record["item"] is None or ITEMS[record["item"]].words in scene.caption
            assert record["looks"].removeprefix("a ") in scene.description
    assert {len(scene.people) for scene in scenes} == {1, 2, 3}


def head_heights(pictures):
    return [y1 - y0 for picture in pictures for _, y0, _, y1 in (person["face"] for person in picture.people)]


def test_photos_show_people_who_do_nothing_from_nearer(scenes, photos):
    assert np.mean(head_heights(photos)) > 1.1 * np.mean(head_heights(scenes))
    assert {picture.attributes["style"] for picture in photos} == {"photo"}
    assert {person["pose"] for picture in photos for person in picture.attributes["people"]} == {"standing"}
    assert {len(picture.people) for picture in photos} == {1, 2}


def test_framing_is_a_matter_of_the_split(photos):
    world = World(3, framing={"train": "photos"})
    assert world.scene(0).image.tobytes() == photos[0].image.tobytes() != World(3).scene(0).image.tobytes()
    assert world.scene(0, "heldout").image.tobytes() == World(3).scene(0, "heldout").image.tobytes()
    with pytest.raises(ValueError, match="'selfies' is unknown; known: scenes, photos"):
        World(1, framing={"heldout": "selfies"})


def test_held_out_people_never_occur_in_training():
    train = {p["identity"] for i in range(COUNT) for p in World(5).scene(i).people}
    held_out = {p["identity"] for i in range(COUNT) for p in World(6).scene(i, "heldout").people}
    assert not train & held_out
    assert all(int(code.split("-")[1], 16) % 8 == 0 for code in held_out)


def test_a_small_town_meets_the_same_people_again():
    met = [p["identity"] for i in range(COUNT) for p in World(5, identities={"train": 8}).scene(i).people]
    assert len(set(met)) <= 8 < len(met)
    elsewhere = [
        p["identity"] for i in range(COUNT) for p in World(5, identities={"train": 8}).scene(i, "heldout").people
    ]
    assert len(set(elsewhere)) > 8


def test_there_are_over_ten_thousand_identities():
    import random

    rng = random.Random(0)
    codes = [sample_identity(rng, held_out=False).code for _ in range(4000)]
    repeats = len(codes) - len(set(codes))  # birthday problem: n^2 / 2N repeats among N equally likely identities
    assert len(codes) ** 2 / (2 * max(repeats, 1)) > 10_000
    assert {code[0] for code in codes} == {word[0] for word in WORDS}
    assert set(GLASSES) == {"none", "round", "sunglasses"}


def test_an_object_in_front_leaves_the_mask():
    canvas = Canvas(64)
    with canvas.labelled(1):
        canvas.rectangle(10, 10, 50, 50, (255, 0, 0))
    canvas.rectangle(20, 20, 40, 40, (0, 0, 255))
    picture, labels = canvas.finish()
    assert labels[30, 30] == 0 and labels[12, 12] == 1 and labels[5, 5] == 0
    assert picture.getpixel((30, 30)) == (0, 0, 255)


def test_other_sizes_scale_masks_and_faces():
    small, large = World(3, 64).scene(0), World(3, 128).scene(0)
    assert large.image.size == (128, 128)
    assert [2 * v for v in small.people[0]["face"]] == large.people[0]["face"]
    shrunk = np.asarray(large.mask.resize((64, 64), Image.Resampling.NEAREST))
    assert (shrunk == np.asarray(small.mask)).mean() > 0.97


@pytest.mark.parametrize(("index", "split"), [(-1, "train"), (0, "test")])
def test_unknown_scenes_are_refused(index, split):
    with pytest.raises(ValueError, match="index must be >= 0 and split"):
        World(1).scene(index, split)


def test_worlds_too_small_for_people_are_refused():
    with pytest.raises(ValueError, match="at least 32 pixels"):
        World(1, size=16)


def test_contact_sheet_has_the_asked_size():
    assert contact_sheet(World(1), columns=4, rows=2, zoom=1).size == (256, 128)
