"""Binding words to masks and faces to people."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.binding import bind, match_faces
from preprocessing.errors import Rejection
from preprocessing.frame import Annotation, Box, Face, Person, PersonMask
from tests.preprocessing.folders import declaration

MODELS = {"segmentation": {"kind": "mask2former"}, "captions": {"kind": "blip2"}}


def mask(x0: int, x1: int, height: int = 20, person: int | None = None) -> PersonMask:
    """A person from column x0 to x1 of a 32 x 32 frame."""
    pixels = np.zeros((32, 32), bool)
    pixels[:height, x0:x1] = True
    return PersonMask(pixels, 1.0, person)


def people(*words: str | None) -> Annotation:
    return Annotation(
        people=tuple(Person(word=word, mask_value=i + 1, identity=None, face=None) for i, word in enumerate(words))
    )


def reason(**arguments: object) -> str:
    with pytest.raises(Rejection) as rejection:
        bind(**arguments)
    return rejection.value.reason


def test_largest_binds_the_first_word_to_the_largest_mask() -> None:
    small, large = mask(0, 5), mask(10, 30)
    bound = bind(declaration(**MODELS), "a man and a woman", [small, large], Annotation())
    assert [word.text for word in bound.words] == ["man"]
    assert bound.masks == [large]
    assert bound.others == [small]


def test_left_to_right_binds_words_in_reading_order() -> None:
    config = declaration(**MODELS, binding="left_to_right")
    left, right, speck = mask(0, 8), mask(12, 30), mask(30, 32, 6)
    bound = bind(config, "a man and a woman", [right, speck, left], Annotation())
    assert [word.text for word in bound.words] == ["man", "woman"]
    assert bound.masks == [left, right]
    assert bound.others == [speck]
    first_speck = mask(0, 2, 6)  # smaller than both: no subject, although it comes first
    between = bind(config, "a man and a woman", [right, first_speck, mask(3, 11)], Annotation())
    assert [list(np.flatnonzero(m.mask.any(axis=0))[[0, -1]]) for m in between.masks] == [[3, 10], [12, 29]]
    assert between.others == [first_speck]
    assert (
        reason(config=config, caption="a man and a woman", masks=[left], annotation=Annotation())
        == "word_mask_mismatch"
    )


def test_the_nth_person_of_a_word_is_its_nth_occurrence() -> None:
    caption = "a man beside a woman and a man"
    masks = [mask(20, 30, person=0), mask(0, 8, person=1), mask(10, 18, person=2)]
    bound = bind(declaration(), caption, masks, people("man", "woman", "man"))
    assert [word.start for word in bound.words] == [2, 15, 27]
    assert bound.masks == masks


def test_a_person_that_was_cropped_away_keeps_its_word() -> None:
    bound = bind(declaration(), "a man and a man", [mask(0, 9, person=1)], people("man", "man"))
    assert [word.start for word in bound.words] == [12]


@pytest.mark.parametrize(
    ("caption", "words", "expected"),
    [
        ("a dog", ("man",), "no_word"),
        ("a man", ("man", "man"), "word_mask_mismatch"),
        ("a young man", ("young man", "young man"), "word_mask_mismatch"),
        ("a man", ("man", "Man"), "word_mask_mismatch"),
    ],
)
def test_annotations_that_disagree_with_their_caption(caption: str, words: tuple[str, ...], expected: str) -> None:
    masks = [mask(10 * i, 10 * i + 8, person=i) for i in range(len(words))]
    assert reason(config=declaration(), caption=caption, masks=masks, annotation=people(*words)) == expected


def test_where_one_person_has_a_word_those_without_are_others() -> None:
    large, named = mask(10, 30, person=0), mask(0, 5, person=1)
    bound = bind(declaration(), "a woman", [large, named], people(None, "woman"))
    assert (bound.masks, bound.others) == ([named], [large])


def test_people_without_words_are_bound_by_rule() -> None:
    small, large = mask(0, 5, person=0), mask(10, 30, person=1)
    bound = bind(declaration(), "a woman", [small, large], people(None, None))
    assert bound.masks == [large]


def test_small_people_are_no_subjects() -> None:
    speck, large = mask(0, 2, 5), mask(10, 30)
    bound = bind(declaration(**MODELS, binding="left_to_right"), "a man", [speck, large], Annotation())
    assert (bound.masks, bound.others) == ([large], [speck])
    arguments = {"caption": "a man", "masks": [speck], "annotation": Annotation()}
    assert reason(config=declaration(**MODELS, min_area=0.02), **arguments) == "no_person"
    assert bind(declaration(**MODELS, min_area=0.0), **arguments).masks == [speck]
    exactly = declaration(**MODELS, min_area=10 / 32**2)
    assert bind(exactly, **arguments).masks == [speck]
    assert reason(config=declaration(**MODELS), caption="a man", masks=[], annotation=Annotation()) == "no_person"


def test_captions_without_a_person_are_repaired_or_refused() -> None:
    bound = bind(declaration(**MODELS), "a red hat", [mask(0, 20)], Annotation())
    assert bound.repaired
    assert bound.caption == "a photo of a person, a red hat"
    assert bound.caption[bound.words[0].start : bound.words[0].end] == "person"
    arguments = {"caption": "a red hat", "masks": [mask(0, 20)], "annotation": Annotation()}
    assert reason(config=declaration(**MODELS, repair_captions=False), **arguments) == "no_word"


def test_a_subject_far_behind_in_the_caption_is_refused() -> None:
    arguments = {"caption": "on a very long beach a man", "masks": [mask(0, 20)], "annotation": Annotation()}
    assert bind(declaration(**MODELS, caption_words=7), **arguments).words
    assert reason(config=declaration(**MODELS, caption_words=6), **arguments) == "truncated_caption"


def test_at_most_eight_subjects() -> None:
    masks = [mask(3 * i, 3 * i + 3, person=i) for i in range(9)]
    bound = bind(declaration(), " and ".join(["a man"] * 9), masks, people(*["man"] * 9))
    assert bound.masks == masks[:8]
    assert bound.others == masks[8:]
    by_rule = declaration(**MODELS, binding="left_to_right")
    bound = bind(by_rule, " and ".join(["a man"] * 9), [mask(3 * i, 3 * i + 3) for i in range(9)], Annotation())
    assert (len(bound.words), len(bound.masks), len(bound.others)) == (8, 8, 1)


def test_faces_go_to_whom_they_belong() -> None:
    left, right = mask(0, 10), mask(20, 32)
    outside, small, large = Face(Box(12, 0, 18, 8), 0.9), Face(Box(22, 0, 26, 4), 0.9), Face(Box(20, 0, 30, 10), 0.9)
    assert match_faces([left, right], [small, outside, large]) == [None, large]
    assert match_faces([], [small]) == []
    half, less = Face(Box(5, 0, 15, 10), 0.9), Face(Box(6, 0, 16, 10), 0.9)
    assert match_faces([left], [half]) == [half] and match_faces([left], [less]) == [None]
    flat = Face(Box(3, 4, 9, 4.2), 0.9)  # of less than a pixel
    assert match_faces([left], [flat]) == [flat]
    named = Face(Box(0, 0, 5, 5), 1.0, 1)  # lies over the left person, but its source says otherwise
    assert match_faces([mask(0, 10, person=0), mask(20, 32, person=1)], [named]) == [None, named]
