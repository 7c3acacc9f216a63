"""Stable Diffusion 1.5's U-Net as the benchmarks need it: whole or at a fraction of its width, and on fake tensors,
which have shapes and no values, so that bytes and FLOPs of the full size are counted without its memory.

The size of an attention head stays when widths and number of heads are divided. At a quarter of the width and 32 x 32
latents the ratio of pixels to width, and with it the share of attention, is that of 512 px at full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

TOKENS, TEXT_DIM, IMAGE_DIM, SUBJECT_TOKEN = 77, 768, 768, 5
aten = torch.ops.aten
# The CPU's attention kernels, which torch's counter does not know.
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


def sd15_unet(divide: int = 1, device: torch.device | None = None) -> UNet2DConditionModel:
    """The U-Net with random weights, every width and the number of heads divided, made on the device (None: the
    current one, such as `init_empty_weights`')."""
    with device or nullcontext():
        return UNet2DConditionModel(
            block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
            attention_head_dim=8 // divide,  # diffusers' name for the number of heads
            norm_num_groups=32 // divide,
            cross_attention_dim=TEXT_DIM // divide,
            sample_size=64,  # of 512 px, whatever the width
        )


@contextmanager
def fake(make: Callable[[], nn.Module]) -> Iterator[Any]:
    """What `make` makes, on fake tensors; tensors made inside the block are fake too."""
    with init_empty_weights():
        made = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in made.modules():
            for name, tensor in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(tensor.shape), requires_grad=tensor.requires_grad))
            for name, tensor in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(tensor.shape))
        yield made


def flops(call: Callable[[], Any]) -> int:
    """Floating point operations of a call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()
