"""How the benchmarks measure, and what they do before on a GPU."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "_stopwatch.py"


@pytest.fixture
def stopwatch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stopwatch", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("device", "current"), [("cuda:1", [1]), ("cuda", [0]), ("cpu", [])])
def test_the_gpu_that_is_asked_for_is_the_current_one(monkeypatch, stopwatch, device, current):
    """Else the events of a time are recorded on another, and its peak of memory cannot be asked for."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    stopwatch.settle(torch.device(device))
    assert chosen == current


def test_ways_take_turns_and_the_first_round_does_not_count(stopwatch):
    called = []
    ways = {name: partial(called.append, name) for name in ("a", "b")}
    taken = stopwatch.take_turns(ways, 3, torch.device("cpu"))
    assert called == ["a", "b"] * 4 and {name: len(values) for name, values in taken.items()} == {"a": 3, "b": 3}


def test_shares_are_of_the_same_round(stopwatch):
    """A machine that is slower in some rounds changes no share; shares of medians would be 0.5."""
    taken = {"base": [1.0, 2.0, 4.0], "ours": [0.75, 1.5, 1.0]}
    assert stopwatch.medians(taken) == {"base": 2.0, "ours": 1.0}
    assert stopwatch.shares(taken, "base") == {"base": 1.0, "ours": 0.75}
