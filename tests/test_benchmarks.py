"""The benchmarks are not run by tests, but what they count without a GPU has to go on counting."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.conftest import PROJECT


@pytest.fixture
def training_step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [*sys.path])  # it adds the project's root, for this test alone
    path = PROJECT / "benchmarks/training_step.py"
    spec = importlib.util.spec_from_file_location("training_step", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_training_step_is_counted_on_tensors_without_values(training_step: ModuleType) -> None:
    found = training_step.counts(training_step.MoA, 4, 2)
    assert 0 < found["gradients and moments"] < found["weights"], "the prior is not trained"
    parts = (found[name] for name in ("weights", "gradients and moments", "saved"))
    assert found["saved"] > 0.1 and found["total"] == pytest.approx(sum(parts), abs=2e-3)
    assert 100 < found["gflops"] < 130
