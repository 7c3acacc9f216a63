"""Annotators at work: on one device in this process, on several in a process for each, with models of its own.

A process is given a batch of frames when it is free, and answers with what its annotators say of them; the frames stay
here. Batches come in their order, so the output does not depend on how many devices share the work. There is a pipe to
each process, and no executor: that of Python before 3.11.5 hangs where a process dies to which a batch is being written
(CPython's issue 94777), and none can be ended before it has done what it was given.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue

from preprocessing.annotators import Annotators, Describe, Described, annotated, computes
from preprocessing.config import DatasetConfig
from preprocessing.errors import PreprocessingError
from preprocessing.frame import Frame, Rejected
from preprocessing.samples import Annotated
from preprocessing.workers import follow_parent, in_order

Annotate = Callable[[Iterable[list[Frame | Rejected]]], Iterator[list[Annotated | Rejected]]]


@contextmanager
def annotating(config: DatasetConfig, devices: Sequence[str] | None, batches: int) -> Iterator[Annotate]:
    """Loads the annotators for `batches` batches; gives the function that annotates a stream of them.

    config: with its models located. devices: one named twice has two processes; None: every GPU, else the CPU. No more
    are used than there are batches, and none where nothing computes. Raises PreprocessingError for a device that is not
    here, MissingWeightsError, MissingDependencyError. The function raises what an annotator does, and
    PreprocessingError where the system kills a process.
    """
    chosen = _chosen(config, devices)[:batches]
    if len(chosen) > 1:
        with _crew(config, chosen) as annotate:
            yield annotate
    else:
        yield partial(map, partial(annotated, Annotators.load(config, chosen[0]).describe))


def _chosen(config: DatasetConfig, devices: Sequence[str] | None) -> Sequence[str]:
    if not computes(config):
        return ("cpu",)  # nobody will ask for it
    from preprocessing.devices import check_devices, devices_here

    check_devices(devices or ())
    return devices or devices_here()


@contextmanager
def _crew(config: DatasetConfig, devices: Sequence[str]) -> Iterator[Annotate]:
    """A process for each device, its models loaded, and a thread for each that waits for an answer."""
    from preprocessing.devices import share_of_threads

    threads = share_of_threads(len(devices))
    with ExitStack() as stack:
        waiting = stack.enter_context(ThreadPoolExecutor(len(devices)))  # ends after the processes it waits for
        processes = [stack.enter_context(_process(config, device, threads)) for device in devices]
        free: SimpleQueue[Describe] = SimpleQueue()
        for _ in waiting.map(lambda process: process([]), processes):
            pass
        for process in processes:
            free.put(process)

        def describe(frames: list[Frame]) -> list[Described]:
            process = free.get()
            try:
                return process(frames)
            finally:
                free.put(process)

        def start(loaded: list[Frame | Rejected]) -> Callable[[], list[Annotated | Rejected]]:
            return waiting.submit(annotated, describe, loaded).result

        yield partial(in_order, start=start, ahead=2 * len(devices) - 1)  # for each device the next one is there


@contextmanager
def _process(config: DatasetConfig, device: str, threads: int) -> Iterator[Describe]:
    """A process that describes frames on a device. It loads its models before it answers for the first time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, config, device, threads), daemon=True)
    process.start()
    theirs.close()  # it is held by the process alone, so its end is noticed here
    try:
        yield partial(_ask, ours, device)
    finally:
        process.terminate()
        process.join()


def _ask(process: Connection, device: str, frames: list[Frame]) -> list[Described]:
    try:
        process.send(frames)
        described, error, trace = process.recv()
    except (EOFError, OSError) as ended:
        described, error, trace = [], MemoryError(), repr(ended)
    if isinstance(error, MemoryError):
        raise PreprocessingError(
            f"{device}: the process that annotates on it had not enough memory or was killed, mostly for want of it "
            "(or a script without `if __name__ == '__main__'` started it). Each holds models of its own. Finished "
            "shards are kept: run again with fewer devices (--device names each; in flows CUDA_VISIBLE_DEVICES does)"
        ) from _InProcess(trace)
    if error is not None:
        raise error from _InProcess(trace)
    return described


class _InProcess(Exception):
    """The traceback of an error in a process, which does not travel with it."""


def _serve(parent: Connection, config: DatasetConfig, device: str, threads: int) -> None:
    """What a process does, until its parent ends it or is gone."""
    follow_parent()
    annotators: Annotators | None = None
    with suppress(EOFError, OSError):
        while True:
            frames = parent.recv()
            described: list[Described] = []
            error, trace = None, ""
            try:
                annotators = annotators or _load(config, device, threads)
                described = annotators.describe(frames)
            except Exception as raised:
                error, trace = _able_to_travel(raised), traceback.format_exc()
            parent.send((described, error, trace))


def _able_to_travel(error: Exception) -> Exception:
    """The error, or its name and words where it cannot be made again in another process."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))  # as the pipe does
    except Exception:
        return PreprocessingError(f"{type(error).__name__}: {error}")
    return error


def _load(config: DatasetConfig, device: str, threads: int) -> Annotators:
    from preprocessing.devices import keep_to

    keep_to(device, threads)
    return Annotators.load(config, device)
