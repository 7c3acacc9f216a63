"""Inference: one denoising step of MoA under guidance against the base U-Net's, same weights, same run.

    python benchmarks/inference.py [--quick]        prints a table and writes benchmarks/inference.json

Stable Diffusion 1.5's U-Net at a quarter of its width and of its heads (the size of a head stays), one prompt with one
subject. At 32 x 32 latents the ratio of pixels to width, and with it the share of attention, is that of 512 px at
full width; at 64 x 64 attention weighs four times as much. The methods take turns of six steps; times are medians of
process CPU time on one thread, so other programs on the machine disturb little.

"moa" is what `MoAPipeline` does: the mixture on both halves of the batch, the personalization expert on every second
step. The others are its option `expert_interval`. FLOPs come from torch's counter, at full size on fake tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from moa.conditioning import MoAInput
from moa.config import MoAConfig
from moa.expert_cache import ExpertCache
from moa.unet import MoAUNet2DConditionModel

RESULT = Path(__file__).with_suffix(".json")
TOKENS, IMAGE_DIM, SUBJECT_TOKEN = 77, 768, 5
STEPS = 6  # of a turn: whole cycles of every `expert_interval` below
FLASH_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch's counter does not know this one
GROUPS = {
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "convolution": ("aten::convolution",),
    "linear": ("aten::addmm", "aten::mm", "aten::bmm"),
}


def sd15_unet(divide: int) -> MoAUNet2DConditionModel:
    """Stable Diffusion 1.5's U-Net with every width, and the number of heads, divided."""
    base = UNet2DConditionModel(
        block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
        attention_head_dim=8 // divide,  # diffusers' name for the number of heads
        norm_num_groups=32 // divide,
        cross_attention_dim=768 // divide,
    )
    return MoAUNet2DConditionModel.from_unet(base.eval(), MoAConfig(image_dim=IMAGE_DIM))


def methods() -> dict[str, dict[str, Any] | None]:
    """Name -> cross_attention_kwargs, for a batch of an unconditional and a conditional row."""
    features, positions = torch.randn(2, 1, IMAGE_DIM), torch.tensor([[-1], [SUBJECT_TOKEN]])

    def moa(interval: int) -> dict[str, Any]:
        return {"moa": MoAInput(features, positions, torch.tensor([True, True]), cache=ExpertCache(interval))}

    return {
        "base": None,
        "moa": moa(2),
        "moa, every step": moa(1),
        "moa, every third": moa(3),
    }


@torch.no_grad()
def measure(divide: int, size: int, rounds: int) -> dict[str, Any]:
    """Median seconds, GFLOPs and, by kind of operation, milliseconds of a step for each method."""
    unet = sd15_unet(divide)
    latents, text = torch.randn(2, 4, size, size), torch.randn(2, TOKENS, 768 // divide)
    ways = methods()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, options in ways.items():
            start = time.process_time()
            turn(unet, latents, text, options)
            seconds[name].append((time.process_time() - start) / STEPS)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first round warms up
    return {
        name: {
            "seconds": round(medians[name], 4),
            "time_ratio": round(medians[name] / medians["base"], 3),
            "milliseconds": milliseconds(unet, latents, text, options),
            **flops(unet, latents, text, options),
        }
        for name, options in ways.items()
    }


def turn(unet: nn.Module, latents: Tensor, text: Tensor, options: dict[str, Any] | None) -> None:
    for step in range(STEPS):
        unet(latents, 900 - 50 * step, text, cross_attention_kwargs=options)


@torch.no_grad()
def full_size_flops() -> dict[str, Any]:
    """FLOPs of the real geometry at 512 px: the arithmetic floor of the ratio."""
    with init_empty_weights():
        unet = sd15_unet(1)
    ways = methods()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in unet.modules():
            for name, tensor in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(tensor.shape), requires_grad=False))
            for name, tensor in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(tensor.shape))
        latents, text = torch.empty(2, 4, 64, 64), torch.empty(2, TOKENS, 768)
        return {name: flops(unet, latents, text, options) for name, options in ways.items()}


def flops(unet: nn.Module, latents: Tensor, text: Tensor, options: dict[str, Any] | None) -> dict[str, Any]:
    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    with FlopCounterMode(display=False, custom_mapping={FLASH_CPU: attention}) as counter:
        turn(unet, latents, text, options)
    return {"gflops": round(counter.get_total_flops() / STEPS / 1e9, 2)}


def milliseconds(unet: nn.Module, latents: Tensor, text: Tensor, options: dict[str, Any] | None) -> dict[str, float]:
    """CPU milliseconds of a step by kind of operation; timing each one adds a little to "other"."""
    with OperationClock() as clock:
        turn(unet, latents, text, options)
    return {kind: round(1e3 * value / STEPS, 1) for kind, value in clock.seconds.items()}


class OperationClock(TorchDispatchMode):
    """Process CPU time of the operations that run under it, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys([*GROUPS, "other"], 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        kind = next((name for name, parts in GROUPS.items() if func._schema.name.startswith(parts)), "other")
        self.seconds[kind] += time.process_time() - start
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, 32 x 32 latents only")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "latents": {
            f"{size} x {size}": measure(4, size, rounds)
            for size, rounds in ([(32, 2)] if quick else [(32, 5), (64, 2)])
        },
        "full size, 512 px": full_size_flops(),
    }
    for size, table in [*result["latents"].items(), ("full size, 512 px", result["full size, 512 px"])]:
        print(
            f"\n{size:18}  {'seconds':>8} {'ratio':>6} {'GFLOPs':>8} {'ratio':>6}   ms: {', '.join([*GROUPS, 'other'])}"
        )
        for name, row in table.items():
            work = row["gflops"] / table["base"]["gflops"]
            times = f"{row['seconds']:8.3f} {row['time_ratio']:6.2f}" if "seconds" in row else " " * 15
            parts = ", ".join(f"{v:.0f}" for v in row.get("milliseconds", {}).values())
            print(f"{name:18}  {times} {row['gflops']:8.1f} {work:6.3f}   {parts}")
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
