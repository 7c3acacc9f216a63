"""Which token of the prompt a subject replaces: from words to character spans to token indices.

    spans = find_words("a man and a man on a beach", ["man", "man"])      # [(2, 5), (12, 15)]
    tokens = bind(tokenizer, "a man and a man on a beach", spans)         # [2, 5] with CLIP's tokenizer

Training and inference bind the same way, so that a subject is injected where the model learned to find it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from moa.errors import WordNotFoundError, WordTruncatedError


def find_words(prompt: str, words: Sequence[str]) -> list[tuple[int, int]]:
    """Character span [start, end) of each word in `prompt`: whole words, any case.

    A word named n times takes its first n occurrences in order ("man", "man" binds to two different men). A word may be
    several words ("old man"), and then takes its occurrence before the shorter one that ends it ("an old man and a
    man": "man" is the second). Raises `WordNotFoundError` when the prompt has too few.
    """
    parts = [word.split() for word in words]
    spans: dict[int, tuple[int, int]] = {}
    for place in sorted(range(len(words)), key=lambda place: -len(parts[place])):
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, parts[place])) + r"(?!\w)"
        found = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)] if parts[place] else []
        ends = {end for _, end in spans.values()}
        free = [(start, end) for start, end in found if end not in ends]
        if not free:
            raise WordNotFoundError(
                f"the prompt {prompt!r} has the subject word {words[place]!r} {len(found)} time(s), but "
                f"{len(found) + 1} subject(s) are to be bound to it: name each in the prompt, e.g. 'a man and a man'"
            )
        spans[place] = free[0]
    return [spans[place] for place in range(len(words))]


def bind(tokenizer: PreTrainedTokenizerBase, prompt: str, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Token index of the LAST token of each span's word, counted with the start token at 0.

    A word of several tokens is known to the text encoder in full only at its last one. Raises `WordTruncatedError` when
    that token lies beyond `tokenizer.model_max_length`, and `WordNotFoundError` for a span outside the prompt.
    """
    indices = []
    last = tokenizer.model_max_length - 2  # the end token takes the last place
    # Of the whole prompt: after a word of letters the text before it has the same tokens alone, after C++ or an emoji,
    # which CLIP joins with the punctuation that follows, it may not.
    places = tokenizer(prompt, truncation=False, verbose=False, return_offsets_mapping=True).offset_mapping
    for start, end in spans:
        word = prompt[start:end]
        if not word.strip() or end > len(prompt):
            raise WordNotFoundError(f"the span [{start}, {end}) holds no word of the prompt {prompt!r}")
        index = max(token for token, (first, behind) in enumerate(places) if first < min(behind, end))
        if index > last:
            raise WordTruncatedError(
                f"the subject word {word!r} is token {index} of the prompt {prompt!r}, but the text encoder reads only "
                f"{tokenizer.model_max_length} tokens: move it to the front or shorten the prompt"
            )
        indices.append(index)
    return indices
