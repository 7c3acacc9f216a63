"""Worker processes for what needs a CPU: drawing, decoding, cropping, encoding. Results come in the order of the items.

Processes are spawned (forking beside torch's threads can deadlock) and end with their parent, even when it is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from preprocessing.errors import PreprocessingError

T = TypeVar("T")
R = TypeVar("R")

FEWER = "with fewer --workers (flows have one for each CPU: `python -m preprocessing` makes the same shards)"
ITEMS_PER_WORKER = 64  # below this a process costs more to start than it saves


class Workers:
    """Maps functions over batches in `pool`, or in this process when there is none."""

    def __init__(self, pool: ProcessPoolExecutor | None) -> None:
        self._pool = pool

    def map(self, function: Callable[[T], R], batches: Iterable[list[T]]) -> Iterator[list[R]]:
        """Results batch by batch; the next batch, and never more, is under way while the caller works on this one."""
        if self._pool is None:
            for batch in batches:
                yield [function(item) for item in batch]
            return
        waiting: list[Future[R]] | None = None
        for batch in batches:
            started = [self._pool.submit(function, item) for item in batch]
            if waiting is not None:
                yield [future.result() for future in waiting]
            waiting = started
        if waiting is not None:
            yield [future.result() for future in waiting]


@contextmanager
def worker_pool(workers: int | None, items: int) -> Iterator[Workers]:
    """Up to `workers` processes (default: one for each CPU) for a job of `items` items; stopped on the way out.

    Raises PreprocessingError when the system kills one of them, or there is not enough memory for an item.
    """
    count = min(workers or os.cpu_count() or 1, -(-items // ITEMS_PER_WORKER))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent) if count > 1 else None
    try:
        yield Workers(pool)
    except MemoryError as error:
        where = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
        raise PreprocessingError(
            f"there is not enough memory{where}. Finished shards are kept: run again, {FEWER}, or without this image"
        ) from error
    except BrokenProcessPool as error:
        raise PreprocessingError(
            f"a worker process was killed, mostly for want of memory. Finished shards are kept: run again, {FEWER}"
        ) from error
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A killed parent closes no queue, so its workers would wait for ever: watch it instead."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
