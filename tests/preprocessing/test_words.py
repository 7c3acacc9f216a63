"""The person-word finder: which word, at which offsets, and when a caption is repaired or refused."""

from __future__ import annotations

import pytest

from preprocessing.errors import Rejection
from preprocessing.words import find_words, occurrences, position, repair_caption


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a man with a dog", ["man"]),
        ("a Man, a woman and a child.", ["Man", "woman", "child"]),
        ("a manual for a woodman", []),  # word boundaries
        ("a baby girl on a bed", ["girl"]),  # head noun
        ("a baby elephant", []),
        ("a baby, elephant in the back", ["baby"]),  # the comma ends the noun phrase
        ("a man kissing a woman", ["man", "woman"]),
        ("a close up of a woman's face", ["woman"]),  # nobody else is named
        ("a woman's hat on a man", ["man"]),
        ("a woman’s hat on a man", ["man"]),
        ("two men and a boy", ["boy"]),  # plurals are not bound
        ("", []),
    ],
)
def test_words_and_offsets(caption: str, words: list[str]) -> None:
    found = find_words(caption)
    assert [word.text for word in found] == words
    assert [caption[word.start : word.end] for word in found] == words


def test_occurrences_are_whole_words_in_order() -> None:
    assert [word.start for word in occurrences("a man, a woman and a Man in a mansion", "man")] == [2, 21]


def test_repair_puts_a_person_in_front_but_not_of_a_group() -> None:
    assert repair_caption("a red car") == "a photo of a person, a red car"
    assert repair_caption("") == "a photo of a person"
    with pytest.raises(Rejection) as rejection:
        repair_caption("two men talking")
    assert rejection.value.reason == "no_word"


def test_position_counts_words_and_marks() -> None:
    caption = "outside, a tall man"
    assert position(caption, find_words(caption)[0]) == 5
