"""Loader processes prepare samples ahead of the device; one that dies or hangs ends the run with a typed error.

with watched_loaders():
    for batch in load(samples, lists, workers=4, pin_memory=True, collate=collate):
        ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from moa.distributed import die_with_parent
from moa.errors import LoaderError

# Python 3.14 would start them anew, which imports all packages again, for each validation too: half a minute.
START = "fork" if sys.platform == "linux" else None  # None: as Python does
PATIENCE = 300.0  # seconds without a batch after which a loader process counts as hung; ranks wait twice as long


def load(
    samples: Dataset, lists: Iterable[list[int]], *, workers: int, pin_memory: bool, collate: Callable[[list], Any]
) -> Iterator[Any]:
    """`collate([samples[i] for i in list])` for each list, prepared by `workers` processes, in this one if 0."""
    loader = DataLoader(
        samples,
        batch_sampler=lists,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=START if workers else None,
        worker_init_fn=_settle,
        pin_memory=pin_memory,
        timeout=PATIENCE if workers else 0,
        generator=torch.Generator(),  # so that it leaves the global generator alone
    )
    return iter(loader)


@contextmanager
def watched_loaders() -> Iterator[None]:
    """Raises `LoaderError` when a loader process of the block ended or hung.

    PyTorch says so by a `RuntimeError`, wherever this process is at that moment, by an error in a signal handler.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker (pid"):
            problem = "ended; memory of the machine may have run out: lower num_workers"
        elif str(error).startswith("DataLoader timed out"):
            problem = f"gave no batch for {PATIENCE:.0f} seconds: is the storage of the shards there?"
        else:
            raise
        raise LoaderError(f"a loader process {problem}. The same command continues from the last checkpoint") from error


def _settle(_: int) -> None:
    """In a loader process: one thread, and a process group of its own, so that a SIGTERM to the rank's group does not
    take the samples of the step that the rank is to finish first. It ends with the rank, however that ends."""
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.setpgid(0, 0)
    die_with_parent()
