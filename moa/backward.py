"""Backward passes that keep less: what PyTorch would save for them and this model does not need.

Values and gradients are PyTorch's own, bit for bit; only what is kept between the two passes shrinks. With the prior
frozen a convolution needs no input, the mixture needs one difference instead of both experts, and the gate of a
feed-forward layer is computed again from what is kept anyway.
"""

from __future__ import annotations

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
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if trained or not plain or not (torch.is_grad_enabled() and x.requires_grad):
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
