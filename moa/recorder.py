"""`Recorder`: the only way router and attention maps leave the model. Off unless one is passed in.

    recorder = Recorder()                       training: maps of the last forward pass, differentiable
    recorder = Recorder(history=True)           inference: maps of every step, fp16 on the CPU, bounded memory
    pipe(prompt, subjects, recorder=recorder)

Layers hand over finished maps; recording twice is harmless (gradient checkpointing runs a layer again in the backward
pass: the first map of a forward pass is the one that stays).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, float16


@dataclass(frozen=True, eq=False)
class StepMaps:
    """Maps of one denoising step, rows with subjects only, fp16 on the CPU."""

    step: int  # number of the forward pass since the recorder was made
    timestep: float
    router: dict[int, Tensor]  # layer index -> [rows, h, w]
    attention: dict[int, Tensor]  # layer index -> [rows, S, h, w]

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for maps in (self.router, self.attention) for t in maps.values())


@dataclass(eq=False)
class Recorder:
    """Collects the maps of a forward pass, and with `history` those of all passes.

    router      layer index -> [B, h, w], the prior expert's share R_0 in 0..1; 1 on inactive rows
    attention   layer index -> [B, S, h, w], the personalization expert's attention probability at each subject's token,
                mean over heads; 0 in empty slots and on inactive rows. Only cross-attention layers. In a step that
                mixes in the expert's kept output (`moa.expert_cache`) they are the maps of that output, i.e. of the
                last step that computed one: a picture is the same whether it is recorded or not.
    steps       with `history`: one `StepMaps` per kept step. When they would exceed `max_bytes`, every other kept step
                is dropped and from then on only every 2nd (4th, ...) step is kept: the whole trajectory stays covered.
    """

    subject_columns: bool = True  # False: router maps only, no attention maps are computed
    history: bool = False
    max_bytes: int = 256 * 2**20
    router: dict[int, Tensor] = field(default_factory=dict, init=False)
    attention: dict[int, Tensor] = field(default_factory=dict, init=False)
    steps: list[StepMaps] = field(default_factory=list, init=False)
    stride: int = field(default=1, init=False)
    _count: int = field(default=0, init=False)

    def start(self, attention: bool = True) -> None:
        """Called by the U-Net before its blocks run: forget the maps of the pass before.

        `attention`: the expert is computed in this pass, so that there will be new attention maps.
        """
        self.router = {}
        if attention:
            self.attention = {}

    def add_router(self, layer: int, prior_share: Tensor) -> None:
        """`prior_share` [B, h, w] of one layer."""
        self.router.setdefault(layer, prior_share)

    def add_attention(self, layer: int, columns: Tensor) -> None:
        """`columns` [B, S, h, w] of one layer."""
        self.attention.setdefault(layer, columns)

    def finish(self, timestep: float | Tensor, rows: Tensor) -> None:
        """Called by the U-Net after its blocks where there is a `history`: keep the `rows`, bool [B], of this pass."""
        if self._count % self.stride == 0:
            rows = rows.nonzero().squeeze(1)  # once: it waits for the device
            self.steps.append(
                StepMaps(
                    step=self._count,
                    timestep=float(timestep.flatten()[0] if isinstance(timestep, Tensor) else timestep),
                    router={layer: _kept(maps, rows) for layer, maps in self.router.items()},
                    attention={layer: _kept(maps, rows) for layer, maps in self.attention.items()},
                )
            )
            self._thin()
        self._count += 1

    def _thin(self) -> None:
        while len(self.steps) > 1 and sum(step.bytes for step in self.steps) > self.max_bytes:
            self.stride *= 2
            self.steps = [step for step in self.steps if step.step % self.stride == 0]


def _kept(maps: Tensor, rows: Tensor) -> Tensor:
    return maps[rows].detach().to("cpu", float16)
