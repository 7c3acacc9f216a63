"""The networks of Stable Diffusion 1.5, and the image encoder, as the benchmarks need them: with random weights, also
at a fraction of their width, and on fake tensors, which have shapes and no values, so that bytes and FLOPs of the full
size are counted without its memory.

They are made on the current device: `with torch.device("cuda"): sd15_unet()` draws its weights there.

The size of an attention head stays when widths and number of heads are divided. At a quarter of the width and 32 x 32
latents the ratio of pixels to width, and with it the share of attention, is that of 512 px at full width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

TOKENS, TEXT_DIM, IMAGE_DIM, SUBJECT_TOKEN, VOCABULARY, PATCH = 77, 768, 768, 5, 49408, 14
aten = torch.ops.aten
# The CPU's attention kernels, which torch's counter does not know.
CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


def sd15_unet(divide: int = 1) -> UNet2DConditionModel:
    """The U-Net, every width and the number of heads divided."""
    return UNet2DConditionModel(
        block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
        attention_head_dim=8 // divide,  # diffusers' name for the number of heads
        norm_num_groups=32 // divide,
        cross_attention_dim=TEXT_DIM // divide,
        sample_size=64,  # of 512 px, whatever the width
    )


def sd15_vae(divide: int = 1) -> AutoencoderKL:
    """The autoencoder, every width divided."""
    return AutoencoderKL(
        block_out_channels=tuple(width // divide for width in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=32 // divide,
        sample_size=512,
    )


def sd15_text_encoder(divide: int = 1, **changes: Any) -> CLIPTextModel:
    """The text encoder, that of CLIP ViT-L/14, every width divided; `changes` are of its configuration."""
    size = {"hidden_size": TEXT_DIM, "intermediate_size": 3072, "num_attention_heads": 12}
    divided = {name: number // divide for name, number in size.items()}
    return CLIPTextModel(CLIPTextConfig(**divided, num_hidden_layers=12, vocab_size=VOCABULARY, **changes))


def image_encoder(divide: int = 1) -> CLIPVisionModelWithProjection:
    """The image encoder of CLIP ViT-L/14, every width and the number of pixels divided."""
    size = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "projection_dim": IMAGE_DIM}
    divided = {name: number // divide for name, number in size.items()}
    side = encoded_side(divide)
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(**divided, num_hidden_layers=24, patch_size=PATCH, image_size=side)
    )


def encoded_side(divide: int = 1) -> int:
    """Pixels a side of what the image encoder sees: 224 at full width, with the number of patches divided."""
    return PATCH * round(16 / divide**0.5)


@contextmanager
def without_values() -> Iterator[None]:
    """Tensors made inside are fake: they have a shape and no values. Who lists their values gets zeros."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.object(FakeTensor, "tolist", lambda tensor: np.zeros(tensor.shape, int).tolist(), create=True),
    ):
        yield


@contextmanager
def fake(make: Callable[[], nn.Module]) -> Iterator[Any]:
    """What `make` makes, on fake tensors; tensors made inside the block are fake too."""
    with init_empty_weights():
        made = make()
    with without_values():
        for module in made.modules():
            for name, tensor in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(tensor.shape), requires_grad=tensor.requires_grad))
            for name, tensor in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(tensor.shape, dtype=tensor.dtype))
        yield made


def flops(call: Callable[[], Any]) -> int:
    """Floating point operations of a call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        call()
    return counter.get_total_flops()
