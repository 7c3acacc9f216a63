"""Where the recipes compute: on the first GPU, else on the CPU; in bfloat16 where the machine multiplies in it.

Most processors emulate bfloat16 (a training step of the base model took 28 s instead of 2.2 s on one with AVX2 only),
so it is asked for by name. `CUDA_VISIBLE_DEVICES=` keeps a recipe off the GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import torch

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # as torch names them, on x86 and on Arm


@cache
def device() -> torch.device:
    """The device a recipe trains on."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@cache
def precision() -> Literal["bf16", "fp32"]:
    """`bf16` where products in it are faster than in fp32."""
    if device().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if any(capabilities.get(name) for name in CPU_BFLOAT16) else "fp32"


def autocast() -> AbstractContextManager[None]:
    """Forward passes under it compute in `precision()`."""
    return torch.autocast(device().type, torch.bfloat16, enabled=precision() == "bf16")
