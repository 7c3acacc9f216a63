"""The training objective, eq. 9-12: pure functions of tensors, no model, no randomness.

Masks are soft: 1 inside, 0 outside, area-averaged where a map is coarser than the mask. All sums are taken in fp32.
Letters: B batch, S subject slots, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6  # share of a pixel below which a soft mask counts as empty


def masked_loss(prediction: Tensor, target: Tensor, foreground: Tensor) -> Tensor:
    """L_masked: noise-prediction error on foreground pixels only.

    prediction, target [B, C, h, w]; foreground [B, 1, h, w] in 0..1 (all ones: the plain diffusion loss). Mean over
    the foreground of each sample, then over the batch, so a small face counts as much as a large one. A sample
    without foreground contributes 0.
    """
    error = (prediction.float() - target.float()).square().mean(dim=1, keepdim=True)
    return _mean_inside(error, foreground.float(), dims=(1, 2, 3)).mean()


def router_loss(router_maps: Sequence[Tensor], foreground: Tensor) -> Tensor:
    """Eq. 9 and 10: L_router = || (1 - M) * (1 - R) ||_2^2, R the mean over the layers in L of the prior's share.

    router_maps: one [B, h_l, w_l] for each layer in L (`MoALayer.in_router_loss`), values 0..1; foreground M
    [B, 1, h, w]. As eq. 10 asks, layers are accumulated before the loss: maps are enlarged to the resolution of the
    finest layer, where the mask is area-averaged to it. The norm is the paper's: a sum over pixels, then the mean over
    the batch. Foreground pixels have no target. Raises ValueError for an empty L.
    """
    if not router_maps:
        raise ValueError("router_loss needs at least one router map: no layer of this model is in L of eq. 10")
    size = max(((maps.shape[-2], maps.shape[-1]) for maps in router_maps), key=lambda s: s[0] * s[1])
    prior_share = torch.stack([_resize(maps[:, None].float(), size) for maps in router_maps]).mean(dim=0)
    background = 1 - _resize(foreground.float(), size)
    return (background * (1 - prior_share)).square().sum(dim=(1, 2, 3)).mean()


def object_loss(attention_maps: Sequence[Tensor], subject_masks: Tensor, present: Tensor) -> Tensor:
    """Eq. 12: FastComposer's balanced L1, mean over subjects of [mean of A_s off the mask - mean of A_s on the mask].

    attention_maps: one [B, S, h_l, w_l] for each cross-attention layer, values 0..1; subject_masks [B, S, H, W];
    present [B, S] bool. Each layer is compared at its own resolution with the area-averaged mask, and layers are
    averaged. Subjects of one sample are averaged first, then the samples that have any: -1 (perfect) .. 1. Subjects
    that are not present or have an empty mask do not count; without any the loss is 0.
    """
    if not attention_maps:
        raise ValueError("object_loss needs at least one attention map: record with Recorder(subject_columns=True)")
    counts = present & (subject_masks.float().mean(dim=(2, 3)) > EPSILON)
    per_layer = [_balanced_l1(maps.float(), subject_masks.float()) for maps in attention_maps]
    per_subject = torch.where(counts, torch.stack(per_layer).mean(dim=0), 0.0)
    per_sample = per_subject.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return per_sample.sum() / counts.any(dim=1).sum().clamp(min=1)


def total_loss(
    masked: Tensor,
    router: Tensor | float,
    object_: Tensor | float,
    lambda_router: float = 1e-4,
    lambda_object: float = 1e-4,
) -> Tensor:
    """Eq. 11: L = L_masked + lambda_r L_router + lambda_o L_object; pass 0.0 for a term a method does not have."""
    return masked + lambda_router * router + lambda_object * object_


def _balanced_l1(maps: Tensor, masks: Tensor) -> Tensor:
    masks = _resize(masks, (maps.shape[-2], maps.shape[-1]))
    return _mean_inside(maps, 1 - masks, dims=(2, 3)) - _mean_inside(maps, masks, dims=(2, 3))


def _mean_inside(values: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (values * mask).sum(dim=dims) / mask.sum(dim=dims).clamp(min=EPSILON)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] to `size`: area average when it shrinks, each pixel repeated over its area when it grows."""
    return maps if tuple(maps.shape[-2:]) == size else F.adaptive_avg_pool2d(maps, size)
