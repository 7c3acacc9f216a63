"""How much an adapter knows about its subject, without drawing anything: the noise error on held-out people.

The error inside the subjects (eq. 11's masked loss) with the right subject, with another picture's and without one, at
the same noise and timesteps. An adapter that uses its subject has the first clearly below the others.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

import torch

from moa.batch import Batch
from moa.config import MoAConfig
from moa.data import ShardDataset
from moa.distributed import Ranks
from moa.models import load_models
from moa.step import denoise, prior_share
from moa.train_config import TrainConfig
from moa.validation import held_out_batches, subject_error, with_other_subjects


@torch.no_grad()
def measure_adapter(
    adapter: Path,
    moa: MoAConfig,
    base: Path,
    image_encoder: Path,
    shards: Path,
    *,
    count: int = 256,
) -> dict[str, float]:
    """`error_right`, `error_wrong`, `error_without` (mean squared error of the noise on subject pixels: right subject,
    another picture's, none), and the routers' mean prior share `prior_share_background`, `prior_share_foreground` (not
    for a single branch)."""
    config = TrainConfig(
        shards=shards, base=base, image_encoder=image_encoder, init=adapter, moa=moa, max_timestep=1000
    )
    here = Ranks(rank=0, world=1, device=torch.device("cpu"))
    models = load_models(config, here.device)
    sums: defaultdict[str, float] = defaultdict(float)
    for batch in held_out_batches(models, ShardDataset(shards, "heldout"), config, count, here):
        right = denoise(models, batch)
        wrong, without = (denoise(models, other) for other in (with_other_subjects(batch), _without_subjects(batch)))
        for name, found in {"right": right, "wrong": wrong, "without": without}.items():
            sums[f"error_{name}"] += subject_error(found).item() * len(batch.positions)
        if right.routers:
            sums["prior_share_background"] += prior_share(right.routers, 1 - right.foreground).sum().item()
            sums["prior_share_foreground"] += prior_share(right.routers, right.foreground).sum().item()
    return {name: value / count for name, value in sums.items()}


def _without_subjects(batch: Batch) -> Batch:
    """The same prompts with nobody bound to their words."""
    nobody = torch.full_like(batch.positions, -1)
    return dataclasses.replace(batch, positions=nobody, pixels=batch.pixels[:0], slots=batch.slots[:0])
