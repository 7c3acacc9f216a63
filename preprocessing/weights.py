"""Pretrained models for annotators: loads them, chooses the device, says what to do when they are missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from preprocessing.errors import MissingWeightsError, PreprocessingError

T = TypeVar("T")
R = TypeVar("R")


def choose_device(device: str) -> torch.device:
    """`auto` is the first GPU when there is one. Raises PreprocessingError for an unknown or absent device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise PreprocessingError(f"device {device!r} cannot be used here: {error}".splitlines()[0]) from error
    return chosen


def load_pretrained(load: Callable[..., T], model: str, revision: str | None, **options: Any) -> T:
    """`load(model, revision=..., **options)` of a transformers class; only safetensors are opened.

    Raises MissingWeightsError that names the model and the command that fetches it.
    """
    try:
        return load(model, revision=revision, **options)
    except (OSError, ValueError) as error:
        at = f" --revision {revision}" if revision else ""
        reason = str(error).strip().splitlines()[0]
        raise MissingWeightsError(
            f"{model}: the model cannot be loaded ({reason}).\n"
            f"Fetch it on a machine with a network: hf download {model}{at}\n"
            "or set `model` in the dataset declaration to a local folder with config.json and *.safetensors."
        ) from error


def in_batches(function: Callable[[list[T]], list[R]], values: list[T], size: int) -> list[R]:
    """`function` over slices of at most `size` values; a slice that does not fit into GPU memory is halved."""
    results: list[R] = []
    while len(results) < len(values):
        batch = values[len(results) : len(results) + size]
        try:
            results += function(batch)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            torch.cuda.empty_cache()
            size //= 2
    return results
