"""The multimodal prompt of the personalization expert (eq. 8).

`MoAInput` is what a caller hands to the U-Net, `MultimodalPrompt` is the learned part, shared by all layers, and
`MoAContext` is what travels to the layers in the keyword arguments of one forward pass. Nothing is stashed on modules:
gradient checkpointing recomputes layers later and would read a later value.

Letters: B batch of the U-Net, A its active rows, S subject slots, L mixture layers with cross-attention, T text tokens,
F image_dim (width of a subject feature), D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import pi

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moa.backward import mix
from moa.config import MoAConfig
from moa.errors import ConditioningError
from moa.expert_cache import ExpertCache
from moa.recorder import Recorder

TIMESTEPS = 1000  # length of the training noise schedule: the unit of time in the encoding
TIME_SIGMA = 2.0  # standard deviation of the time frequencies, in cycles per TIMESTEPS
LAYER_SIGMA = 2.0  # standard deviation of the layer frequencies, in cycles per layer


@dataclass(frozen=True, eq=False)
class MoAInput:
    """Subjects for every row of the batch the U-Net sees; under guidance that is the doubled batch.

    features    [B, S, F]  image feature of each slot's subject
    positions   [B, S]     int64, token index the subject replaces; -1: empty slot, whatever its feature
    active      [B]        bool; False: the row runs the prior expert only. An active row may have no subject: the
                           unconditional one of an image with subjects. None: all rows are active
    recorder               receives router and attention maps; None: nothing is recorded
    cache                  keeps the personalization expert's outputs over steps; None: computed in every pass
    guided                 the first half of the rows is unconditional: the second half alone serves a batch of half the
                           size, as when a callback switches guidance off

    Features and positions belong on the U-Net's device, `active` on the CPU: then a forward pass waits for no device
    and copies nothing to one. Make it on the CPU and bring it there with `to`: a position beyond the prompt is then an
    error that says so. Positions that are made on an accelerator are never read, which would wait for it; there such a
    position ends in the accelerator's own error. Raises `ConditioningError` when the shapes do not belong together.
    """

    features: Tensor
    positions: Tensor
    active: Tensor | None = None
    recorder: Recorder | None = None
    cache: ExpertCache | None = None
    guided: bool = False
    rows: slice | Tensor = field(init=False)  # the active rows: a slice where they are neighbours, else their indices
    last: int | None = field(init=False)  # the largest position; None where it was never on the CPU

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.positions.shape != self.features.shape[:2]:
            raise ConditioningError(
                f"features must be [B, S, image_dim] and positions [B, S]; got {tuple(self.features.shape)} and "
                f"{tuple(self.positions.shape)}"
            )
        if self.active is not None and (
            self.active.shape != self.features.shape[:1] or self.active.dtype != torch.bool
        ):
            raise ConditioningError(
                f"active must be bool of shape [{self.features.shape[0]}], one per row of the batch; got "
                f"{self.active.dtype} {tuple(self.active.shape)}"
            )
        if self.positions.is_floating_point():
            raise ConditioningError(f"positions must be integer token indices; got {self.positions.dtype}")
        flags = [True] * len(self.features) if self.active is None else self.active.tolist()
        object.__setattr__(self, "rows", _rows(flags, self.positions.device))
        known = self.positions.device.type == "cpu"
        object.__setattr__(self, "last", max(self.positions.flatten().tolist(), default=-1) if known else None)

    def to(self, device: torch.device) -> MoAInput:
        """The same with features and positions on `device`; what is known of the positions stays known."""
        moved = replace(self, features=self.features.to(device), positions=self.positions.to(device))
        object.__setattr__(moved, "last", self.last)
        return moved

    def check_positions(self, tokens: int) -> None:
        """Raises `ConditioningError` for a position that is known to lie beyond a prompt of `tokens` tokens."""
        if self.last is not None and self.last >= tokens:
            raise ConditioningError(
                f"a subject is bound to token {self.last}, but the prompt has the tokens 0 to {tokens - 1}: give the "
                "index of its word in the text that is encoded, counted with the start token at 0"
            )

    @property
    def with_subjects(self) -> Tensor:
        """bool [B], beside the positions: active rows that have a subject."""
        named = (self.positions >= 0).any(dim=1)
        return named if self.active is None else named & self.active.to(named.device)

    def for_batch(self, size: int) -> MoAInput:
        """This input for `size` rows: itself, or its second half. Raises `ConditioningError` for any other number."""
        rows = len(self.features)
        if size == rows:
            return self
        if self.guided and 2 * size == rows:
            return self._conditional
        raise ConditioningError(
            f"MoAInput has {rows} rows, the batch {size}: under classifier-free guidance give the doubled batch, its "
            "first half without subjects"
        )

    @cached_property
    def _conditional(self) -> MoAInput:
        half = slice(len(self.features) // 2, None)
        active = None if self.active is None else self.active[half]
        return replace(self, features=self.features[half], positions=self.positions[half], active=active, guided=False)


@dataclass(frozen=True, eq=False)
class MoAContext:
    """One forward pass, as the layers see it. Rows are those the personalization expert runs on."""

    batch: int
    rows: slice | Tensor
    prompts: dict[int, Tensor]  # index of a layer with cross-attention -> c_1 of eq. 7, [A, T, D]
    positions: Tensor  # [A, S]; empty slots point at T, one past the prompt
    latent_size: tuple[int, int]
    recorder: Recorder | None
    cache: ExpertCache | None = None

    def expert(self, layer: int, compute: Callable[[], Tensor]) -> Tensor:
        """The personalization expert's output [A, N, d] in one layer, from the cache where there is one."""
        return compute() if self.cache is None else self.cache.output(layer, compute)

    def take(self, tensor: Tensor) -> Tensor:
        """The rows of a [B, ...] tensor that the personalization expert runs on: [A, ...]; `tensor` itself where they
        are all (the gradient of a slice would be one more tensor, filled and copied into)."""
        if isinstance(self.rows, slice) and self.rows == slice(0, len(tensor)):
            return tensor
        return tensor[self.rows]

    def spread(self, rows: Tensor, fill: float) -> Tensor:
        """[A, ...] -> [B, ...], the other rows `fill`."""
        if len(rows) == self.batch:
            return rows
        return self.put(rows.new_full((self.batch, *rows.shape[1:]), fill), rows)

    def put(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """`tensor` [B, ...] with those rows replaced by `rows` [A, ...]; differentiable in both."""
        if isinstance(self.rows, slice):
            if len(rows) == len(tensor):
                return rows
            return torch.cat([tensor[: self.rows.start], rows, tensor[self.rows.stop :]])
        return tensor.index_copy(0, self.rows, rows)

    def blend(self, prior: Tensor, personal: Tensor, share: Tensor) -> Tensor:
        """Eq. 7 on those rows: prior [B, N, d] moved towards personal [A, N, d] by share [A, N, 1] in 0..1.

        Where no gradient is recorded `prior` is overwritten; the values are the same.
        """
        if torch.is_grad_enabled():
            return self.put(prior, mix(self.take(prior), personal, share))
        if isinstance(self.rows, slice):
            self.take(prior).lerp_(personal, share)
            return prior
        return prior.index_copy_(0, self.rows, self.take(prior).lerp_(personal, share))

    def grid(self, pixels: int) -> tuple[int, int]:
        """Height and width of a layer that sees `pixels` pixels: each level of the U-Net halves them, rounding up."""
        height, width = self.latent_size
        while height * width > pixels:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != pixels:
            raise ConditioningError(f"no level of a U-Net on {self.latent_size} latents has {pixels} pixels")
        return height, width


class SpacetimeEncoding(nn.Module):
    """PE(t, l) of eq. 8 in the manner of NeTI: random Fourier features of (timestep, layer), then a learned projection.

    Layers are hashed (each frequency turns by an arbitrary amount from one layer to the next, as in NeTI). Time is
    smooth: NeTI's frequencies turn by several cycles between two sampling steps, which cannot extrapolate to the
    timesteps above 800 that training never sees. The frequencies come from a fixed seed and are stored; they are
    rounded to bfloat16 so that a model cast to half precision keeps exactly the encoding it was trained with.
    """

    frequencies: Tensor

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        noise = torch.randn(2, features, generator=torch.Generator().manual_seed(0), device="cpu")
        frequencies = noise * torch.tensor([[TIME_SIGMA], [LAYER_SIGMA]])
        self.register_buffer("frequencies", frequencies.bfloat16().float())
        self.project = nn.Linear(2 * features, dim)

    def forward(self, timesteps: Tensor, layers: Tensor, dtype: torch.dtype) -> Tensor:
        """[A] timesteps and [L] layer indices -> [L, A, dim]."""
        time, layer = self.frequencies.float()
        cycles = layers.float()[:, None, None] * layer + (timesteps.float() / TIMESTEPS)[None, :, None] * time
        phase = 2 * pi * cycles
        return self.project(torch.cat([phase.cos(), phase.sin()], dim=-1).to(dtype))


class MultimodalPrompt(nn.Module):
    """Eq. 8: m_{t,l} = Concat(f, w) + PE(t, l), and the MLP that maps m to the text width. One for all layers.

    The MLP is a residual on the word: token = w + MLP(m), MLP(m) = Linear(GELU(Linear(LayerNorm(m)))), and its last
    layer starts at zero. So at step 0 the multimodal prompt is the text prompt, the personalization expert (a copy of
    the prior) computes what the prior computes, and training starts from the base model's image.
    """

    layers: Tensor

    def __init__(self, config: MoAConfig, text_dim: int, layers: Sequence[int]) -> None:
        super().__init__()
        width = config.image_dim + text_dim
        self.encoding = SpacetimeEncoding(config.fourier_features, width) if config.spacetime else None
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.hidden_dim or text_dim)
        self.token = nn.Linear(config.hidden_dim or text_dim, text_dim)
        nn.init.zeros_(self.token.weight)
        nn.init.zeros_(self.token.bias)
        self.register_buffer("layers", torch.tensor(layers, dtype=torch.float32, device="cpu"), persistent=False)

    def forward(self, features: Tensor, words: Tensor, timesteps: Tensor) -> Tensor:
        """f [A, S, F], w [A, S, D] and t [A] -> the subject tokens of each layer [L, A, S, D], in the precision of the
        weights."""
        dtype = self.norm.weight.dtype
        words = words.to(dtype)
        m = torch.cat([features.to(dtype), words], dim=-1)[None]
        if self.encoding is not None:
            m = m + self.encoding(timesteps, self.layers, dtype)[:, :, None]
        tokens = words + self.token(F.gelu(self.hidden(self.norm(m))))
        return tokens.expand(len(self.layers), -1, -1, -1)


def multimodal_prompts(text: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
    """c_1 of eq. 7 for all layers at once: `text` [A, T, D] with each subject's word replaced by its token of eq. 8.

    tokens [L, A, S, D]; positions [A, S] in 0..T (T: empty slot) -> [L, A, T, D].
    """
    longer = F.pad(text, (0, 0, 0, 1)).expand(len(tokens), -1, -1, -1)  # empty slots land in the extra row
    index = positions[None, ..., None].expand(tokens.shape)
    return longer.scatter(2, index, tokens.to(text.dtype))[:, :, :-1].contiguous()


def _rows(active: list[bool], device: torch.device) -> slice | Tensor:
    chosen = [row for row, flag in enumerate(active) if flag]
    first, last = (chosen[0], chosen[-1] + 1) if chosen else (0, 0)
    return slice(first, last) if last - first == len(chosen) else torch.tensor(chosen, device=device)
