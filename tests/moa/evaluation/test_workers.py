"""Work on several devices: every item once, failures with device and item, results kept."""

from __future__ import annotations

import math
from pydoc import locate

import pytest
import torch

from moa.errors import EvaluationError
from moa.evaluation.workers import CPU_PROCESSES, devices_here, on_devices


def test_one_device_works_in_this_process_and_opens_once():
    opened = []
    done = on_devices(["cpu"], lambda device: opened.append(device) or math.sqrt, [1, 4, 9], str)
    assert list(done) == [(1, 1), (4, 2), (9, 3)] and opened == ["cpu"]


def test_nothing_to_do_opens_nothing():
    assert list(on_devices(["cpu", "cpu"], pytest.fail, [], str)) == []


def test_a_failure_names_device_and_item_after_the_finished_ones():
    done = on_devices(["cpu"], lambda _: math.sqrt, [4, -1, 9], "item {}".format)
    assert next(done) == (4, 2)
    with pytest.raises(EvaluationError, match=r"^cpu: item -1: ValueError: .*What was finished is kept"):
        next(done)


# In the tests below a "device" is the name of a function of the standard library, which its process then applies to the
# items: a process of its own cannot import the functions of a test.
def test_several_devices_do_every_item_once():
    done = list(on_devices(["math.ceil", "math.floor"], locate, [0.5, 1.5, 2.5, 3.5], str))
    assert sorted(item for item, _ in done) == [0.5, 1.5, 2.5, 3.5]
    assert all(result in (item - 0.5, item + 0.5) for item, result in done)


def test_processes_share_the_threads(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    # builtins.eval gives the work that counts, and the work counts the threads of its process.
    counts = on_devices(["builtins.eval"] * 2, locate, ["__import__('torch').get_num_threads()"] * 4, str)
    assert [count for _, count in counts] == [3] * 4


def test_a_failing_process_lets_the_others_finish_what_they_do():
    with pytest.raises(EvaluationError, match=r"^math.sqrt: -\d: ValueError: .*What was finished is kept"):
        list(on_devices(["math.sqrt", "math.fabs"], locate, [-1, -2, -3, -4, -5, -6], str))


def test_a_killed_process_is_named_with_its_item():
    with pytest.raises(EvaluationError, match=r"^os._exit(#2)?: \d: its process was killed, mostly for want of memory"):
        list(on_devices(["os._exit", "os._exit"], locate, [3, 4], str))


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
    monkeypatch: pytest.MonkeyPatch, gpus: int, cpus: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cpus)
    assert devices_here() == expected
