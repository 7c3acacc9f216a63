"""The baseline of benchmarks/attention_maps.py computes what it is compared with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from moa.backward import subject_columns

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "attention_maps.py"


def test_the_columns_that_autograd_keeps_are_ours(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the benchmark appends to
    spec = importlib.util.spec_from_file_location("attention_maps", FILE)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    q, k = (torch.randn(2, 3, n, 4).double().requires_grad_() for n in (5, 6))
    given, weights = (torch.tensor([[2, 5], [1, 0]]), torch.randn(2, 1, 1, 6).double(), 0.7), torch.randn(2, 2, 5)
    ours, theirs = (columns(q, k, *given) for columns in (subject_columns, benchmark.kept_columns))
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((columns * weights).sum(), (q, k)) for columns in (ours, theirs)]
    torch.testing.assert_close(*gradients)
