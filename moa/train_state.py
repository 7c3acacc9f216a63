"""What a training run carries from step to step, and therefore what a checkpoint holds.

Named groups of tensors: `weights` (the trained parameters), `optimizer` (AdamW's moments), `average` (EMA, if on).
Everything else is a number in `state.json`: the step, the steps skipped in a row, and the running sums of the next
metrics line. There is no generator state: all randomness is a function of (seed, step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moa.checkpoint import Checkpoint
from moa.errors import CheckpointError
from moa.train_config import TrainConfig
from moa.unet import MoAUNet2DConditionModel


@dataclass
class MetricsWindow:
    """Sums over the steps since the last line of metrics.jsonl, and the seconds trained so far."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    seconds: float = 0.0
    window_seconds: float = 0.0
    _mark: float = field(default_factory=time.perf_counter, repr=False)

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the numbers of one step."""
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def tick(self) -> None:
        """Counts the time since the last tick."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self.window_seconds += now - self._mark
        self._mark = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside counts as trained, but not against the samples per second."""
        self.tick()
        before = self.window_seconds
        yield
        self.tick()
        self.window_seconds = before

    def line(self, step: int, samples_per_step: int) -> dict[str, float | None]:
        """The metrics line of `step` (datasets/FORMAT.md, section 5) over at least one step; starts the next window.

        Skipped steps do not count. The router's shares are null when there is no router.
        """
        self.tick()
        routed = self.sums["routed"]
        means = {name: self.sums[name] / self.steps for name in MEANS}
        shares = {name: self.sums[name] / routed if routed else None for name in SHARES}
        speed = self.steps * samples_per_step / self.window_seconds
        values = {**means, **shares, "samples_per_second": speed, "seconds": self.seconds}
        self.sums, self.steps, self.window_seconds = {}, 0, 0.0
        return {"step": step, **rounded(values)}


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Six digits of each, as metrics.jsonl has them; null for what is not finite."""
    return {k: float(f"{v:.6g}") if v is not None and math.isfinite(v) else None for k, v in values.items()}


MEANS = ("loss", "loss_masked", "loss_router", "loss_object", "lr", "grad_norm")
SHARES = ("router_background", "router_foreground")


class TrainState:
    """The trained parameters with their optimizer, average and counters."""

    def __init__(self, unet: MoAUNet2DConditionModel, config: TrainConfig):
        self.config = config
        self.parameters = dict(unet.moa_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if config.ema_decay else None
        self.step = 0  # steps done
        self.skipped = 0  # of them, the last ones in a row that were skipped
        self.window = MetricsWindow()

    def update(self, learning_rate: float) -> None:
        """One AdamW step with the gradients in place, then the average."""
        self.step, self.skipped = self.step + 1, 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        if self.average is not None:
            # The ramp keeps the first steps from pinning the average to the weights the run started with.
            decay = min(self.config.ema_decay, self.step / (9 + self.step))
            weights = [p.detach() for p in self.parameters.values()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    def skip(self) -> None:
        """Counts a step whose gradients were unusable."""
        self.step, self.skipped = self.step + 1, self.skipped + 1

    def groups(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint, by file and name."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        groups: dict[str, dict[str, Tensor]] = {"weights": dict(self.parameters), "optimizer": moments}
        return groups if self.average is None else {**groups, "average": self.average}

    def counters(self) -> dict[str, Any]:
        """The numbers of a checkpoint."""
        self.window.tick()
        window = {k: v for k, v in vars(self.window).items() if not k.startswith("_")}
        return {"step": self.step, "skipped": self.skipped, "window": window}

    def load(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint. Raises `CheckpointError` when its parameters are not this model's."""
        weights, moments = checkpoint.tensors("weights"), checkpoint.tensors("optimizer")
        if weights.keys() != self.parameters.keys():
            raise CheckpointError(f"{checkpoint.path} holds weights of another architecture: use a new run folder")
        for name, parameter in self.parameters.items():
            parameter.data.copy_(weights[name])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in moments]
            kept = {key: moments[f"{name}.{key}"].to(parameter.device, copy=True) for key in keys}  # not the file's map
            self.optimizer.state[parameter] = kept
        if self.average is not None:
            for name, tensor in checkpoint.tensors("average").items():
                self.average[name].copy_(tensor)
        self.step, self.skipped = checkpoint.state["step"], checkpoint.state["skipped"]
        self.window = MetricsWindow(**checkpoint.state["window"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights, if any: those that are measured and exported."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        if self.average is not None:
            for name, parameter in self.parameters.items():
                parameter.data, self.average[name] = self.average[name], parameter.data
