"""The classifiers that judge the base model, and the judgement.    pytest tests/moa/zoo/test_attributes.py"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from moa.errors import MissingInputError
from moa.zoo import following
from moa.zoo.attributes import ATTRIBUTES, AttributeClassifier, described_pictures, train_attributes, words_of
from moa.zoo.pictures import Pictures, to_unit

COLOURS = {"on a beach": (230, 200, 90), "in the snow": (90, 120, 230)}
ITEMS = ("juggling balls", "")


def meta(scene: str, item: str, *, people: int = 1, style: str = "photo") -> dict:
    person = {"word": "girl", "item_words": item}
    attributes = {"style": style, "people": [person] * people, "scene_words": scene}
    return {"caption": f"a girl {item} {scene}", "attributes": attributes}


@pytest.fixture
def pictures() -> Pictures:
    """Scenes differ in colour, the object is a white bar."""
    shown = [(scene, item) for scene in COLOURS for item in ITEMS]
    images = np.zeros((len(shown), 64, 64, 3), np.uint8)
    for image, (scene, item) in zip(images, shown, strict=True):
        image[:] = COLOURS[scene]
        image[20:40, 10:30] = 255 if item else image[20:40, 10:30]
    return Pictures(images, [], [meta(*one) for one in shown])


def test_only_pictures_of_one_person_have_words():
    assert words_of(meta("in a park", "")) == {"scene": "in a park", "item": "", "word": "girl"}
    assert words_of(meta("in a park", "", people=2)) is None


def test_it_learns_what_it_is_shown_and_survives_saving(pictures, tmp_path):
    classifier = train_attributes(pictures, tmp_path / "work", steps=40, batch=8)
    _, described = described_pictures(pictures)
    pixels = to_unit(pictures.images)
    assert classifier.words(pixels, batch=3) == described
    classifier.save_pretrained(tmp_path / "saved")
    loaded = AttributeClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.words(pixels) == described
    for name, logits in loaded(pixels).items():
        torch.testing.assert_close(logits, classifier(pixels)[name], rtol=0, atol=0.05)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    AttributeClassifier({attribute: ["a", "b"] for attribute in ATTRIBUTES}, width=8).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        AttributeClassifier.from_pretrained(tmp_path)


def test_prompts_are_captions_of_photos_of_one_person_with_an_object():
    metas = [
        meta("in a park", "with a hat", people=2),
        meta("in a park", "with a hat", style="sepia"),
        meta("in a park", ""),
        meta("in a park", "with a hat"),
        meta("on a beach", "with a hat"),
    ]
    pictures = Pictures(np.zeros((5, 64, 64, 3), np.uint8), [], metas)
    places, words = following.prompted(pictures, 9)
    assert places == [3, 4] and words == [words_of(pictures.meta[k]) for k in places]
    assert following.prompted(pictures, 1)[0] == [3]


def test_a_model_is_right_where_its_picture_shows_the_words_of_the_prompt(pictures, tmp_path):
    """The drawn pictures show the object always and the snow always; the classifier finds all in real ones."""
    classifier = train_attributes(pictures, tmp_path, steps=40, batch=8)
    seen = []

    def draw(prompts, generator, **options):
        seen.extend(prompts)
        snow = pictures.images[[2] * len(prompts)] / 255
        return SimpleNamespace(images=snow)

    draw.set_progress_bar_config = lambda **_: None
    quality = following.measure(draw, classifier, pictures)
    assert seen == ["a girl juggling balls on a beach", "a girl juggling balls in the snow"]
    assert quality == {
        "followed_scene": 0.5,
        "followed_item": 1.0,
        "followed_word": 1.0,
        "real_scene": 1.0,
        "real_item": 1.0,
        "real_word": 1.0,
    }
