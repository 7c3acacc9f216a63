"""The work of an evaluation on several devices: one process for each, and each takes the next item when it is free.

Every item writes its own files before it counts as done, so a failure loses the item it names and nothing else: the
same command goes on from there. Processes are spawned (CUDA does not survive a fork), which takes seconds, so they stay
from one work to the next; they end with their parent. `cpu` may be given several times: processes of fewer threads do
more than one of many.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import torch

from moa.errors import EvaluationError

CPU_PROCESSES = 8  # each holds a pipeline of its own, in twice the memory of its files (they may be in half precision)
LIBRARIES = 1 << 30  # bytes of a process without a model
Work = Callable[[Any], Any]  # an item in, its result out; both cross process boundaries when there are several devices


def devices_here(pipeline: Path) -> tuple[str, ...]:
    """Every GPU of this machine, else a process for each of its CPUs, up to CPU_PROCESSES and to as many as the free
    memory holds of this pipeline folder."""
    gpus = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    weights = sum(file.stat().st_size for file in pipeline.rglob("*.safetensors"))
    room = psutil.virtual_memory().available // (2 * weights + LIBRARIES)
    return gpus or ("cpu",) * max(1, min(CPU_PROCESSES, torch.get_num_threads(), room))


def check_devices(devices: Sequence[str]) -> None:
    """Raises `EvaluationError` naming a device that is none, or a GPU that this machine has not."""
    for device in devices:
        try:
            found = torch.device(device)
        except RuntimeError as error:
            raise EvaluationError(f"device {device!r} is none; write cpu, cuda or cuda:0") from error
        if found.type == "cuda" and (found.index or 0) >= (gpus := torch.cuda.device_count()):
            raise EvaluationError(f"device {device!r}: this machine has {gpus} GPUs that PyTorch can use")


class Crew:
    """The devices of an evaluation and, from the first item on that needs one, a process for each.

    with Crew(("cuda:0", "cuda:1")) as crew:
        for item, result in crew.work(open_work, items, name):
            ...

    A crew of one device has no process and needs no `with`.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self._processes: dict[str, ProcessPoolExecutor] = {}
        self._works = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._processes.values():
            process.shutdown(wait=True, cancel_futures=True)

    def work(
        self, open_work: Callable[[str], Work], items: Sequence[Any], name: Callable[[Any], str]
    ) -> Iterator[tuple[Any, Any]]:
        """Yields `(item, result)` as they are finished; with one device or item in this process and in order.

        `open_work(device)` is called once in each process that gets an item and does what is slow to start (loading a
        model); it must be picklable. What the process had open before is let go. `name(item)` names an item in errors.
        A failure lets the items under way finish, gives out no more, and raises `EvaluationError` naming device and
        item.
        """
        if len(self.devices) == 1 or len(items) < 2:
            yield from _in_this_process(self.devices[0], open_work, items, name)
            return
        self._works += 1
        processes = {device: self._process(device) for device in _distinct(self.devices)[: len(items)]}
        yield from _in_processes(processes, partial(_work, self._works, open_work), items, name)

    def _process(self, device: str) -> ProcessPoolExecutor:
        if device not in self._processes:
            threads = max(1, torch.get_num_threads() // len(self.devices))
            context = multiprocessing.get_context("spawn")
            self._processes[device] = ProcessPoolExecutor(
                1, mp_context=context, initializer=_prepare, initargs=(device, threads)
            )
        return self._processes[device]


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
    processes: dict[str, ProcessPoolExecutor], work: Work, items: Sequence[Any], name: Callable[[Any], str]
) -> Iterator[tuple[Any, Any]]:
    waiting = iter(items)
    busy: dict[Future, tuple[str, Any]] = {}
    failure: EvaluationError | None = None

    def give(device: str) -> None:
        nonlocal failure
        for item in waiting:
            try:
                busy[processes[device].submit(work, item)] = (device, item)
            except BrokenProcessPool as error:  # it ended while it had nothing to do
                failure = failure or _failed(device, name(item), error)
                failure.__cause__ = failure.__cause__ or error
            return

    for device in processes:
        if failure is None:
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
        said = (
            "its process ended, mostly for want of memory (fewer devices need less; on CPUs OMP_NUM_THREADS says how "
            "many processes there are) or because a script without `if __name__ == '__main__'` started it"
        )
    return EvaluationError(f"{device}: {item}: {said}. What was finished is kept; the same command goes on from there")


_here: dict[str, Any] = {}  # of a worker process: its device, the number of the work that is open, and that work


def _prepare(device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _here["device"] = device.partition("#")[0]
    if _here["device"].startswith("cuda:"):
        torch.cuda.set_device(_here["device"])  # or each process would hold memory on the first GPU, too
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _work(number: int, open_work: Callable[[str], Work], item: Any) -> Any:
    if _here.get("number") != number:
        _here.pop("work", None)  # before the next is opened: both together might not fit
        _here["number"] = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _here.update(work=open_work(_here["device"]), number=number)
    return _here["work"](item)


def _end_with_parent() -> None:
    """A killed parent closes no queue, so its workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
