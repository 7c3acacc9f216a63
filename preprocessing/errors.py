"""What can go wrong: `PreprocessingError` stops a run and says what to do, `Rejection` drops one image and says why."""

from __future__ import annotations

from typing import Literal, get_args

RejectionReason = Literal[
    "unreadable",
    "too_small",
    "too_large",
    "no_person",
    "no_face",
    "no_word",
    "word_mask_mismatch",
    "truncated_caption",
    "bad_annotation",
]
REJECTION_REASONS: tuple[str, ...] = get_args(RejectionReason)


class PreprocessingError(Exception):
    """Base of everything that ends a preprocessing run; the message names the file or field and the way out."""


class ConfigError(PreprocessingError):
    """A dataset declaration cannot be used: syntax, unknown field, value outside its range."""


class SourceError(PreprocessingError):
    """The images cannot be listed (no such folder, no images in it, no number in a file name that needs one), or one
    that could be read then cannot be read any more."""


class MissingDependencyError(PreprocessingError):
    """An annotator needs a Python package that is not installed."""


class MissingWeightsError(PreprocessingError):
    """An annotator's model is not on this machine."""


class OutputError(PreprocessingError):
    """The output folder belongs to another dataset, is in use, or cannot be written."""


class ShardError(PreprocessingError):
    """A written dataset is incomplete or damaged; names the file."""


class TooManyRejectedError(PreprocessingError):
    """More images were dropped than the caller allows; the finished shards are kept, the manifest is withheld."""


class Rejection(Exception):
    """This one image is dropped, for a reason of datasets/FORMAT.md; `detail` is for people."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
