"""Training: one step of MoA against the FastComposer way, on the same U-Net, batch and precision.

    python benchmarks/training_step.py [--quick]          a table, and benchmarks/training_step.json
    python benchmarks/training_step.py --device cuda      full size, bfloat16, and benchmarks/training_step-cuda.json

The baseline trains the whole U-Net, replaces a subject's word by an MLP of the word and the image feature, and keeps
the attention maps of all cross-attention layers for its localisation loss (Xiao et al., 2023, section 4.2). MoA trains
its experts and routers with eq. 11. Both take the same noisy latents, one subject per sample, and AdamW as PyTorch has
it by default (`moa.train` takes its fused kernel).

On a CPU: fp32, Stable Diffusion 1.5 at a quarter of its width and heads, 32 x 32 latents, batch 2
(benchmarks/_sd15.py). On a GPU: full width, 64 x 64 latents, batches of 4 and 16, in bfloat16 with trained weights in
fp32: the baseline, whose weights are all trained, by autocast; MoA as `moa.train` does, its frozen network and all that
flows through it in bfloat16. Methods take turns; "encode" is the frozen VAE
encoder's time at the same scale, which every step pays that has no cached latents (`train.latent_cache`). "captured" on
a GPU: forward and backward pass as a CUDA graph, without the time the CPU takes to launch their kernels.

Memory on a CPU: what the backward pass starts with, counted in bytes: parameters, one gradient and AdamW's two moments
for each trained one, and the tensors autograd saved (`saved_tensors_hooks`, each storage once). At full size on fake
tensors. The baseline has diffusers' own layers. Of what `moa.backward` leaves out only the gates (a third of it) would
be the baseline's to leave out as well: its convolutions are trained, and it has no mixture. On a GPU: the peak that
CUDA's allocator reports for a step.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import (  # noqa: E402
    IMAGE_DIM,
    SUBJECT_TOKEN,
    TEXT_DIM,
    TOKENS,
    fake,
    flops,
    sd15_unet,
    sd15_vae,
)
from benchmarks._stopwatch import captured, machine, settle, take_turns, utilisation  # noqa: E402
from benchmarks._training_methods import FastComposer, MoA  # noqa: E402

CPU = torch.device("cpu")
GPU_BATCHES = (4, 16)


METHODS: dict[str, Callable[[UNet2DConditionModel], Any]] = {"FastComposer way": FastComposer, "MoA": MoA}
BASELINE = "FastComposer way"


def make(name: str, divide: int, device: torch.device = CPU) -> Any:
    """A method on a U-Net of its own; on a GPU what is not trained is kept in bfloat16."""
    with device:
        unet = sd15_unet(divide).train()
    model = METHODS[name](unet)
    if device.type != "cpu":
        model.to(device)
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.requires_grad:
                tensor.data = tensor.data.bfloat16()
    return model


def random_batch(batch: int, size: int, text_width: int, device: torch.device = CPU) -> dict[str, Tensor]:
    mask = torch.zeros(batch, 1, size, size)
    mask[:, :, size // 4 : size // 2, size // 4 : size // 2] = 1
    made = {
        "latents": torch.randn(batch, 4, size, size),
        "noise": torch.randn(batch, 4, size, size),
        "timesteps": torch.full((batch,), 500),
        "text": torch.randn(batch, TOKENS, text_width),
        "features": torch.randn(batch, 1, IMAGE_DIM),
        "positions": torch.full((batch, 1), SUBJECT_TOKEN),
        "mask": mask,
    }
    return {name: tensor.to(device) for name, tensor in made.items()}


def both_passes(model: Any, batch: dict[str, Tensor]) -> None:
    device = batch["latents"].device.type
    with torch.autocast(device, torch.bfloat16, enabled=model.autocast and device != "cpu"):
        loss = model.loss(batch)
    loss.backward()


def train_step(model: Any, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    both_passes(model, batch)
    optimizer.step()
    optimizer.zero_grad()


def steps(divide: int, size: int, batch_size: int, device: torch.device) -> dict[str, partial[None]]:
    batch = random_batch(batch_size, size, TEXT_DIM // divide, device)
    batch["active"] = torch.ones(batch_size).bool()
    ways = {}
    for name in METHODS:
        model = make(name, divide, device)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        ways[name] = partial(train_step, model, batch, optimizer)
    return ways


def captured_step(model: Any, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """The step with both passes as a CUDA graph, which writes the same gradients each time."""
    replay = captured(partial(both_passes, model, batch), batch["latents"].device, before=optimizer.zero_grad)

    def step() -> None:
        replay()
        optimizer.step()

    return step


def encoding(divide: int, size: int, batch_size: int, device: torch.device) -> Callable[[], Any]:
    """The encoder of Stable Diffusion's autoencoder at the same scale."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    with device:
        vae = sd15_vae(divide).eval().to(dtype)
    images = torch.rand(batch_size, 3, 8 * size, 8 * size)
    return partial(torch.no_grad()(vae.encode), images.to(device, dtype))


def times(divide: int, size: int, batch_size: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of whole steps and of encoding their images, and the ratios of the two methods; on a GPU the same
    of steps whose kernels no CPU has to launch."""
    training = steps(divide, size, batch_size, device)
    encode = {"encode": encoding(divide, size, batch_size, device)}
    found = compared(take_turns({**training, **encode}, rounds, device))
    if device.type != "cpu":
        print(json.dumps(found))
        torch.cuda.empty_cache()  # a graph has memory of its own
        kept = {name: captured_step(*way.args) for name, way in training.items()}
        found["captured"] = compared(take_turns({**kept, **encode}, rounds, device))
    return found


def compared(taken: dict[str, float]) -> dict[str, Any]:
    base, ours, encode = taken[BASELINE], taken["MoA"], taken["encode"]
    ratios = {"cached latents": ours / base, "latents encoded in the step": (ours + encode) / (base + encode)}
    return {
        "seconds": {name: round(value, 4) for name, value in taken.items()},
        "time_ratio": {name: round(value, 3) for name, value in ratios.items()},
    }


def counts(name: str, divide: int, batch_size: int, size: int) -> dict[str, float]:
    """GiB held at the start of the backward pass, and the GFLOPs of forward and backward, on fake tensors."""
    active = torch.ones(batch_size).bool()
    with fake(partial(make, name, divide)) as model:
        batch = {**random_batch(batch_size, size, TEXT_DIM // divide), "active": active}
        saved: dict[int, int] = {}
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        held = 0

        def forward_and_backward() -> None:
            nonlocal held
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model.loss(batch)
            held = sum(saved.values())
            loss.backward()

        work = flops(forward_and_backward)
    weights = sum(4 * p.numel() for p in model.parameters())
    trained = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    total = weights + 3 * trained + held
    gib = {"weights": weights, "gradients and moments": 3 * trained, "saved": held, "total": total}
    return {**{key: round(value / 2**30, 3) for key, value in gib.items()}, "gflops": work // 1e9}


def peak_gib(divide: int, size: int, batch_size: int, device: torch.device) -> dict[str, float]:
    """The peak of allocated memory of three steps of each method by itself."""
    found = {}
    for name in METHODS:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model = make(name, divide, device)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        batch = random_batch(batch_size, size, TEXT_DIM // divide, device)
        for _ in range(3):
            train_step(model, {**batch, "active": torch.ones(batch_size).bool()}, optimizer)
        found[name] = round((torch.cuda.max_memory_allocated(device) - before) / 2**30, 3)
        del model, optimizer, batch
    return found


def on_gpu(rounds: int, device: torch.device) -> dict[str, Any]:
    """Times, MFU and peak memory at full size."""
    result: dict[str, Any] = {}
    of_one = {name: counts(name, 1, 1, 64)["gflops"] for name in METHODS}  # each sample's are the same
    for batch_size in GPU_BATCHES:
        memory = peak_gib(1, 64, batch_size, device)
        row = {**times(1, 64, batch_size, rounds, device), "peak_gib": memory}
        row["peak_ratio"] = round(memory["MoA"] / memory[BASELINE], 3)
        work = {name: batch_size * gflops for name, gflops in of_one.items()}
        row["gflops"] = work
        for times_of in (row, row["captured"]):
            times_of["mfu"] = {
                name: utilisation(1e9 * work[name], times_of["seconds"][name], device) for name in METHODS
            }
        result[f"batch {batch_size}"] = row
        print(f"batch {batch_size}: {json.dumps(row)}")
    return {"full width, 64 x 64, bfloat16": result}


def on_cpu(quick: bool) -> dict[str, Any]:
    """Times at a quarter of the width; memory and FLOPs at full size."""
    result: dict[str, Any] = {**times(4, 32, 2, 2 if quick else 7, CPU), "held": {}}
    print(f"seconds: {result['seconds']}\ntime ratio: {result['time_ratio']}\n")
    print(f"{'GiB held when the backward pass starts':44} weights  grads+moments  saved   total  ratio   GFLOPs  ratio")
    scales = [("quarter width, 32 x 32, batch 2", 4, 2, 32)]
    if not quick:
        scales += [(f"full width, 64 x 64, batch {n}", 1, n, 64) for n in (1, 4)]
    for scale, divide, batch, size in scales:
        table = {name: counts(name, divide, batch, size) for name in METHODS}
        result["held"][scale] = table
        for name, row in table.items():
            memory, work = (row[key] / table[BASELINE][key] for key in ("total", "gflops"))
            print(
                f"{scale}, {name:{42 - len(scale)}} {row['weights']:7.2f} {row['gradients and moments']:14.2f} "
                f"{row['saved']:6.2f} {row['total']:7.2f} {memory:6.2f} {row['gflops']:8.0f} {work:6.2f}"
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing counted at full size; writes nothing")
    parser.add_argument("--device", type=torch.device, default=CPU, help="cpu (default) or cuda")
    given = parser.parse_args()
    settle(given.device)
    gpu = given.device.type != "cpu"
    measured = on_gpu(3 if given.quick else 10, given.device) if gpu else on_cpu(given.quick)
    result = {"machine": machine(given.device), **measured}
    name = f"training_step-{given.device.type}.json" if gpu else "training_step.json"
    if not given.quick:
        (ROOT / "benchmarks" / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
