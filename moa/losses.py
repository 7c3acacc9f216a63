"""The training objective, eq. 9-12: pure functions of tensors, no model, no randomness.

Masks are soft: 1 inside, 0 outside, area-averaged where a map is coarser than the mask. All sums are taken in fp32.
Letters: B batch, S subject slots, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    sums = sums_by_size(router_maps)
    finest = max(sums, key=lambda size: size[0] * size[1])
    prior_share = torch.stack([resize(maps, finest) for maps in sums.values()]).sum(dim=0) / len(router_maps)
    background = 1 - resize(foreground.float(), finest).squeeze(1)
    return (background * (1 - prior_share)).square().sum(dim=(1, 2)).mean()


def object_loss(attention_maps: Sequence[Tensor], subject_masks: Tensor, present: Tensor) -> Tensor:
    """Eq. 12: FastComposer's balanced L1, mean over subjects of [mean of A_s off the mask - mean of A_s on the mask].

    attention_maps: one [B, S, h_l, w_l] for each cross-attention layer, values 0..1; subject_masks [B, S, H, W];
    present [B, S] bool. Each layer is compared at its own resolution with the area-averaged mask, and layers are
    averaged. Subjects of one sample are averaged first, then all B samples: -1 (perfect) .. 1. Subjects that are not
    present or have an empty mask do not count, and a sample without any adds 0; so, as with the other losses, the mean
    over equal parts of a batch is the batch's.
    """
    if not attention_maps:
        raise ValueError("object_loss needs at least one attention map: record with Recorder(subject_columns=True)")
    subject_masks = subject_masks.float()
    counts = present & (subject_masks.mean(dim=(2, 3)) > EPSILON)
    sums = [_balanced_l1(maps, resize(subject_masks, size)) for size, maps in sums_by_size(attention_maps).items()]
    per_subject = torch.where(counts, torch.stack(sums).sum(dim=0) / len(attention_maps), 0.0)
    return (per_subject.sum(dim=1) / counts.sum(dim=1).clamp(min=1)).mean()


def total_loss(
    masked: Tensor,
    router: Tensor | float,
    object_: Tensor | float,
    lambda_router: float = 1e-4,
    lambda_object: float = 1e-4,
) -> Tensor:
    """Eq. 11: L = L_masked + lambda_r L_router + lambda_o L_object; pass 0.0 for a term a method does not have."""
    return masked + lambda_router * router + lambda_object * object_


def sums_by_size(layers: Sequence[Tensor]) -> dict[tuple[int, int], Tensor]:
    """Size -> the sum, in fp32, of the maps [.., h_l, w_l] that have it. What is linear in the maps of many layers
    (means inside a mask, enlargement) is then done once for each of the U-Net's few sizes."""
    sums: dict[tuple[int, int], Tensor] = {}
    for maps in layers:
        size = _size(maps)
        sums[size] = sums[size] + maps.float() if size in sums else maps.float()
    return sums


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[.., h, w] fp32 to [.., *size]: each new pixel is the mean of the pixels it touches, as in adaptive pooling.

    As two matrix products, whose gradient, unlike the pooling's, is the same bits each time on a GPU too.
    """
    if _size(maps) == size:
        return maps
    rows, columns = (_touching(*pair, maps.device) for pair in zip(_size(maps), size, strict=True))
    return rows @ maps @ columns.T


def _touching(before: int, after: int, device: torch.device) -> Tensor:
    """[after, before]: weights of `before` pixels in the means of `after` pixels along the same edge."""
    old, new = torch.arange(before, device=device), torch.arange(after, device=device)[:, None]
    touches = ((old * after < (new + 1) * before) & ((old + 1) * after > new * before)).float()
    return touches / touches.sum(dim=1, keepdim=True)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _balanced_l1(maps: Tensor, masks: Tensor) -> Tensor:
    return _mean_inside(maps, 1 - masks, dims=(2, 3)) - _mean_inside(maps, masks, dims=(2, 3))


def _mean_inside(values: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (values * mask).sum(dim=dims) / mask.sum(dim=dims).clamp(min=EPSILON)
