"""Work on several devices: every item once, failures with device and item, results kept."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from operator import getitem
from pathlib import Path
from pydoc import locate
from types import SimpleNamespace

import psutil
import pytest
import torch

from moa.errors import EvaluationError
from moa.evaluation import workers
from moa.evaluation.workers import CPU_PROCESSES, Crew, devices_here


def test_one_device_works_in_this_process_and_opens_once():
    opened = []
    done = Crew(["cpu"]).work(lambda device: opened.append(device) or math.sqrt, [1, 4, 9], str)
    assert list(done) == [(1, 1), (4, 2), (9, 3)] and opened == ["cpu"]


def test_nothing_to_do_opens_nothing():
    assert list(Crew(["cpu", "cpu"]).work(pytest.fail, [], str)) == []


def test_a_failure_names_device_and_item_after_the_finished_ones():
    done = Crew(["cpu"]).work(lambda _: math.sqrt, [4, -1, 9], "item {}".format)
    assert next(done) == (4, 2)
    with pytest.raises(EvaluationError, match=r"^cpu: item -1: ValueError: .*What was finished is kept"):
        next(done)


# In the tests below a "device" is the name of a function of the standard library, which its process then applies to the
# items: a process of its own cannot import the functions of a test.
ASK = partial(getitem, {"math.sqrt": eval, "math.fabs": eval})  # opens what tells about its process


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    """Two processes, started where torch had six threads. No test kills one."""
    with Crew(["math.sqrt", "math.fabs"]) as crew:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.get_num_threads", lambda: 6)
            assert len(list(crew.work(ASK, ["0", "0"], str))) == 2
        yield crew


def test_several_devices_do_every_item_once(crew):
    done = list(crew.work(locate, [4.0, 9.0, 16.0, 25.0], str))
    assert sorted(item for item, _ in done) == [4, 9, 16, 25]
    assert all(result in (item, math.sqrt(item)) for item, result in done)


def test_processes_share_the_threads(crew):
    counts = crew.work(ASK, ["__import__('torch').get_num_threads()"] * 4, str)
    assert [count for _, count in counts] == [3] * 4


def test_a_process_takes_no_memory_of_another_gpu(monkeypatch):
    chosen = []
    monkeypatch.setattr(workers, "_here", {})
    monkeypatch.setattr(workers, "threading", SimpleNamespace(Thread=lambda **_: SimpleNamespace(start=lambda: None)))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cuda:1", "cuda:1#2", "cuda", "cpu"):
        workers._prepare(device, torch.get_num_threads())
    assert chosen == ["cuda:1"] * 2


def test_processes_stay_for_the_next_work_which_is_opened_in_them(crew):
    ask = ["__import__('os').getpid()"] * 4
    first = {process for _, process in crew.work(ASK, ask, str)}
    roots = crew.work(partial(getitem, dict.fromkeys(crew.devices, math.cbrt)), [8, 27, 64], str)
    assert sorted((item, round(root)) for item, root in roots) == [(8, 2), (27, 3), (64, 4)]
    again = {process for _, process in crew.work(ASK, ask, str)}
    assert again == first and len(first) == 2 and os.getpid() not in first


def test_a_failing_process_lets_the_others_finish_what_they_do(crew):
    with pytest.raises(EvaluationError, match=r"^math.sqrt: -\d: ValueError: .*What was finished is kept"):
        list(crew.work(locate, [-1, -2, -3, -4, -5, -6], str))


def test_a_killed_process_is_named_with_its_item():
    killed = r"^os._exit(#2)?: \d: its process ended, mostly for want of memory \(fewer devices need less"
    with Crew(["os._exit", "os._exit"]) as crew, pytest.raises(EvaluationError, match=killed):
        list(crew.work(locate, [3, 4], str))


def test_a_process_killed_while_it_has_nothing_to_do_is_named_with_what_it_is_given_next():
    with Crew(["builtins.eval"] * 2) as crew:
        ids = {process for _, process in crew.work(locate, ["__import__('os').getpid()"] * 4, str)}
        victim = next(child for child in multiprocessing.process.active_children() if child.pid in ids)
        victim.kill()
        victim.join()
        with pytest.raises(EvaluationError, match=r"^builtins.eval(#2)?: \d: its process ended"):
            list(crew.work(locate, ["1", "2", "3", "4"], str))


@pytest.mark.parametrize(
    ("gpus", "cpus", "expected"),
    [
        (3, 2, ("cuda:0", "cuda:1", "cuda:2")),
        (0, 1, ("cpu",)),
        (0, 2, ("cpu", "cpu")),
        (0, 64, ("cpu",) * CPU_PROCESSES),
    ],
)
def test_every_gpu_takes_part_or_every_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: int, cpus: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cpus)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    assert devices_here(tmp_path) == expected


@pytest.mark.parametrize(("free", "processes"), [(64, 4), (23, 3), (8, 1), (1, 1)])
def test_no_more_processes_than_the_memory_holds_models(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, processes: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free << 30))
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        with open(tmp_path / part / "model.safetensors", "wb") as file:
            file.truncate(3 << 29)  # 1.5 GiB, of which the disk sees nothing
    assert devices_here(tmp_path) == ("cpu",) * processes
