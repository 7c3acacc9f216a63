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
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from moa.backward import routed_shares, subject_columns
from moa.conditioning import MoAContext
from moa.config import MoAConfig
from moa.recorder import Recorder

PLAIN_PIXELS = 16 * 16  # up to this many pixels a training step on a CPU keeps the attention probabilities


class ExpertLinear(nn.Linear):
    """A linear layer that computes in the precision of its input, whatever that of its weights: what is trained is kept
    in fp32, what is frozen, and with it what flows through the network, in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if weight.dtype != x.dtype:
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return F.linear(x, weight, bias)


class RoutedShares(nn.Linear):
    """The router's last layer and the softmax over its outputs: [.., d] -> shares [.., 2]. The logits have the
    precision of the weights (fp32 in training, also under autocast)."""

    def forward(self, z: Tensor, exact: bool = True) -> Tensor:
        return routed_shares(z, self.weight, self.bias, exact)


class Router(nn.Module):
    """R(z) = softmax(Router(z)) over the two experts, per pixel (eq. 5 and 7).

    The last layer starts at zero: both experts weigh 1/2 everywhere.
    """

    def __init__(self, dim: int, kind: Literal["linear", "mlp"]) -> None:
        super().__init__()
        self.hidden = ExpertLinear(dim, dim) if kind == "mlp" else None
        self.logits = RoutedShares(dim, 2)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, z: Tensor, exact: bool = True) -> Tensor:
        """[A, N, d] -> [A, N, 2]: share of the prior expert (0) and of the personalization expert (1), in fp32 or
        better; not `exact`: where no gradient is recorded, rounded to the precision of the logits."""
        shares: Tensor = self.logits(z if self.hidden is None else F.gelu(self.hidden(z)), exact)
        return shares


class PriorAttention(Attention):
    """A diffusers `Attention` that is no mixture, beside others that are. Its block passes the context to both:
    diffusers would warn of it in each call, and `torch.compile` break its graph there."""

    def forward(self, *args: Any, moa: MoAContext | None = None, **kwargs: Any) -> Tensor:
        """As in diffusers, without `moa`."""
        return super().forward(*args, **kwargs)


class MoABranch(nn.Module):
    """What MoA adds to one attention layer: the personalization expert (a trained copy) and the router.

    `index` is the layer's number l in eq. 8. A single branch (ablation 1) has no router.
    """

    def __init__(self, prior: Attention, config: MoAConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads = prior.heads
        self.scale = prior.scale
        self.usual_prior = _is_usual(prior)
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
        return x.view(x.shape[0], x.shape[1], self.heads, x.shape[2] // self.heads).transpose(1, 2)

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
            return moa.put(self._prior(hidden_states, encoder_hidden_states, attention_mask, **kwargs), personal)
        personal = moa.expert(
            self.moa.index, lambda: self._personal(hidden_states, encoder_hidden_states, attention_mask, moa)
        )
        prior = self._prior(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        shares = self.moa.router(moa.take(hidden_states), exact=moa.recorder is not None)
        if moa.recorder is not None:
            self._record_router(moa.recorder, shares[..., 0], moa)
        return moa.blend(prior, personal.to(prior.dtype), shares[..., 1:].to(prior.dtype))

    def _prior(self, z: Tensor, text: Any, mask: Tensor | None, **kwargs: Any) -> Tensor:
        """The prior expert's output [B, N, d], the same bits whichever way.

        The usual one is short, for GPUs that wait for their launches: diffusers reads the processor's signature in each
        call, and divides by one.
        """
        if kwargs or mask is not None or not self.moa.usual_prior or type(self.processor) is not AttnProcessor2_0:
            return super().forward(z, text, mask, **kwargs)
        condition = z if text is None else text
        q, k, v = (self.moa.split(x) for x in (self.to_q(z), self.to_k(condition), self.to_v(condition)))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        output: Tensor = self.to_out[1](self.to_out[0](attended))
        return output

    def _personal(
        self, z: Tensor, text: Tensor | tuple[Tensor, Any] | None, mask: Tensor | None, moa: MoAContext
    ) -> Tensor:
        """The personalization expert's output on its rows [A, N, d]; c_1 is z itself in self-attention, where there is
        no `text` (with an IP-Adapter: text and image states)."""
        z = moa.take(z)
        bias = None if mask is None else moa.take(mask)[:, None]
        condition = z if text is None else moa.prompts[self.moa.index]
        keys, values = self.moa.key(condition), self.moa.value(condition)
        q, k, v = self.moa.split(self.moa.query(z)), self.moa.split(keys), self.moa.split(values)
        if text is not None and moa.recorder is not None and moa.recorder.subject_columns:
            self._record_columns(moa.recorder, q, k, bias, moa)
        return self.moa.attend(q, k, v, bias)

    def _record_router(self, recorder: Recorder, prior_share: Tensor, moa: MoAContext) -> None:
        maps = prior_share.unflatten(1, moa.grid(prior_share.shape[1]))
        recorder.add_router(self.moa.index, moa.spread(maps, fill=1.0))

    def _record_columns(self, recorder: Recorder, q: Tensor, k: Tensor, bias: Tensor | None, moa: MoAContext) -> None:
        columns = subject_columns(q, k, moa.positions, bias, self.moa.scale)
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


def _is_usual(layer: Attention) -> bool:
    """Whether it has none of the options of diffusers that Stable Diffusion's transformer blocks do not use."""
    norms = (layer.group_norm, layer.spatial_norm, layer.norm_q, layer.norm_k, layer.norm_cross)
    return not any(norms) and not layer.residual_connection and layer.rescale_output_factor == 1


def _copy(linear: nn.Linear) -> ExpertLinear:
    """A new layer with the values of `linear`; not a deep copy, which would carry hooks and adapters along."""
    copy = ExpertLinear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    for name, parameter in linear.named_parameters(recurse=False):
        setattr(copy, name, nn.Parameter(parameter.detach().clone()))
    return copy
