"""Work that must fit into the device's memory: as many items at a time as it takes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch


class MemoryBound:
    """Runs work on a batch, on half of it where memory runs out, and remembers how much fitted for the next batch."""

    def __init__(self) -> None:
        self.most = sys.maxsize

    def __call__(self, work: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> Iterator[tuple[Sequence, Any]]:
        """Yields `(part, work(part))` for consecutive parts of the items. Raises `torch.OutOfMemoryError` when a single
        one does not fit."""
        start = 0
        while start < len(items):
            part = items[start : start + self.most]
            fits, result = _attempt(work, part)
            if fits:
                yield part, result
                start += len(part)
            else:
                # Only here, outside of the handler, are the failed call's frames gone, and with them its tensors.
                self.most = len(part) // 2
                gc.collect()
                torch.cuda.empty_cache()


def _attempt(work: Callable[[Sequence[Any]], Any], part: Sequence[Any]) -> tuple[bool, Any]:
    try:
        return True, work(part)
    except torch.OutOfMemoryError:
        if len(part) == 1:
            raise
    return False, None
