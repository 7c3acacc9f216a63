"""Short training runs in this process, and what they left behind. Shared by the tests of the training loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import moa.train
from moa.batch import Batch, TrainingSet, collate
from moa.config import MoAConfig
from moa.data import ShardDataset
from moa.distributed import Ranks, StopRequest
from moa.models import Models
from moa.train_config import TrainConfig
from tests.tiny_models import IMAGE_DIM

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
MakeConfig = Callable[..., TrainConfig]


def tiny_config(base: Path, /, **fields: object) -> TrainConfig:
    """A short run's configuration; `fields` are `shards`, `out`, and whatever shall be another."""
    short = {
        "image_encoder": base / "image_encoder",
        "moa": MoAConfig(image_dim=IMAGE_DIM),
        "steps": 4,
        "global_batch": 4,
        "log_every": 1,
        "checkpoint_every": 2,
    }
    return TrainConfig(**{"base": base, **short, **fields})


def run(config: TrainConfig, stop: StopRequest | None = None) -> int:
    """Trains in this process."""
    return moa.train.train(config, ALONE, stop or StopRequest())


def metrics(config: TrainConfig) -> list[dict[str, float]]:
    return [json.loads(line) for line in (config.run_folder / "metrics.jsonl").read_text().splitlines()]


def tensors(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    """Everything in the checkpoint of `step`; copies, as a loaded file is a memory map."""
    folder = config.run_folder / "checkpoints" / f"step-{step:08d}"
    return {f"{f.stem}/{k}": t.clone() for f in sorted(folder.glob("*.safetensors")) for k, t in load_file(f).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def first_batch(models: Models, config: TrainConfig, size: int = 4) -> Batch:
    """The first `size` samples a run trains on."""
    dataset = ShardDataset(config.shards)
    samples = TrainingSet(dataset, models.tokenizer, models.image_processor, models.latent_shape(32, 32), config)
    return collate([samples[number] for number in range(size)])


def compile_by(monkeypatch: pytest.MonkeyPatch, backend: object) -> None:
    """`compile` by something else than PyTorch's own backend, which builds kernels for minutes; no graph may break.

    What earlier tests have compiled is forgotten: a number that another network had otherwise would not be a constant.
    """
    torch._dynamo.reset()
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_(self, fullgraph=True, backend=backend))


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Makes the loss of these steps (1-based) not a number."""
    calls = 0
    step = moa.train.training_losses

    def poisoned(*args):
        nonlocal calls
        calls += 1
        losses = step(*args)
        if calls in steps:
            object.__setattr__(losses, "total", losses.total * math.nan)
        return losses

    monkeypatch.setattr(moa.train, "training_losses", poisoned)
