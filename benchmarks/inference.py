"""Inference: one denoising step of MoA under guidance against the base U-Net's, same weights, same run.

    python benchmarks/inference.py [--quick]          a table, and benchmarks/inference.json
    python benchmarks/inference.py --device cuda      full size in bfloat16, and benchmarks/inference-cuda.json

On a CPU: Stable Diffusion 1.5's U-Net at a quarter of its width and of its heads (benchmarks/_sd15.py), one prompt with
one subject, 32 x 32 latents (attention weighs as much as at 512 px and full width) and 64 x 64 (four times as much). On
a GPU: the full width, 64 x 64 latents, 1 and 4 images. The methods take turns of six steps.

"moa" is what `MoAPipeline` does: the mixture on both halves of the batch, the personalization expert on every second
step. The others are its option `expert_interval`. FLOPs come from torch's counter, at full size on fake tensors.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import IMAGE_DIM, SUBJECT_TOKEN, TEXT_DIM, TOKENS, fake, flops, sd15_unet  # noqa: E402
from benchmarks._stopwatch import machine, seconds, take_turns, utilisation  # noqa: E402
from moa.conditioning import MoAInput  # noqa: E402
from moa.config import MoAConfig  # noqa: E402
from moa.expert_cache import ExpertCache  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

STEPS = 6  # of a turn: whole cycles of every `expert_interval` below
INTERVALS = {"base": None, "moa": 2, "moa, every step": 1, "moa, every third": 3}
GROUPS = {
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "convolution": ("aten::convolution",),
    "linear": ("aten::addmm", "aten::mm", "aten::bmm"),
}


def moa_unet(divide: int) -> MoAUNet2DConditionModel:
    return MoAUNet2DConditionModel.from_unet(sd15_unet(divide).eval(), MoAConfig(image_dim=IMAGE_DIM))


def ways(unet: nn.Module, active: Tensor, size: int, text_dim: int, like: Tensor) -> dict[str, partial[None]]:
    """Name -> a turn, for an unconditional and a conditional row of each image, with one subject each; `active`, one of
    each row, is a CPU's."""
    rows = len(active)
    latents, text = like.new_empty(rows, 4, size, size).normal_(), like.new_empty(rows, TOKENS, text_dim).normal_()
    features = like.new_empty(rows, 1, IMAGE_DIM).normal_()
    positions = torch.tensor([[-1]] * (rows // 2) + [[SUBJECT_TOKEN]] * (rows // 2), device=like.device)

    def options(interval: int | None) -> dict[str, Any] | None:
        cache = interval and ExpertCache(interval)
        return {"moa": MoAInput(features, positions, active, cache=cache)} if cache else None

    return {name: partial(turn, unet, latents, text, options(interval)) for name, interval in INTERVALS.items()}


@torch.no_grad()
def turn(unet: nn.Module, latents: Tensor, text: Tensor, options: dict[str, Any] | None) -> None:
    for step in range(STEPS):
        unet(latents, 900 - 50 * step, text, cross_attention_kwargs=options)


def measure(divide: int, size: int, images: int, rounds: int, like: Tensor) -> dict[str, Any]:
    """Median seconds, GFLOPs, MFU and, by kind of operation, milliseconds of a step for each method; weights and inputs
    are of the device and type of `like`."""
    unet = moa_unet(divide).to(like.device, like.dtype)
    turns = ways(unet, torch.ones(2 * images).bool(), size, TEXT_DIM // divide, like)
    medians = {name: value / STEPS for name, value in take_turns(turns, rounds, like.device).items()}
    work = {name: flops(call) / STEPS for name, call in turns.items()}
    return {
        name: {
            "seconds": round(medians[name], 5),
            "time_ratio": round(medians[name] / medians["base"], 3),
            "milliseconds": milliseconds(call, like.device),
            "gflops": round(work[name] / 1e9, 2),
            "mfu": utilisation(work[name], medians[name], like.device),
        }
        for name, call in turns.items()
    }


def full_size_flops() -> dict[str, Any]:
    """FLOPs of the real geometry at 512 px: the arithmetic floor of the ratio."""
    active = torch.ones(2).bool()
    with fake(partial(moa_unet, 1)) as unet:
        turns = ways(unet, active, 64, TEXT_DIM, torch.empty(()))
        return {name: {"gflops": round(flops(call) / STEPS / 1e9, 2)} for name, call in turns.items()}


def milliseconds(call: partial[None], device: torch.device) -> dict[str, float]:
    """Milliseconds of a step by kind of operation; timing each one adds to all of them, most to "other"."""
    with OperationClock(device) as clock:
        call()
    return {kind: round(1e3 * value / STEPS, 1) for kind, value in clock.seconds.items()}


class OperationClock(TorchDispatchMode):
    """Time of the operations that run under it, by kind."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.seconds = device, dict.fromkeys([*GROUPS, "other"], 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results: list[Any] = []
        taken = seconds(lambda: results.append(func(*args, **(kwargs or {}))), self.device)
        kind = next((name for name, parts in GROUPS.items() if func._schema.name.startswith(parts)), "other")
        self.seconds[kind] += taken
        return results[0]


def show(title: str, table: dict[str, Any]) -> None:
    print(f"\n{title:22}  {'seconds':>8} {'ratio':>6} {'GFLOPs':>8} {'ratio':>6} {'MFU':>6}   ms: {[*GROUPS, 'other']}")
    for name, row in table.items():
        work = row["gflops"] / table["base"]["gflops"]
        times = f"{row['seconds']:8.4f} {row['time_ratio']:6.2f}" if "seconds" in row else " " * 15
        parts = ", ".join(f"{value:.1f}" for value in row.get("milliseconds", {}).values())
        print(f"{name:22}  {times} {row['gflops']:8.1f} {work:6.3f} {row.get('mfu') or '-':>6}   {parts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of the smallest case; writes nothing")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.device.type == "cpu":
        like, cases = torch.empty(()), [(4, 32, 1, 5), (4, 64, 1, 2)]
    else:
        like, cases = torch.empty((), device=given.device, dtype=torch.bfloat16), [(1, 64, 1, 20), (1, 64, 4, 20)]
    result: dict[str, Any] = {"machine": machine(given.device), "latents": {}}
    for divide, size, images, rounds in cases[:1] if given.quick else cases:
        title = f"{size} x {size}" + (f", {images} image(s)" if given.device.type != "cpu" else "")
        result["latents"][title] = measure(divide, size, images, 2 if given.quick else rounds, like)
        show(title, result["latents"][title])
    result["full size, 512 px"] = full_size_flops()
    show("full size, 512 px", result["full size, 512 px"])
    suffix = "" if given.device.type == "cpu" else f"-{given.device.type}"
    if not given.quick:
        (ROOT / f"benchmarks/inference{suffix}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
