"""`ExpertCache`: the personalization expert is computed on every n-th denoising step, its outputs are kept for the
steps between.

What the expert adds to a layer changes slowly from step to step (as DeepCache, Ma et al. 2024, found of whole blocks).
The prior and the routers are computed on every step, so the scene does not lag behind. What that costs and saves is in
LOG.md and benchmarks/inference.json.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from moa.errors import ConditioningError


@dataclass(eq=False)
class ExpertCache:
    """Lives as long as the images of one pipeline call: the first step computes, then every `interval`-th.

    `order` is the scheduler's: the U-Net passes of one step. A scheduler of second order (Heun, KDPM2) asks once at the
    first timestep and from then on twice in a row; the first of the two computes for both. Steps are counted, not told
    by their timesteps, because reading those from an accelerator would wait for it in every pass.

    It holds one [A, N, d] tensor for each mixture layer: about 45 MB for each active row of Stable Diffusion 1.5 at
    512 px in half precision. What is kept carries no gradient: a step that uses it has that of the prior and the
    routers only. Raises `ConditioningError` for an interval that is no whole number or below 1.
    """

    interval: int
    order: int = 1
    _outputs: dict[int, Tensor] = field(default_factory=dict, init=False)
    _passes: int = field(default=0, init=False)
    _rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        try:
            steps = self.interval >= 1 and self.interval % 1 == 0
        except TypeError:  # None, text
            steps = False
        if not steps:
            raise ConditioningError(f"expert_interval={self.interval!r}: it is a number of steps, 1 or more")

    def start(self, rows: int) -> bool:
        """Called by the U-Net before its blocks run on a batch of `rows`: whether the expert is computed in this pass.

        What is kept of a batch of another size (before guidance was switched off) is not used.
        """
        call = self._passes + self.order - 1  # as if the first step, too, had asked `order` times
        due = self.interval == 1 or call % (self.order * self.interval) == 0 or rows != self._rows
        if due:
            self._outputs = {}
        self._passes += 1
        self._rows = rows
        return due

    def output(self, layer: int, compute: Callable[[], Tensor]) -> Tensor:
        """The expert's output in one layer, [A, N, d]: kept, or computed and kept. Not to be written to."""
        if self.interval == 1:
            return compute()
        if layer not in self._outputs:
            output = compute()
            self._outputs[layer] = output.detach()
            return output
        return self._outputs[layer]
