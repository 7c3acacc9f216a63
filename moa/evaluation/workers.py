"""The work of an evaluation on several devices: one process for each, and each takes the next item when it is free.

Every item writes its own files before it counts as done, so a failure loses the item it names and nothing else: the
same command goes on from there. Processes are spawned (CUDA does not survive a fork) and end with their parent. `cpu`
may be given several times: on models this small, processes of fewer threads do more than one of many.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from moa.errors import EvaluationError

CPU_PROCESSES = 8  # each holds a pipeline of its own
Work = Callable[[Any], Any]  # an item in, its result out; both cross process boundaries when there are several devices


def devices_here() -> tuple[str, ...]:
    """Every GPU of this machine, else a process for each of its CPUs, up to CPU_PROCESSES."""
    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return gpus or ("cpu",) * min(CPU_PROCESSES, torch.get_num_threads())


def on_devices(
    devices: Sequence[str], open_work: Callable[[str], Work], items: Sequence[Any], name: Callable[[Any], str]
) -> Iterator[tuple[Any, Any]]:
    """Yields `(item, result)` as they are finished; with one device in this process and in order.

    `open_work(device)` is called once in each process that gets an item and does what is slow to start (loading a
    model); it must be picklable. `name(item)` names an item in errors. A failure lets the items under way finish, gives
    out no more, and raises `EvaluationError` naming device and item.
    """
    if len(devices) == 1 or len(items) < 2:
        yield from _in_this_process(devices[0], open_work, items, name)
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // len(devices))
    crew = {
        device: ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(open_work, device, threads))
        for device in _distinct(devices)[: len(items)]
    }
    try:
        yield from _in_processes(crew, items, name)
    finally:
        for executor in crew.values():
            executor.shutdown(wait=True, cancel_futures=True)


def _in_this_process(
    device: str, open_work: Callable[[str], Work], items: Sequence[Any], name: Callable[[Any], str]
) -> Iterator[tuple[Any, Any]]:
    work: Work | None = None
    for item in items:
        try:
            work = work or open_work(device)
            result = work(item)
        except Exception as error:
            raise _failed(device, name(item), error) from error
        yield item, result


def _in_processes(
    crew: dict[str, ProcessPoolExecutor], items: Sequence[Any], name: Callable[[Any], str]
) -> Iterator[tuple[Any, Any]]:
    waiting = iter(items)
    busy: dict[Future, tuple[str, Any]] = {}
    failure: EvaluationError | None = None

    def give(device: str) -> None:
        for item in waiting:
            busy[crew[device].submit(_work, item)] = (device, item)
            return

    for device in crew:
        give(device)
    while busy:
        for future in wait(busy, return_when=FIRST_COMPLETED).done:
            device, item = busy.pop(future)
            if error := future.exception():
                failure = failure or _failed(device, name(item), error)
                failure.__cause__ = failure.__cause__ or error
            else:
                yield item, future.result()
            if failure is None:
                give(device)
    if failure:
        raise failure


def _distinct(devices: Sequence[str]) -> list[str]:
    """One name for each process; two processes may share a device, e.g. `("cpu", "cpu")`."""
    return [
        f"{device}#{devices[:n].count(device) + 1}" if device in devices[:n] else device
        for n, device in enumerate(devices)
    ]


def _failed(device: str, item: str, error: BaseException) -> EvaluationError:
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, BrokenProcessPool):
        said = "its process was killed, mostly for want of memory"
    return EvaluationError(f"{device}: {item}: {said}. What was finished is kept; the same command goes on from there")


_opened: dict[str, Any] = {}  # of a worker process: how to open its work, and the work once it is open


def _prepare(open_work: Callable[[str], Work], device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _opened.update(open=open_work, device=device.partition("#")[0])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(item: Any) -> Any:
    if "work" not in _opened:
        _opened["work"] = _opened["open"](_opened["device"])
    return _opened["work"](item)


def _end_with_parent() -> None:
    """A killed parent closes no queue, so its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
