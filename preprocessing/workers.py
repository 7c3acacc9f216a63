"""Worker processes for what needs a CPU: drawing, decoding, cropping, encoding. Results come in the order of the items.

Processes are spawned (forking beside torch's threads can deadlock) and end with their parent, even when it is killed;
so are and do those that annotate (preprocessing/crew.py).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
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
        if (pool := self._pool) is None:
            return ([function(item) for item in batch] for batch in batches)

        def start(batch: list[T]) -> Callable[[], list[R]]:
            started = [pool.submit(function, item) for item in batch]
            return lambda: [future.result() for future in started]

        return in_order(batches, start, ahead=1)


def in_order(batches: Iterable[T], start: Callable[[T], Callable[[], R]], *, ahead: int) -> Iterator[R]:
    """The results of batches in their order, while `ahead` further ones are under way.

    `start(batch)` begins a batch and returns what waits for its result. An error of `batches` itself is raised in its
    turn, after the results of those that came before it.
    """
    waiting: deque[Callable[[], R]] = deque()
    for result in _started(batches, start):
        waiting.append(result)
        if len(waiting) > ahead:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _started(batches: Iterable[T], start: Callable[[T], Callable[[], R]]) -> Iterator[Callable[[], R]]:
    try:
        for batch in batches:
            yield start(batch)
    except Exception as error:
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed.result


@contextmanager
def worker_pool(workers: int | None, items: int) -> Iterator[Workers]:
    """Up to `workers` processes (default: one for each CPU) for a job of `items` items; stopped on the way out.

    Raises PreprocessingError when the system kills one of them, or there is not enough memory for an item.
    """
    count = min(workers or os.cpu_count() or 1, -(-items // ITEMS_PER_WORKER))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=follow_parent) if count > 1 else None
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


def follow_parent() -> None:
    """Make this process leave Ctrl-C to its parent and end with it, even when that is killed: a killed parent closes no
    queue, so its workers would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
