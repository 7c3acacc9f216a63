"""Backward passes that keep less: what PyTorch would save for them and this model does not need.

Values and gradients are PyTorch's own (of the first three bit for bit); only what is kept between the two passes
shrinks. With the prior frozen a convolution needs no input, the mixture needs one difference instead of both experts,
and the gate of a feed-forward layer is computed again from what is kept anyway; so are the router's input in fp32 and
the attention probabilities that the losses look at.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class FrozenConv2d(nn.Conv2d):
    """An `nn.Conv2d` that forgets its input while its weights are frozen; PyTorch keeps it for their gradient.

    Trained weights, or an input without gradient, take the usual way. `module.__class__ = FrozenConv2d` turns one in.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return super()._conv_forward(x, weight, bias)
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        if trained or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super()._conv_forward(x, weight, bias)
        return _InputGradientOnly.apply(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class RecomputedGEGLU(GEGLU):
    """diffusers' gated feed-forward input, [.., d] -> [.., d_out], which keeps its projection only, not gelu(gate).

    The projection is 2 d_out wide, gelu(gate) d_out: a third of what a feed-forward layer keeps, for one more gelu.
    """

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(hidden_states, *args, **kwargs)
        return _GatedGelu.apply(*self.proj(hidden_states).chunk(2, dim=-1))


def mix(prior: Tensor, personal: Tensor, share: Tensor) -> Tensor:
    """Eq. 7 of two experts: prior [.., d] moved towards personal [.., d] by share [.., 1] in 0..1.

    Keeps personal - prior and the share.
    """
    return _Mixture.apply(prior, personal, share) if torch.is_grad_enabled() else torch.lerp(prior, personal, share)


def routed_shares(z: Tensor, weight: Tensor, bias: Tensor, exact: bool = True) -> Tensor:
    """softmax(z W^T + b) of a router: z [.., d] -> [.., 2], computed in the weights' precision, the softmax in fp32 or
    better. Keeps z as it is, not its copy in that precision. Not `exact`: without a gradient the shares are rounded to
    the weights' precision, which saves a conversion where that is what they are used in."""
    return _Shares.apply(z, weight, bias) if torch.is_grad_enabled() else _shares(z, weight, bias, exact)


def subject_columns(q: Tensor, k: Tensor, positions: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """A_s of eq. 12: attention probability at each subject's token, mean over heads.

    q [A, h, N, d/h], k [A, h, T, d/h], positions [A, S] in 0..T (T: empty slot, its column is 0), bias an additive mask
    -> [A, S, N] in 0..1, fp32 or better. Keeps q and k (which attention keeps anyway); the O(T) probabilities live in
    one layer at a time, in the forward and again in the backward pass.
    """
    if torch.is_grad_enabled():
        return _SubjectColumns.apply(q, k, positions, bias, scale)
    return _columns(_probabilities(q, k, bias, scale), positions)


class _InputGradientOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        y = F.conv2d(x, weight, bias, *geometry)
        ctx.save_for_backward(weight)
        ctx.geometry, ctx.layout, ctx.dtype = geometry, (x.shape, x.stride()), x.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (weight,) = gradients, ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        shape, strides = ctx.layout
        unread = torch.empty_strided(shape, strides, dtype=grad.dtype, device=grad.device)  # only its layout counts
        found, _, _ = torch.ops.aten.convolution_backward(
            grad,
            unread,
            weight.to(grad.dtype),  # under autocast the weights may be wider
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            (True, False, False),
        )
        return found.to(ctx.dtype), *(None,) * 6


class _GatedGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(values, gate)  # views of one projection
        return values * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (grad,), (values, gate) = gradients, ctx.saved_tensors
        return grad * F.gelu(gate), torch.ops.aten.gelu_backward(grad * values, gate)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, prior: Tensor, personal: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(personal - prior, share)
        return torch.lerp(prior, personal, share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (grad,), (difference, share) = gradients, ctx.saved_tensors
        return grad * (1 - share), grad * share, (grad * difference).sum(dim=-1, keepdim=True)


class _Shares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shares = _shares(z, weight, bias)
        ctx.save_for_backward(z, weight, shares)
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (z, weight, shares) = gradients, ctx.saved_tensors
        with _without_autocast(z):
            logits = torch._softmax_backward_data(grad, shares, -1, shares.dtype).to(weight.dtype)
            of_z = (logits @ weight).to(z.dtype) if ctx.needs_input_grad[0] else None
            flat = logits.flatten(0, -2)
            return of_z, flat.T @ z.flatten(0, -2).to(weight.dtype), flat.sum(dim=0)


class _SubjectColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, positions: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, positions, bias)
        ctx.scale = scale
        return _columns(_probabilities(q, k, bias, scale), positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (q, k, positions, bias) = gradients, ctx.saved_tensors
        probabilities = _probabilities(q, k, bias, ctx.scale)
        rows, heads, pixels, tokens = probabilities.shape
        where = positions[:, None].expand(-1, pixels, -1)
        wanted = grad.new_zeros(rows, pixels, tokens + 1).scatter_add_(2, where, grad.transpose(1, 2) / heads)
        wanted = wanted[:, None, :, :-1].expand_as(probabilities)
        scores = torch._softmax_backward_data(wanted, probabilities, -1, probabilities.dtype) * ctx.scale
        with _without_autocast(q):
            of_q = scores @ k.to(scores.dtype)
            of_k = scores.transpose(-1, -2) @ q.to(scores.dtype)
        return of_q.to(q.dtype), of_k.to(k.dtype), None, None, None


def _shares(z: Tensor, weight: Tensor, bias: Tensor, exact: bool = True) -> Tensor:
    with _without_autocast(z):
        logits = F.linear(z.to(weight.dtype), weight, bias)
        return logits.softmax(dim=-1, dtype=_at_least_fp32(logits) if exact else logits.dtype)


def _probabilities(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """[A, h, N, T], in fp32 or better."""
    dtype = _at_least_fp32(q)
    with _without_autocast(q):
        scores = (q.to(dtype) * scale) @ k.to(dtype).transpose(-1, -2)
    return (scores if bias is None else scores + bias).softmax(dim=-1)


def _columns(probabilities: Tensor, positions: Tensor) -> Tensor:
    tokens = probabilities.shape[-1]
    where = positions.clamp(max=tokens - 1)[:, None, None].expand(*probabilities.shape[:3], -1)
    columns = probabilities.gather(3, where).mean(dim=1).transpose(1, 2)
    return columns.masked_fill((positions == tokens)[..., None], 0.0)


def _without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
