"""Training: one step of MoA against the FastComposer way, on the same networks, batch and precision.

    python benchmarks/training_step.py [--quick]          a table, and benchmarks/training_step.json
    python benchmarks/training_step.py --full             on a CPU: full size, as published, one image: added to the
                                                          same file; 20 minutes, 19 GB of memory
    python benchmarks/training_step.py --device cuda      full size, bfloat16, and benchmarks/training_step-cuda.json
                                                          (which is still of the U-Net alone, by an earlier version)
    python benchmarks/training_step.py --compiled         as published, the U-Nets compiled as well (`train.compile`):
                                                          added to the same file; compiling takes minutes

A step goes from images and crops, one subject in each image, to updated weights: VAE, both encoders, U-Net, losses,
backward pass, clipping, and AdamW as PyTorch has it by default (`moa.train` takes its fused kernel). The baseline is
the training FastComposer has published (`benchmarks/_training_methods.py`), but for its losses, which are ours, and
its collecting of garbage in every step. Three comparisons, the two methods of each taking turns:

    as published              four crops an image, of which three are empty; images encoded in the step
    without empty crops       the baseline encodes as many crops as MoA does
    with cached latents       (`train.latent_cache`) as published, but neither encodes images

On a CPU: fp32, every network at a quarter of its width, heads and pixels (benchmarks/_sd15.py), batch 4; at full size,
where both methods do not fit into 24 GB together, each is built for its turn and makes one step before. On a GPU: full
width, 512 px, batches of 4 and 16, in bfloat16 with trained weights in fp32: the baseline by autocast; MoA as
`moa.train` does, its frozen networks and all that flows through them in bfloat16. "captured" on a GPU: everything up to
the gradients as a CUDA graph, without the time the CPU takes to launch its kernels.

Memory on a CPU: what the backward pass starts with, counted in bytes: parameters, one gradient and AdamW's two moments
for each trained one, and the tensors autograd saved (`saved_tensors_hooks`, each storage once). At full size on fake
tensors. The baseline has diffusers' own layers. Of what `moa.backward` leaves out only the gates (a third of it) and
the kept maps (1 %) would be the baseline's to leave out as well: its convolutions are trained, and it has no mixture.
On a GPU: the peak that CUDA's allocator reports for a step.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import fake, flops  # noqa: E402
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
from benchmarks._training_methods import FastComposer, Method, MoA, a_batch  # noqa: E402
from moa.batch import Batch  # noqa: E402

CPU = torch.device("cpu")
GPU_BATCHES = (4, 16)
BASELINE = "FastComposer way"
FULL = "full width, 512 px, batch 1, as published"
CASES: dict[str, tuple[Callable[[int], Method], bool]] = {  # the baseline, and whether latents are cached
    "as published": (FastComposer, False),
    "without empty crops": (partial(FastComposer, slots=1), False),
    "with cached latents": (FastComposer, True),
}


def make(method: Callable[[int], Method], divide: int, device: torch.device = CPU) -> Method:
    """A method on networks of its own; on a GPU what is not trained is kept in bfloat16."""
    with device:
        model = method(divide)
    if device.type != "cpu":
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and not tensor.requires_grad:
                tensor.data = tensor.data.bfloat16()
    return model


class Step:
    """Training steps of a method on one batch; `compiled`: its U-Net is."""

    def __init__(self, method: Callable[[int], Method], divide: int, batch: Batch, compiled: bool = False) -> None:
        device = batch.labels.device
        self.model, self.batch = make(method, divide, device), batch
        self.autocast = partial(
            torch.autocast, device.type, torch.bfloat16, enabled=self.model.autocast and device.type != "cpu"
        )
        if compiled:
            self.model.unet.compile()
        self.trained = list(self.model.trained())
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-5)
        self.gradients = self.both_passes

    def both_passes(self) -> None:
        with self.model.kernels():
            with self.autocast():
                loss = self.model.loss(self.batch)
            loss.backward()

    def capture(self) -> None:
        """From now on both passes are a CUDA graph, which writes the same gradients each time."""
        self.gradients = captured(self.both_passes, self.batch.labels.device, before=self.optimizer.zero_grad)

    def __call__(self) -> None:
        self.gradients()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        if self.gradients == self.both_passes:  # a graph writes into the gradients that are there
            self.optimizer.zero_grad()


def compare(case: str, divide: int, images: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of both methods' steps, and MoA's share of the baseline's; on a GPU also captured."""
    baseline, cached = CASES[case]
    batch = a_batch(images, cached, divide).to(device)
    steps = {BASELINE: Step(baseline, divide, batch), "MoA": Step(MoA, divide, batch)}
    found = _compared(take_turns(steps, rounds, device))
    if device.type != "cpu":
        print(case, json.dumps(found))
        torch.cuda.empty_cache()  # a graph has memory of its own
        for step in steps.values():
            step.capture()
        found["captured"] = _compared(take_turns(steps, rounds, device))
    return found


def compare_compiled(divide: int, images: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Median seconds of both methods' steps as published, with and without a compiled U-Net, the seconds until a
    compiled one had made its first step, and each one's share of the published baseline's time."""
    batch = a_batch(images, False, divide).to(device)
    ways = {BASELINE: FastComposer, "MoA": MoA}
    steps = {name: Step(way, divide, batch) for name, way in ways.items()}
    first: dict[str, float] = {}
    for name, way in ways.items():
        step = steps[f"{name}, compiled"] = Step(way, divide, batch, compiled=True)
        start = time.perf_counter()
        step()
        first[name] = round(time.perf_counter() - start)
        print(f"{name}: compiled and one step in {first[name]:.0f} s", flush=True)
    taken = take_turns(steps, rounds, device)
    return {
        "seconds": {name: round(value, 4) for name, value in medians(taken).items()},
        "of the published baseline": shares(taken, BASELINE),
        "seconds of the first step": first,
        **machine(device),
    }


def compare_full(rounds: int) -> dict[str, Any]:
    """Median seconds of both methods' steps as published, full width, 512 px, one image, on a CPU."""
    batch = a_batch(1, False)
    taken: dict[str, list[float]] = {BASELINE: [], "MoA": []}
    for _ in range(rounds):
        for name, way in {BASELINE: FastComposer, "MoA": MoA}.items():
            step = Step(way, 1, batch)
            step()
            taken[name].append(seconds(step, CPU))
            print(f"{name}: {taken[name][-1]:.1f} s", flush=True)
            del step
            gc.collect()
    return _compared(taken) | machine(CPU)


def _compared(taken: dict[str, list[float]]) -> dict[str, Any]:
    rounded = {name: round(value, 4) for name, value in medians(taken).items()}
    return {"seconds": rounded, "ratio": shares(taken, BASELINE)["MoA"]}


def counts(method: Callable[[int], Method], divide: int, images: int, cached: bool = False) -> dict[str, float]:
    """GiB held at the start of the backward pass, and the GFLOPs of forward and backward, on fake tensors."""
    with fake(partial(make, method, divide)) as model:
        batch = a_batch(images, cached, divide)
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
    trained = sum(4 * p.numel() for p in model.trained())
    total = weights + 3 * trained + held
    gib = {"weights": weights, "gradients and moments": 3 * trained, "saved": held, "total": total}
    return {**{key: round(value / 2**30, 3) for key, value in gib.items()}, "gflops": work // 1e9}


def peak_gib(method: Callable[[int], Method], images: int, device: torch.device) -> float:
    """The peak of allocated memory of three steps."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step = Step(method, 1, a_batch(images, False).to(device))
    for _ in range(3):
        step()
    return round((torch.cuda.max_memory_allocated(device) - before) / 2**30, 3)


def on_gpu(rounds: int, device: torch.device) -> dict[str, Any]:
    """Times, MFU and peak memory at full size."""
    result: dict[str, Any] = {}
    for images in GPU_BATCHES:
        rows: dict[str, Any] = {}
        for case, (baseline, cached) in CASES.items():
            rows[case] = compare(case, 1, images, rounds, device)
            of_one = {name: counts(way, 1, 1, cached)["gflops"] for name, way in ((BASELINE, baseline), ("MoA", MoA))}
            for row in (rows[case], rows[case]["captured"]):
                row["mfu"] = {
                    name: utilisation(1e9 * images * work, row["seconds"][name], device)
                    for name, work in of_one.items()
                }
        memory = {BASELINE: peak_gib(FastComposer, images, device), "MoA": peak_gib(MoA, images, device)}
        rows |= {"peak_gib": memory, "peak_ratio": round(memory["MoA"] / memory[BASELINE], 3)}
        result[f"batch {images}"] = rows
        print(f"batch {images}: {json.dumps(rows)}")
    return {"full width, 512 px, bfloat16": result}


def on_cpu(rounds: int, quick: bool) -> dict[str, Any]:
    """Times at a quarter of the width; memory and FLOPs at full size."""
    result: dict[str, Any] = {"quarter width, 256 px, batch 4": {}, "counted": {}}
    for case in CASES:
        found = result["quarter width, 256 px, batch 4"][case] = compare(case, 4, 4, rounds, CPU)
        print(f"{case:22} {json.dumps(found)}")
    print(
        f"\n{'GiB held when the backward pass starts':48} weights  grads+moments  saved   total  ratio   GFLOPs  ratio"
    )
    for images in (1,) if quick else (1, 4):
        for case, (baseline, cached) in CASES.items():
            table = {name: counts(way, 1, images, cached) for name, way in ((BASELINE, baseline), ("MoA", MoA))}
            title = f"full width, 512 px, batch {images}, {case}"
            result["counted"][title] = table
            print(title)
            for name, row in table.items():
                memory, work = (row[key] / table[BASELINE][key] for key in ("total", "gflops"))
                print(
                    f"    {name:44} {row['weights']:7.2f} {row['gradients and moments']:14.2f} "
                    f"{row['saved']:6.2f} {row['total']:7.2f} {memory:6.2f} {row['gflops']:8.0f} {work:6.2f}"
                )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, less counted at full size; writes nothing")
    parser.add_argument("--compiled", action="store_true", help="compiled U-Nets against plain ones, nothing else")
    parser.add_argument("--full", action="store_true", help="on a CPU: full size, one image, nothing else")
    parser.add_argument("--device", type=torch.device, default=CPU, help="cpu (default) or cuda")
    given = parser.parse_args()
    settle(given.device)
    gpu = given.device.type != "cpu"
    if given.full and (gpu or given.compiled):
        parser.error("--full is of a CPU (a GPU has the full size anyway), and not compiled")
    file = ROOT / "benchmarks" / (f"training_step-{given.device.type}.json" if gpu else "training_step.json")
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rounds = 3 if given.quick else 10 if gpu else 15
    if given.full:
        found = compare_full(1 if given.quick else 3)
        print(json.dumps(found, indent=1))
        result = {**before, FULL: found}
    elif given.compiled:
        divide, images = (1, max(GPU_BATCHES)) if gpu else (4, 4)
        found = compare_compiled(divide, images, rounds, given.device)
        print(json.dumps(found, indent=1))
        result = {**before, f"compiled, as published, batch {images}": found}
    else:
        measured = on_gpu(rounds, given.device) if gpu else on_cpu(rounds, given.quick)
        kept = {key: value for key, value in before.items() if key.startswith(("compiled", FULL))}
        result = {"machine": machine(given.device), **measured, **kept}
    if not given.quick:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
