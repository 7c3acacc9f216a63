"""From words to token indices, with real CLIP tokenization.    pytest tests/moa/test_binding.py"""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from moa.binding import bind, find_words
from moa.errors import WordNotFoundError, WordTruncatedError
from tests.tiny_models import MAX_TOKENS, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("prompt", "words", "found"),
    [
        ("a man on a beach", ["man"], ["man"]),
        ("a woman and a man", ["man", "woman"], ["man", "woman"]),
        ("A Man's hat", ["man"], ["Man"]),
        ("an old man, (girl).", ["old man", "GIRL"], ["old man", "girl"]),
        ("a zebra-man and a man", ["man", "man"], ["man", "man"]),
        ("an old\n  man on a beach", ["old man"], ["old\n  man"]),
    ],
)
def test_whole_words_in_any_case(prompt, words, found):
    spans = find_words(prompt, words)
    assert [prompt[start:end] for start, end in spans] == found
    assert len(set(spans)) == len(words)


def test_the_nth_subject_of_a_word_takes_its_nth_occurrence():
    assert find_words("a man, a dog and a man", ["man", "dog", "Man"]) == [(2, 5), (9, 12), (19, 22)]


def test_a_word_that_another_begins_or_ends_with_is_not_that_one():
    assert find_words("a mansion for a man", ["man"]) == [(16, 19)]
    assert find_words("a woman and a man", ["man"]) == [(14, 17)]


def test_a_word_does_not_take_the_end_of_a_longer_one():
    prompt = "an old man, a man and a very old man"
    expected = {"old man": (3, 10), "man": (14, 17), "very old man": (24, 36)}
    for words in (["old man", "man", "very old man"], ["very old man", "man", "old man"], ["man", "old man"]):
        assert find_words(prompt, words) == [expected[word] for word in words]
    assert find_words("a man in black", ["man", "man in black"]) == [(2, 5), (2, 14)]
    with pytest.raises(WordNotFoundError, match="'man' 1 time"):
        find_words("an old man", ["man", "old man"])


@pytest.mark.parametrize(
    ("prompt", "words", "message"),
    [
        ("a woman", ["man"], "0 time"),
        ("a man", ["man", "man"], "1 time.*2 subject"),
        ("a man", [""], "''"),
        ("a man", ["a.an"], "a.an"),
        ("a man", ["m.n"], "m.n"),
    ],
)
def test_words_that_are_not_there_are_named(prompt, words, message):
    with pytest.raises(WordNotFoundError, match=message):
        find_words(prompt, words)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a man on a beach", "man"),
        ("a man's hat, a (Woman)!", "woman"),
        ("photo: a  zebra   on snow", "zebra"),  # five tokens; extra spaces
        ("a café-owner and the caféine girl", "caféine"),
        ("dog2 and a boy", "boy"),
    ],
)
def test_the_index_is_the_last_token_of_the_word(tokenizer, prompt, word):
    (span,) = find_words(prompt, [word])
    (index,) = bind(tokenizer, prompt, [span])
    offsets = tokenizer(prompt, return_offsets_mapping=True).offset_mapping
    assert offsets[index][1] == span[1]
    assert offsets[index][0] >= span[0]


def test_a_word_that_ends_in_a_sign_is_found_among_the_signs_that_follow_it(tmp_path):
    """CLIP's own merges: `++` is one token, but of `++)` the first is `+`."""
    tiny_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    merges = [line.split() for line in (tmp_path / "merges.txt").read_text().splitlines()[1:]]
    merges += [["+", ")</w>"], ["+", "+</w>"]]
    vocabulary |= {"".join(merge): len(vocabulary) + n for n, merge in enumerate(merges[-2:])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in merges])
    assert tokenizer.tokenize("(c++)") == ["(</w>", "c</w>", "+", "+)</w>"]
    assert bind(tokenizer, "(c++)", [(1, 4)]) == [4]
    assert bind(tokenizer, "c++ a", [(0, 3), (4, 5)]) == [2, 3]


def test_two_subjects_with_one_word_bind_to_two_tokens(tokenizer):
    prompt = "a man and a man on a beach"
    assert bind(tokenizer, prompt, find_words(prompt, ["man", "man"])) == [2, 5]


def test_a_word_beyond_the_limit_is_an_error_and_the_last_place_is_not(tokenizer):
    fits = "a " * (MAX_TOKENS - 3) + "man"
    assert bind(tokenizer, fits, find_words(fits, ["man"])) == [MAX_TOKENS - 2]
    too_long = "a " + fits
    with pytest.raises(WordTruncatedError, match=f"'man' is token {MAX_TOKENS - 1} .* {MAX_TOKENS} tokens"):
        bind(tokenizer, too_long, find_words(too_long, ["man"]))


@pytest.mark.parametrize("span", [(2, 2), (1, 2), (2, 50)])
def test_a_span_without_a_word_is_an_error(tokenizer, span):
    with pytest.raises(WordNotFoundError, match="span"):
        bind(tokenizer, "a man", [span])
