"""Typed errors of the `moa` package. Each names the field, file or word at fault and says what to do.

`except MoAError` catches every error that is the caller's to repair; anything else is a bug of this package.
"""

from __future__ import annotations


class MoAError(Exception):
    """Base of all errors raised by `moa` on purpose."""


class WordNotFoundError(MoAError, ValueError):
    """A subject's word does not occur (often enough) in the prompt."""


class WordTruncatedError(MoAError, ValueError):
    """A subject's word lies beyond the tokenizer's length limit, so no token is left to bind the subject to."""


class SubjectError(MoAError, ValueError):
    """A subject is unusable: empty image, wrong type, wrong number of features, NaN features."""


class SubjectCountError(SubjectError):
    """The list of subjects does not match the list of prompts."""


class ConditioningError(MoAError, ValueError):
    """A `MoAInput` does not fit the batch or the model it is given to."""


class UnsupportedBaseError(MoAError, ValueError):
    """The base model is of a kind this package does not support (SDXL, single-modality attention, ...)."""


class AdapterError(MoAError, ValueError):
    """An adapter folder is incomplete, damaged or of an unknown format."""


class AdapterGeometryError(AdapterError):
    """An adapter was trained for a base model of another geometry."""


class PipelineFolderError(MoAError, ValueError):
    """A pipeline folder or repository lacks a component or holds one of an unknown class."""


class EvaluationError(MoAError, ValueError):
    """An evaluation cannot start or go on: an input is missing, or two inputs do not belong together."""


class SuiteError(EvaluationError):
    """A suite declaration is wrong, or its subjects cannot be had; names the file and the field."""


class EvaluatorWeightsError(EvaluationError):
    """Weights of an evaluator (face embedder, CLIP) are missing or are not the file the protocol asks for."""


class ScoresError(EvaluationError):
    """A table of scores is incomplete, damaged, or cannot be compared with another one."""
