"""`MoAAttention`: an attention layer of the base model as a mixture of two experts (eq. 1-7).

The prior expert is the pretrained diffusers layer itself, under its own names, through whatever attention processor is
set. One child module, `moa`, holds what MoA adds; its names never end in `to_q/k/v/out`, so LoRA files and tools that
look for those touch the prior only. The mathematics is in the module and not in an attention processor, because
diffusers replaces processors (slicing, QKV fusion, IP-Adapter) and would drop the weights with them.

Letters: B batch, A active rows, N pixels, T text tokens, S subject slots, d width, h heads.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moa.conditioning import MoAContext
from moa.config import MoAConfig
from moa.recorder import Recorder

PLAIN_PIXELS = 16 * 16  # up to this many pixels a training step on a CPU keeps the attention probabilities


class Router(nn.Module):
    """R(z) = softmax(Router(z)) over the two experts, per pixel (eq. 5 and 7).

    The last layer starts at zero: both experts weigh 1/2 everywhere. Its logits have the precision of its weights (fp32
    in training, also under autocast), the softmax is taken in fp32 or better.
    """

    def __init__(self, dim: int, kind: Literal["linear", "mlp"]) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim) if kind == "mlp" else None
        self.logits = nn.Linear(dim, 2)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, z: Tensor) -> Tensor:
        """[A, N, d] -> [A, N, 2]: share of the prior expert (0) and of the personalization expert (1)."""
        if self.hidden is not None:
            z = F.gelu(self.hidden(z))
        if torch.is_grad_enabled() and z.dtype != self.logits.weight.dtype:  # keep z, not its copy in fp32
            return checkpoint(self._shares, z, use_reentrant=False, preserve_rng_state=False)
        return self._shares(z)

    def _shares(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            logits = self.logits(z.to(self.logits.weight.dtype))
        return logits.softmax(dim=-1, dtype=_at_least_fp32(logits))


class MoABranch(nn.Module):
    """What MoA adds to one attention layer: the personalization expert (a trained copy) and the router.

    `index` is the layer's number l in eq. 8. A single branch (ablation 1) has no router.
    """

    def __init__(self, prior: Attention, config: MoAConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = prior.heads
        self.scale = prior.scale
        self.query = _copy(prior.to_q)
        self.key = _copy(prior.to_k)
        self.value = _copy(prior.to_v)
        self.out = _copy(prior.to_out[0])
        self.router = None
        if config.architecture == "moa":
            weight = prior.to_q.weight
            self.router = Router(prior.query_dim, config.router).to(device=weight.device, dtype=weight.dtype)

    def split(self, x: Tensor) -> Tensor:
        """[A, N, d] -> [A, h, N, d/h]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(Q K^T / sqrt(d)) V (eq. 1) of split heads and the output projection: -> [A, N, d]; additive mask."""
        attended = softmax_attention(q, k, v, mask, self.scale)
        return self.out(attended.transpose(1, 2).flatten(2))


class MoAAttention(Attention):
    """A diffusers `Attention` that mixes in its child `moa`; without a context it is that `Attention`, bit for bit."""

    moa: MoABranch

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | tuple[Tensor, Any] | None = None,
        attention_mask: Tensor | None = None,
        moa: MoAContext | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Eq. 4, 6 and 7: sum over n of R_n * Attention(W_q^n z, W_k^n c_n, W_v^n c_n); [B, N, d] -> [B, N, d].

        The personalization expert and the router run on the active rows only; other rows are the prior's, untouched.
        """
        if moa is None:
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        if self.moa.router is None:
            personal = self._personal(hidden_states, encoder_hidden_states, attention_mask, moa)
            if len(personal) == moa.batch:
                return personal
            return moa.put(super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs), personal)
        personal = moa.expert(
            self.moa.index, lambda: self._personal(hidden_states, encoder_hidden_states, attention_mask, moa)
        )
        prior = super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        shares = self.moa.router(moa.take(hidden_states))
        if moa.recorder is not None:
            self._record_router(moa.recorder, shares[..., 0], moa)
        return moa.blend(prior, personal.to(prior.dtype), shares[..., 1:].to(prior.dtype))

    def _personal(
        self, z: Tensor, text: Tensor | tuple[Tensor, Any] | None, mask: Tensor | None, moa: MoAContext
    ) -> Tensor:
        """The personalization expert's output on its rows [A, N, d]; c_1 is z itself in self-attention."""
        z = moa.take(z)
        if isinstance(text, tuple):  # an IP-Adapter rides along: (text, image states)
            text = text[0]
        bias = None if mask is None else moa.take(mask)[:, None]
        condition = z if text is None else moa.prompt(self.moa.index, moa.take(text))
        keys, values = self.moa.key(condition), self.moa.value(condition)
        q, k, v = self.moa.split(self.moa.query(z)), self.moa.split(keys), self.moa.split(values)
        if text is not None and moa.recorder is not None and moa.recorder.subject_columns:
            self._record_columns(moa.recorder, q, k, bias, moa)
        return self.moa.attend(q, k, v, bias)

    def _record_router(self, recorder: Recorder, prior_share: Tensor, moa: MoAContext) -> None:
        maps = prior_share.unflatten(1, moa.grid(prior_share.shape[1]))
        recorder.add_router(self.moa.index, moa.spread(maps, fill=1.0))

    def _record_columns(self, recorder: Recorder, q: Tensor, k: Tensor, bias: Tensor | None, moa: MoAContext) -> None:
        columns = checkpoint(
            subject_columns, q, k, moa.positions, bias, self.moa.scale, use_reentrant=False, preserve_rng_state=False
        )
        maps = columns.unflatten(2, moa.grid(columns.shape[2]))
        recorder.add_attention(self.moa.index, moa.spread(maps, fill=0.0))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(Q K^T scale + mask) V: q [A, h, N, d/h], k and v [A, h, T, d/h] -> [A, h, N, d/h].

    The fused kernel, except where a small model is trained on a CPU: there its backward pass costs more than computing
    and keeping the probabilities, which takes memory of O(N T).
    """
    trained = torch.is_grad_enabled() and q.requires_grad
    if not trained or q.device.type != "cpu" or q.shape[2] > PLAIN_PIXELS:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    scores = (q * scale) @ k.transpose(-1, -2)
    probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)
    return probabilities.to(v.dtype) @ v


def subject_columns(q: Tensor, k: Tensor, positions: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """A_s of eq. 12: attention probability at each subject's token, mean over heads.

    q [A, h, N, d/h], k [A, h, T, d/h], positions [A, S] in 0..T (T: empty slot, its column is 0) -> [A, S, N] in 0..1.
    Called under `checkpoint`, so the backward pass keeps q and k (which attention keeps anyway) and this O(S) result;
    the O(T) probabilities live in one layer at a time, in the forward and again in the backward pass.
    """
    dtype = _at_least_fp32(q)
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    probabilities = F.pad(scores.softmax(dim=-1).mean(dim=1), (0, 1))  # [A, N, T + 1]
    return probabilities.gather(2, positions[:, None].expand(-1, q.shape[2], -1)).transpose(1, 2)


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _copy(linear: nn.Linear) -> nn.Linear:
    """A new `nn.Linear` with the values of `linear`; not a deep copy, which would carry hooks and adapters along."""
    copy = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    for name, parameter in linear.named_parameters(recurse=False):
        setattr(copy, name, nn.Parameter(parameter.detach().clone()))
    return copy
