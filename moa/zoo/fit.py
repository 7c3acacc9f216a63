"""The training loop all recipes of the zoo share: AdamW, cosine decay, averaged (EMA) weights, a resumable checkpoint.

Progress goes to the terminal; a checkpoint in `<folder>` (`moa.checkpoint`) holds the state between calls. What a state
depends on (steps, seed, data) is `state_folder`'s to know.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from moa import checkpoint
from moa.zoo.hardware import device

Model = TypeVar("Model", bound=nn.Module)
LossFunction = Callable[[torch.Generator, int], dict[str, Tensor]]


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then a cosine down to 3 % of `peak` at `steps`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def state_folder(folder: Path, made_from: dict[str, Any]) -> Path:
    """`folder`, to keep a training's state in. What lies there from other inputs (steps, data, ...) is of no use to it
    and is removed: it starts over."""
    record = folder / "made_from.json"
    if folder.exists() and (not record.is_file() or json.loads(record.read_text(encoding="utf-8")) != made_from):
        print(f"{folder}: the state there was made from other inputs; starts over", flush=True)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = record.with_name(record.name + ".tmp")
    temporary.write_text(json.dumps(made_from, sort_keys=True), encoding="utf-8")
    temporary.replace(record)
    return folder


def fit(
    model: Model,
    loss: LossFunction,
    *,
    folder: Path,
    steps: int,
    peak: float,
    seed: int = 0,
    ema: float = 0.999,
    save_every: int = 500,
    log_every: int = 100,
) -> Model:
    """Minimise `loss(generator, step)["loss"]` over the parameters of `model` that require gradients, on `device()`.

    The generator is seeded from (seed, step), so an interrupted call continues with the same draws; it is a CPU's, so
    that all devices draw the same. Returns the averaged (EMA) copy of the model, on the CPU; `fit_seconds(folder)` says
    how long it took, over all calls.
    """
    model.to(device())
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    average = copy.deepcopy(model)
    first, before = _resume(folder, model, average, optimizer)
    started = time.monotonic()
    for step in range(first, steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        terms = loss(generator, step)
        terms["loss"].backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _update(average, model, min(ema, (1 + step) / (10 + step)))
        if (step + 1) % log_every == 0 or step + 1 == steps:
            shown = "  ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            rate = (step + 1 - first) / (time.monotonic() - started)
            print(f"{folder.name} {step + 1}/{steps}  {shown}  norm {norm:.2f}  {rate:.2f} steps/s", flush=True)
        if (step + 1) % save_every == 0:
            _save(folder, step + 1, before + time.monotonic() - started, model, average, optimizer)
    _save(folder, steps, before + time.monotonic() - started, model, average, optimizer)
    model.cpu()
    return average.cpu()


@torch.no_grad()
def _update(average: nn.Module, model: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for buffer, new_buffer in zip(average.buffers(), model.buffers(), strict=True):
        buffer.copy_(new_buffer)


def _save(
    folder: Path,
    step: int,
    seconds: float,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    kept = optimizer.state_dict()["state"]
    moments = {f"{number}.{name}": value for number, values in kept.items() for name, value in values.items()}
    groups = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": moments}
    checkpoint.save(folder, step, groups, {"seconds": seconds}, keep=1)


def _resume(folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """The step to go on with and the seconds spent so far."""
    found = checkpoint.latest(folder)
    if found is None:
        return 0, 0.0
    model.load_state_dict(found.tensors("model"))
    average.load_state_dict(found.tensors("average"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in found.tensors("optimizer").items():
        number, _, key = name.partition(".")
        moments.setdefault(int(number), {})[key] = value.clone()  # it outlives the file
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    print(f"{folder.name}: resumed at step {found.step}", flush=True)
    return found.step, float(found.state["seconds"])


def fit_seconds(folder: Path) -> float:
    """Wall-clock seconds of training that the state in `folder` took; 0 when there is none."""
    found = checkpoint.latest(folder)
    return float(found.state["seconds"]) if found else 0.0
