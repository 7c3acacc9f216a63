"""Person words in captions: which word of "a man with a dog" is the subject, at which character offsets.

Rules, not a parser: a closed word list, word boundaries, and a head-noun rule ("baby girl" -> girl, "baby elephant" ->
nobody, "a woman's hat" -> only where no better word is left). Plurals name groups and are never bound to one mask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from preprocessing.errors import Rejection


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SINGULAR = _words(
    "man woman person boy girl lady guy gentleman child kid baby toddler infant teenager adult bride groom player "
    "athlete dancer singer actor actress soldier officer surfer skier snowboarder skateboarder skater cyclist "
    "policeman policewoman fireman businessman businesswoman cowboy cowgirl chef"
)
PLURAL = _words(
    "men women people persons boys girls ladies guys gentlemen children kids babies toddlers infants teenagers adults "
    "couple group crowd family players athletes dancers singers actors soldiers officers"
)
# Nouns that make a person word before them a mere modifier.
THINGS = _words(
    "stroller carriage seat bottle bun cave toy doll shower clothes room crib food bib animal elephant giraffe bear "
    "cow goat sheep bird cat dog zebra monkey horse duck panda lion tiger penguin seal"
)
REPAIR = "a photo of a person, "
REPAIR_WORD = "person"

_TOKEN = re.compile(r"[^\W\d_]+(?:['’]s\b)?|\d+|[^\w\s]")


@dataclass(frozen=True)
class Word:
    """A word of a caption: characters `start` to `end`, end exclusive."""

    text: str
    start: int
    end: int


def find_words(caption: str) -> list[Word]:
    """Singular person words of a caption in reading order; possessives ("woman's") only when nothing else is there."""
    tokens = list(_TOKEN.finditer(caption))
    heads, owners = [], []
    for match, following in zip_longest(tokens, tokens[1:]):
        word, possessive = _bare(match.group())
        if word not in SINGULAR:
            continue
        if possessive:
            owners.append(_word(caption, match.start(), len(word)))
        elif following is None or not _is_modifier(caption[match.end() : following.start()], following.group()):
            heads.append(_word(caption, match.start(), len(word)))
    return heads or owners


def find_groups(caption: str) -> list[str]:
    """Words for more than one person, such as men or people."""
    return [word for match in _TOKEN.finditer(caption) if (word := _bare(match.group())[0]) in PLURAL]


def occurrences(caption: str, word: str) -> list[Word]:
    """All places where a given word stands as a whole word, in reading order, ignoring case."""
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
    return [Word(match.group(), match.start(), match.end()) for match in pattern.finditer(caption)]


def repair_caption(caption: str) -> str:
    """A caption without a person word gets one in front. Raises Rejection("no_word") where it speaks of a group."""
    groups = find_groups(caption)
    if groups:
        raise Rejection("no_word", f"only a group is named ({groups[0]!r}) in {caption!r}")
    return f"{REPAIR}{caption}".rstrip(", ")


def position(caption: str, word: Word) -> int:
    """How many words and punctuation marks a reader has passed after this word: 1 for the first."""
    return len(_TOKEN.findall(caption[: word.end]))


def _bare(token: str) -> tuple[str, bool]:
    lowered = token.lower().replace("’", "'")
    return lowered.removesuffix("'s"), lowered.endswith("'s")


def _is_modifier(between: str, following: str) -> bool:
    """Whether the next token, directly after a space, is the noun that this word only describes."""
    word, _ = _bare(following)
    return between == " " and (word in SINGULAR or word in THINGS)


def _word(caption: str, start: int, length: int) -> Word:
    return Word(caption[start : start + length], start, start + length)
