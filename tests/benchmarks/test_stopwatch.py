"""What the benchmarks do before they measure on a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "_stopwatch.py"


@pytest.mark.parametrize(("device", "current"), [("cuda:1", [1]), ("cuda", [0]), ("cpu", [])])
def test_the_gpu_that_is_asked_for_is_the_current_one(monkeypatch, device, current):
    """Else the events of a time are recorded on another, and its peak of memory cannot be asked for."""
    spec = importlib.util.spec_from_file_location("stopwatch", FILE)
    stopwatch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stopwatch)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    stopwatch.settle(torch.device(device))
    assert chosen == current
