"""Binding: which word of the caption names which mask, and which face belongs to whom.

Exact where the annotation says so (the n-th person called "man" is the n-th "man" of the caption); otherwise by the
declaration's rule: `largest` binds the first person word to the largest mask, `left_to_right` binds words in reading
order to masks in picture order.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from preprocessing.config import MAX_SUBJECTS, DatasetConfig
from preprocessing.errors import Rejection
from preprocessing.frame import Annotation, Face, PersonMask
from preprocessing.words import REPAIR_WORD, Word, find_words, occurrences, position, repair_caption

FACE_INSIDE = 0.5  # share of a face box that must be the person's pixels


@dataclass(frozen=True)
class BoundCaption:
    """A caption and its subjects: `words[i]` names `masks[i]`; `others` are people who are no subjects."""

    caption: str
    repaired: bool
    words: list[Word]
    masks: list[PersonMask]
    others: list[PersonMask]


def bind(config: DatasetConfig, caption: str, masks: list[PersonMask], annotation: Annotation) -> BoundCaption:
    """Bind a caption's words to masks. Raises Rejection: no_person, no_word, word_mask_mismatch, truncated_caption."""
    if not masks:
        raise Rejection("no_person", "no person was found in the stored square")
    large = [mask for mask in masks if mask.mask.mean() >= config.min_area]
    if not large:
        raise Rejection("no_person", f"every person covers less than {config.min_area:.2%} of the stored square")
    if config.captions.kind == "sidecar" and any(_word_of(mask, annotation) for mask in large):
        bound = _bind_exactly(caption, large, annotation)
    else:
        bound = _bind_by_rule(config, caption, large)
    others = [mask for mask in masks if not any(mask is subject for subject in bound.masks)]
    for word in bound.words:
        if (place := position(bound.caption, word)) > config.caption_words:
            raise Rejection("truncated_caption", f"{word.text!r} is word {place}, the limit is {config.caption_words}")
    return BoundCaption(bound.caption, bound.repaired, bound.words, bound.masks, others)


def match_faces(masks: list[PersonMask], faces: list[Face]) -> list[Face | None]:
    """The largest face of each mask; a face goes to whom its source names, else to whom most of its box belongs."""
    matched: list[Face | None] = [None] * len(masks)
    for face in sorted(faces, key=lambda face: -face.box.area):
        shares = [_belonging(face, mask) for mask in masks]
        best = int(np.argmax(shares)) if shares else 0
        if shares and shares[best] >= FACE_INSIDE and matched[best] is None:
            matched[best] = face
    return matched


def _bind_exactly(caption: str, masks: list[PersonMask], annotation: Annotation) -> BoundCaption:
    """By the annotation's words; people without a word are others."""
    places = {person.word: occurrences(caption, person.word) for person in annotation.people if person.word}
    nth: Counter[str] = Counter()
    words, subjects = [], []
    by_person = {mask.person: mask for mask in masks}
    for number, person in enumerate(annotation.people):
        if person.word is None:
            continue
        found, n = places[person.word], nth[person.word]
        nth[person.word] += 1
        if not found:
            raise Rejection("no_word", f"{person.word!r} is not in {caption!r}")
        if n >= len(found):
            raise Rejection("word_mask_mismatch", f"more people called {person.word!r} than in {caption!r}")
        if number in by_person:
            words.append(found[n])
            subjects.append(by_person[number])
    if len({word.start for word in words}) != len(words):
        raise Rejection("word_mask_mismatch", f"two people share a word in {caption!r}")
    return BoundCaption(caption, False, words[:MAX_SUBJECTS], subjects[:MAX_SUBJECTS], [])


def _bind_by_rule(config: DatasetConfig, caption: str, masks: list[PersonMask]) -> BoundCaption:
    """By the words that the finder sees; a caption without one is repaired or refused."""
    words, repaired = find_words(caption), False
    if not words:
        if not config.repair_captions:
            raise Rejection("no_word", f"no person word in {caption!r}")
        caption, repaired = repair_caption(caption), True
        words = occurrences(caption, REPAIR_WORD)[:1]
    largest = sorted(masks, key=lambda mask: -mask.mask.sum())
    if config.binding == "largest":
        return BoundCaption(caption, repaired, words[:1], largest[:1], [])
    if len(words) > len(masks):
        raise Rejection("word_mask_mismatch", f"{len(words)} person words but {len(masks)} masks in {caption!r}")
    words = words[:MAX_SUBJECTS]
    return BoundCaption(caption, repaired, words, sorted(largest[: len(words)], key=_centre), [])


def _word_of(mask: PersonMask, annotation: Annotation) -> str | None:
    return None if mask.person is None else annotation.people[mask.person].word


def _centre(mask: PersonMask) -> float:
    """Mean column of a mask."""
    return float(np.nonzero(mask.mask)[1].mean())


def _belonging(face: Face, mask: PersonMask) -> float:
    """1 for the named person, 0 for anybody else; without names the share of the face box inside the mask."""
    if face.person is not None and mask.person is not None:
        return float(face.person == mask.person)
    x0, y0, x1, y1 = (round(v) for v in face.box)
    inside = mask.mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return float(inside.mean()) if inside.size else 0.0
