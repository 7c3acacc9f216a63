"""Pretrained models for annotators: loads them, says what to do when they are missing, gives them as much as fits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from preprocessing.errors import MissingWeightsError

T = TypeVar("T")
R = TypeVar("R")


def load_pretrained(load: Callable[..., T], folder: str, **options: Any) -> T:
    """`load(folder, **options)` of a transformers class: never over the network, and only safetensors are opened.

    Raises MissingWeightsError that names the folder.
    """
    try:
        return load(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingWeightsError(
            f"{folder}: cannot be loaded ({reason}); a model folder holds config.json and *.safetensors: fetch it again"
        ) from error


def in_batches(function: Callable[[list[T]], list[R]], values: list[T], size: int) -> list[R]:
    """`function` over slices of at most `size` values; a slice that does not fit into GPU memory is halved."""
    results: list[R] = []
    while len(results) < len(values):
        try:
            results += function(values[len(results) : len(results) + size])
            continue
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        # Only here, outside of the handler, are the failed call's frames gone, and with them its tensors.
        gc.collect()
        torch.cuda.empty_cache()
        size //= 2
    return results
