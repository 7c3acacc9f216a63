"""The CPU that measures: its name, and the form in which it computes a vision tower fastest."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation


def processor_name() -> str:
    """The processor's name, where Linux tells it, else its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def for_processor(model: nn.Module, processor: str, vectors: str) -> nn.Module:
    """The model, changed in place, for forward passes without gradients on a processor of this name.

    vectors: its widest vector unit as PyTorch names it, `torch.backends.cpu.get_cpu_capability()`. oneDNN's linear
    layers pack their weights once: the same sums in another order, on an AMD processor with AVX-512 in two thirds of
    MKL's time. On Intel's MKL is the faster by a tenth to a fifth, with AVX2 alone by a quarter (LOG.md).
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, QuickGELUActivation):
                setattr(parent, name, OverwritingQuickGELU())
    packs = torch.backends.mkldnn.is_available() and vectors == "AVX512" and "Intel" not in processor
    return _packed(model) if packs else model


class OverwritingQuickGELU(nn.Module):
    """x sigmoid(1.702 x), transformers' bit for bit, written over its input, so that half as much memory is touched."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(torch.sigmoid_(x * 1.702))


def _packed(model: nn.Module) -> nn.Module:
    """With oneDNN's linear layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its modules are TorchScript's
        from torch.utils.mkldnn import to_mkldnn

        return to_mkldnn(model)
