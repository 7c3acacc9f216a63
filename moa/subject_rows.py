"""Which subject goes to which prompt and to which of its tokens, and the rows of the batch that come of it.

Rows are ordered as diffusers orders them: the images of a prompt together, and under guidance the unconditional half
first. It has no subjects and runs the mixture, as it did in training: guidance then amplifies what prompt and subjects
say, not what the mixture has learnt of its training pictures. Both rows of a prompt without subjects run the prior
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moa.binding import bind, find_words
from moa.conditioning import MoAInput
from moa.errors import SubjectCountError, SubjectError
from moa.expert_cache import ExpertCache
from moa.recorder import Recorder
from moa.subjects import Subject


def group_subjects(subjects: Any, prompts: int, single: bool) -> list[list[Subject]]:
    """One list of subjects for each of the prompts; `single`: a prompt that is not in a list.

    Raises `SubjectCountError` when they do not match.
    """
    if isinstance(subjects, Subject):
        raise SubjectCountError(f"subjects is a single Subject ({subjects.word!r}): give a list, [Subject(...)]")
    if not isinstance(subjects, Sequence | None):
        raise SubjectCountError(
            f"subjects is a {type(subjects).__name__}: give a list of Subject (image and mask_image go by their names)"
        )
    if not subjects:
        return [[] for _ in range(prompts)]
    groups = [list(subjects)] if single and all(isinstance(s, Subject) for s in subjects) else list(subjects)
    if not all(isinstance(g, list | tuple) and all(isinstance(s, Subject) for s in g) for g in groups):
        raise SubjectCountError(
            "for one prompt give a list of Subject, for a list of prompts one list of Subject each (it may be empty)"
        )
    if len(groups) != prompts:
        raise SubjectCountError(f"{prompts} prompt(s) but {len(groups)} list(s) of subjects: give one per prompt")
    return [list(group) for group in groups]


def find_tokens(
    tokenizer: PreTrainedTokenizerBase, prompt: str, words: Sequence[str], subjects: Sequence[Subject]
) -> list[int]:
    """Token index of each subject of a prompt: its position, or that of its word in `words`, as the prompt spells it.

    Raises `WordNotFoundError`, `WordTruncatedError` and, for a position that is no token of the text encoder's input,
    `SubjectError`.
    """
    named = [word for word, subject in zip(words, subjects, strict=True) if subject.position is None]
    found = iter(bind(tokenizer, prompt, find_words(prompt, named)))
    tokens = [next(found) if s.position is None else s.position for s in subjects]
    check_tokens(tokens, subjects, last=tokenizer.model_max_length - 2)  # the end token takes the last place
    return tokens


def given_tokens(subjects: Sequence[Subject], length: int) -> list[int]:
    """Token index of each subject of prompt embeddings of `length` tokens: its position, as they hold no words."""
    for subject in subjects:
        if subject.position is None:
            raise SubjectError(
                f"subject {subject.word!r}: prompt_embeds hold no words to find it in, give its position, or take "
                "bind_subjects(prompt, subjects), which finds it"
            )
    tokens = [subject.position for subject in subjects if subject.position is not None]
    check_tokens(tokens, subjects, last=length - 1)
    return tokens


def check_tokens(tokens: Sequence[int], subjects: Sequence[Subject], last: int) -> None:
    """Raises `SubjectError` unless each subject has a token of its own between 1 and `last`."""
    for subject, token in zip(subjects, tokens, strict=True):
        if not 0 < token <= last:
            raise SubjectError(f"subject {subject.word!r}: position {token} is not a token between 1 and {last}")
        if tokens.count(token) > 1:
            raise SubjectError(f"subject {subject.word!r}: another subject is bound to token {token} as well")


def input_rows(
    tokens: Sequence[Sequence[int]],
    features: Tensor,
    *,
    device: torch.device,
    images_per_prompt: int,
    guided: bool,
    recorder: Recorder | None,
    cache: ExpertCache,
) -> MoAInput:
    """The `MoAInput` of one call, on `device`, from the tokens of each prompt's subjects and the features [n, F], on
    the CPU, of all subjects in order."""
    slots = max(map(len, tokens))
    positions = torch.tensor([[*row, *[-1] * (slots - len(row))] for row in tokens])
    filled = positions >= 0
    placed = features.new_zeros(*positions.shape, features.shape[-1])
    placed[filled] = features
    rows = torch.arange(len(tokens)).repeat_interleave(images_per_prompt)
    positions, active = positions[rows], filled.any(dim=1)[rows]
    if guided:
        rows, active = torch.cat([rows] * 2), torch.cat([active] * 2)
        positions = torch.cat([torch.full_like(positions, -1), positions])
    return MoAInput(placed[rows], positions, active, recorder, cache, guided).to(device)
