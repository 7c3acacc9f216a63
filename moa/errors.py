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


class PersonNotFoundError(SubjectError):
    """A photograph shows no person, so there is nothing to cut out of it."""


class PreparerWeightsError(MoAError, ValueError):
    """The segmentation model that is to cut people out of photographs is missing or of another kind."""


class SubjectCountError(SubjectError):
    """The list of subjects does not match the list of prompts."""


class ConditioningError(MoAError, ValueError):
    """A `MoAInput` does not fit the batch or the model it is given to."""


class UnsupportedBaseError(MoAError, ValueError):
    """The base model is of a kind this package does not support (SDXL, single-modality attention, ...)."""


class AdapterError(MoAError, ValueError):
    """An adapter folder is incomplete, damaged or of an unknown format, or cannot be written."""


class AdapterGeometryError(AdapterError):
    """An adapter was trained for a base model of another geometry."""


class PipelineFolderError(MoAError, ValueError):
    """A pipeline folder or repository lacks a component or holds one of an unknown class, or cannot be written."""


class PipelineOptionError(MoAError, TypeError):
    """A pipeline was loaded or saved with an option or component it does not have, or without one it needs."""


class EvaluationError(MoAError, ValueError):
    """An evaluation cannot start or go on: an input is missing, or two inputs do not belong together."""


class SuiteError(EvaluationError):
    """A suite declaration is wrong, or its subjects cannot be had; names the file and the field."""


class EvaluatorWeightsError(EvaluationError):
    """Weights of an evaluator (face embedder, CLIP) are missing or are not the file the protocol asks for."""


class ScoresError(EvaluationError):
    """A table of scores is incomplete, damaged, or cannot be compared with another one."""


class TrainConfigError(MoAError, ValueError):
    """A training configuration is unreadable, has an unknown or bad field, or does not fit the run or the machine."""


class ConfigChangedError(TrainConfigError):
    """A run folder holds checkpoints of another configuration; the message lists the differing keys."""


class MissingInputError(MoAError, FileNotFoundError):
    """A folder or file that training needs (base model, image encoder, shards, warm-start adapter) is not there."""


class ShardDataError(MoAError, ValueError):
    """A shard folder is of an unknown format, lacks a shard, or a shard's bytes are not what its manifest says."""


class LoaderError(MoAError, ChildProcessError):
    """A process that loads samples ended or hung."""


class RunFolderError(MoAError, OSError):
    """A run folder is in use by another training, or cannot be written."""


class ModelFolderError(MoAError, OSError):
    """A folder of a model is incomplete, damaged, or holds weights in a format that is not read."""


class LatentCacheError(MoAError, OSError):
    """The cache of latents could not be written, or holds a file that is not the one its manifest names."""


class CheckpointError(MoAError, OSError):
    """A checkpoint could not be written or read."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that could be read is not what was saved: a file is missing, cut or changed."""


class NonFiniteError(MoAError, ArithmeticError):
    """Too many steps in a row gave a loss or gradient that is not a number."""


class HubError(MoAError):
    """Publishing or downloading failed; the message names the repository and the endpoint, never the token."""


class NothingToPublishError(HubError, FileNotFoundError):
    """The folder to publish is missing, is no pipeline folder, lacks its adapter, or cannot be read."""


class UnsafeFileError(HubError, ValueError):
    """The folder holds what must not be published: a pickle, or adapter bytes its manifest does not know."""


class LicenceRefusedError(HubError, PermissionError):
    """The licence terms of a model were not accepted by the person who publishes it."""


class MissingTokenError(HubError, PermissionError):
    """Writing to a Hub beyond this machine needs an access token."""


class AccessDeniedError(HubError, PermissionError):
    """The Hub refused the token, or the token may not do this."""


class HubOfflineError(HubError, ConnectionError):
    """A Hub beyond this machine was asked for while HF_HUB_OFFLINE is set."""


class HubUnavailableError(HubError, ConnectionError):
    """The Hub did not answer, or answered with server errors, until the retries were used up."""


class HubUntrustedError(HubError, ConnectionError):
    """The Hub's certificate is of an authority that this machine does not trust."""


class HubStorageError(HubError):
    """The Hub has no room left, may not use its own files, or has lost some: a person has to mend that, so nothing is
    tried again."""


class XetUnavailableError(HubError, ConnectionError):
    """The Hub has no xet storage while the client insists on it."""


class RepositoryMissingError(HubError, LookupError):
    """The Hub has no such repository, revision or file."""


class RepositoryConflictError(HubError):
    """Somebody else moved the branch or holds the tag; nothing was overwritten."""


class PublicationMismatchError(HubError):
    """Files downloaded from the Hub are not the files that were published."""


class StoreError(HubError):
    """The local Hub's storage refuses a request. `kind` is the reason as the protocol knows it, see `moa.hub.store`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
