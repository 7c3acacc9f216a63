"""The files of the measuring models: there, the right ones, and readable, or an error that says the remedy. Nothing is
ever downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from moa.data import file_digest
from moa.errors import EvaluatorWeightsError

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)  # what libraries raise


def checked_digest(path: Path, sha256: str | None, remedy: str, setting: str | None) -> str:
    """`sha256:<hex>` of a weight file. Raises `EvaluatorWeightsError`, saying the remedy, when it is missing or not
    `sha256`. `setting` names another place for it, None where only the suite's declaration can."""
    if not path.is_file():
        elsewhere = f"with --{setting} (in a flow: --set evaluate.{setting}=PATH)" if setting else "in the suite"
        raise EvaluatorWeightsError(
            f"{path}: an evaluator's weights are missing: {remedy}, or name another place {elsewhere}"
        )
    found = file_digest(path)
    if sha256 and found != sha256:
        raise EvaluatorWeightsError(f"{path}: is {found}, but {sha256} is asked for: {remedy}")
    return found


@contextmanager
def reading(place: Path, remedy: str) -> Iterator[None]:
    """Whatever a library raises while it reads `place` becomes an `EvaluatorWeightsError` that names it."""
    try:
        yield
    except EvaluatorWeightsError:
        raise
    except UNREADABLE as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise EvaluatorWeightsError(f"{place}: cannot be read as a measuring model ({said}): {remedy}") from error
