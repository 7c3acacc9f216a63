"""Inference: one denoising step of MoA under guidance against the base U-Net's, same weights, same run.

    python benchmarks/inference.py [--quick]          a table, and benchmarks/inference.json
    python benchmarks/inference.py --full             full size on a CPU (15 minutes, 6 GB), inference-full.json
    python benchmarks/inference.py --device cuda      full size in bfloat16, inference-cuda.json

On a CPU: Stable Diffusion 1.5's U-Net at a quarter of its width and of its heads (benchmarks/_sd15.py), one prompt with
one subject, 32 x 32 latents (attention weighs as much as at 512 px and full width) and 64 x 64 (four times as much), or
the full width. On a GPU: the full width, 64 x 64 latents, 1 and 4 images; "captured" is the same step as a CUDA graph,
without the time the CPU takes to launch its kernels, which one image waits for. The methods take turns.

"moa" is what `MoAPipeline` does: the mixture on both halves of the batch, the personalization expert on every second
step. The others are its option `expert_interval`. FLOPs come from torch's counter, at full size on fake tensors.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import IMAGE_DIM, SUBJECT_TOKEN, TEXT_DIM, TOKENS, fake, flops, sd15_unet  # noqa: E402
from benchmarks._stopwatch import (  # noqa: E402
    captured,
    machine,
    medians,
    seconds,
    settle,
    shares,
    take_turns,
    utilisation,
)
from moa.conditioning import MoAInput  # noqa: E402
from moa.config import MoAConfig  # noqa: E402
from moa.expert_cache import ExpertCache  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

INTERVALS = {"base": None, "moa": 2, "moa, every step": 1, "moa, every third": 3}


@dataclass(frozen=True)
class Case:
    """What is measured. A turn has whole cycles of every method's `expert_interval`."""

    latents: int  # pixels a side
    divide: int = 1  # of the full width
    images: int = 1
    rounds: int = 10
    methods: tuple[str, ...] = tuple(INTERVALS)
    steps: int = 6  # of a turn


CPU = (Case(32, divide=4, rounds=20), Case(64, divide=4, rounds=6))
FULL = (Case(64, rounds=3, methods=("base", "moa"), steps=2),)
GPU = (Case(64), Case(64, images=4))
GROUPS = {
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "convolution": ("aten::convolution",),
    "linear": ("aten::addmm", "aten::mm", "aten::bmm"),
}


def moa_unet(divide: int, device: torch.device) -> MoAUNet2DConditionModel:
    with device:
        unet = sd15_unet(divide).eval()
    return MoAUNet2DConditionModel.from_unet(unet, MoAConfig(image_dim=IMAGE_DIM))


def ways(case: Case, unet: nn.Module, active: Tensor, like: Tensor) -> dict[str, partial[None]]:
    """Name -> a turn, for an unconditional and a conditional row of each image, with one subject each; `active`, one of
    each row, is a CPU's."""
    rows, text_dim = len(active), TEXT_DIM // case.divide
    latents = like.new_empty(rows, 4, case.latents, case.latents).normal_()
    text = like.new_empty(rows, TOKENS, text_dim).normal_()
    features = like.new_empty(rows, 1, IMAGE_DIM).normal_()
    positions = torch.tensor([[-1]] * (rows // 2) + [[SUBJECT_TOKEN]] * (rows // 2), device=like.device)

    def options(interval: int | None) -> dict[str, Any] | None:
        cache = interval and ExpertCache(interval)
        return {"moa": MoAInput(features, positions, active, cache=cache)} if cache else None

    return {name: partial(turn, case.steps, unet, latents, text, options(INTERVALS[name])) for name in case.methods}


@torch.no_grad()
def turn(steps: int, unet: nn.Module, latents: Tensor, text: Tensor, options: dict[str, Any] | None) -> None:
    for step in range(steps):
        timestep = torch.full((), 900 - 50 * step, device=latents.device)  # as of a scheduler: no copy to wait for
        unet(latents, timestep, text, cross_attention_kwargs=options)


def measure(case: Case, like: Tensor) -> dict[str, Any]:
    """Median seconds, GFLOPs, MFU and, by kind of operation, milliseconds of a step for each method; weights and inputs
    are of the device and type of `like`."""
    unet = moa_unet(case.divide, like.device).to(like.dtype)
    turns = ways(case, unet, torch.ones(2 * case.images).bool(), like)
    work = {name: flops(call) / case.steps for name, call in turns.items()}
    table: dict[str, Any] = {name: {"gflops": round(value / 1e9, 2)} for name, value in work.items()}
    for name, call in turns.items():
        table[name]["milliseconds"] = milliseconds(call, case.steps, like.device)

    def time(calls: dict[str, Any], prefix: str = "") -> None:
        taken = take_turns(calls, case.rounds, like.device)
        ratios = shares(taken, "base")
        for name, whole in medians(taken).items():
            step = whole / case.steps
            table[name][f"{prefix}seconds"] = round(step, 5)
            table[name][f"{prefix}time_ratio"] = ratios[name]
            table[name][f"{prefix}mfu"] = utilisation(work[name], step, like.device)

    time(turns)
    if like.is_cuda:
        time({name: captured(call, like.device) for name, call in turns.items()}, "captured_")
    return table


def full_size_flops() -> dict[str, Any]:
    """FLOPs of the real geometry at 512 px: the arithmetic floor of the ratio."""
    case, active = Case(64), torch.ones(2).bool()
    with fake(partial(moa_unet, case.divide, active.device)) as unet:
        turns = ways(case, unet, active, torch.empty(()))
        return {name: {"gflops": round(flops(call) / case.steps / 1e9, 2)} for name, call in turns.items()}


def milliseconds(call: partial[None], steps: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of a step by kind of operation; timing each one adds to all of them, most to "other"."""
    with OperationClock(device) as clock:
        call()
    return {kind: round(1e3 * value / steps, 1) for kind, value in clock.seconds.items()}


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
        if "captured_seconds" in row:
            kept = f"{row['captured_seconds']:8.4f} {row['captured_time_ratio']:6.2f}"
            print(f"{'  captured':22}  {kept} {'':15} {row['captured_mfu'] or '-':>6}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds of the smallest case; writes nothing")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    parser.add_argument("--full", action="store_true", help="on a CPU: the full width, base and MoA only")
    given = parser.parse_args()
    settle(given.device)
    on_cpu = given.device.type == "cpu"
    if given.full and not on_cpu:
        parser.error("--full is for a CPU: a GPU has the full width anyway")
    if on_cpu:
        like, cases, suffix = torch.empty(()), FULL if given.full else CPU, "-full" * given.full
    else:
        like, cases = torch.empty((), device=given.device, dtype=torch.bfloat16), GPU
        suffix = f"-{given.device.type}"
    if given.quick:
        cases = (replace(cases[0], rounds=2),)
    result: dict[str, Any] = {"machine": machine(given.device), "latents": {}}
    for case in cases:
        title = f"{case.latents} x {case.latents}" + ", full width" * given.full
        title += "" if on_cpu else f", {case.images} image(s)"
        result["latents"][title] = measure(case, like)
        show(title, result["latents"][title])
    if on_cpu:
        result["full size, 512 px"] = full_size_flops()
        show("full size, 512 px", result["full size, 512 px"])
    if not given.quick:
        (ROOT / f"benchmarks/inference{suffix}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
