"""Eq. 9-12 with numbers by hand and against loops in float64.    pytest tests/moa/test_losses.py"""

from __future__ import annotations

import pytest
import torch

from moa.losses import masked_loss, object_loss, resize, router_loss, total_loss


def test_masked_loss_sees_the_foreground_only():
    target = torch.zeros(1, 2, 1, 2)
    prediction = torch.tensor([[[[1.0, 9.0]], [[3.0, 9.0]]]])
    foreground = torch.tensor([[[[1.0, 0.0]]]])
    assert masked_loss(prediction, target, foreground).item() == pytest.approx((1 + 9) / 2)


def test_masked_loss_with_a_full_mask_is_the_diffusion_loss():
    prediction, target = torch.randn(2, 3, 4, 4, 4).unbind(0)
    expected = torch.nn.functional.mse_loss(prediction, target)
    torch.testing.assert_close(masked_loss(prediction, target, torch.ones(3, 1, 4, 4)), expected)


def test_masked_loss_weighs_samples_equally_and_survives_an_empty_mask():
    prediction, target = torch.ones(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    foreground = torch.zeros(3, 1, 4, 4)
    foreground[0, 0, 0, 0] = 1
    foreground[1] = 1
    assert masked_loss(prediction, target, foreground).item() == pytest.approx(2 / 3)


def test_a_person_of_less_than_a_pixel_counts_as_much_as_any():
    """A face far away on the latents, or anybody on the coarsest attention maps."""
    prediction, foreground = torch.full((1, 1, 2, 2), 3.0), torch.zeros(1, 1, 2, 2)
    foreground[0, 0, 0, 0] = 0.25
    assert masked_loss(prediction, torch.zeros(1, 1, 2, 2), foreground).item() == pytest.approx(9)
    maps, mask = torch.tensor([[[[0.8, 0.1], [0.1, 0.3]]]]), foreground.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = (0.75 * 0.8 + 0.1 + 0.1 + 0.3) / 3.75 - 0.8
    assert object_loss([maps], mask, torch.tensor([[True]])).item() == pytest.approx(expected)


def test_errors_of_half_precision_are_squared_in_full():
    prediction = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)  # its square is beyond fp16
    assert masked_loss(prediction, torch.zeros_like(prediction), torch.ones(1, 1, 1, 1)).item() == 90_000


def test_router_loss_by_hand():
    foreground = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]])
    first = torch.tensor([[[0.0, 0.5], [1.0, 0.4]]])
    second = torch.tensor([[[0.0, 0.7], [1.0, 0.0]]])
    mean = [0.6, 1.0, 0.2]  # of the pixels that are not foreground
    expected = (1 * (1 - mean[0])) ** 2 + (1 * (1 - mean[1])) ** 2 + (0.5 * (1 - mean[2])) ** 2
    assert router_loss([first, second], foreground).item() == pytest.approx(expected)


def test_router_loss_accumulates_layers_before_the_square():
    """Eq. 10: two layers that err in opposite places are judged by their mean, not one by one."""
    foreground = torch.zeros(1, 1, 1, 2)
    maps = [torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])]
    assert router_loss(maps, foreground).item() == pytest.approx(2 * 0.5**2)


def test_router_loss_of_mixed_resolutions_against_loops():
    sizes = [(8, 8), (4, 4), (2, 2), (4, 4)]
    maps = [torch.rand(3, h, w).double() for h, w in sizes]
    foreground = torch.rand(3, 1, 16, 16).double()
    expected = 0.0
    for row in range(3):
        for y in range(8):
            for x in range(8):
                share = sum(float(m[row, y * h // 8, x * w // 8]) for m, (h, w) in zip(maps, sizes, strict=True)) / 4
                mask = float(foreground[row, 0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean())
                expected += ((1 - mask) * (1 - share)) ** 2 / 3
    assert router_loss(maps, foreground).item() == pytest.approx(expected, rel=1e-5)


def test_router_loss_has_no_target_in_the_foreground():
    share = torch.rand(1, 4, 4, requires_grad=True)
    foreground = torch.zeros(1, 1, 4, 4)
    foreground[..., :2] = 1
    router_loss([share], foreground).backward()
    assert share.grad is not None
    assert not share.grad[..., :2].any()
    assert (share.grad[..., 2:] <= 0).all()  # a step down the gradient raises the prior's share


def test_object_loss_by_hand():
    maps = torch.tensor([[[[0.8, 0.1], [0.1, 0.3]]]])
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    expected = (0.1 + 0.1 + 0.3) / 3 - 0.8
    assert object_loss([maps], masks, torch.tensor([[True]])).item() == pytest.approx(expected)


def test_object_loss_against_loops():
    maps = [torch.rand(3, 4, size, size).double() for size in (8, 4, 4)]
    masks = (torch.rand(3, 4, 8, 8) > 0.5).double()
    masks[1, 2] = 0  # present, but nothing of it is visible
    present = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    counted = {0: [0, 1], 1: [0]}
    total = 0.0
    for row, slots in counted.items():
        for slot in slots:
            for layer in maps:
                step = 8 // layer.shape[-1]
                mask = masks[row, slot].unfold(0, step, step).unfold(1, step, step).mean(dim=(2, 3))
                a = layer[row, slot]
                off = float((a * (1 - mask)).sum() / (1 - mask).sum())
                on = float((a * mask).sum() / mask.sum())
                total += (off - on) / len(maps) / len(slots) / len(maps[0])  # a sample without subjects counts, with 0
    assert object_loss(maps, masks, present).item() == pytest.approx(total, rel=1e-4)


def test_object_loss_without_subjects_is_zero_with_a_gradient():
    maps = torch.rand(2, 1, 4, 4, requires_grad=True)
    loss = object_loss([maps], torch.zeros(2, 1, 4, 4), torch.zeros(2, 1).bool())
    loss.backward()
    assert loss.item() == 0 and not maps.grad.any()


def test_any_split_of_a_batch_has_the_loss_and_gradient_of_the_whole():
    """Samples of two subjects, one, an invisible one and none."""
    maps = [torch.rand(4, 2, 4, 4), torch.rand(4, 2, 2, 2)]
    masks = (torch.rand(4, 2, 8, 8) > 0.5).float()
    masks[2] = 0
    present = torch.tensor([[True, True], [True, False], [True, False], [False, False]])
    found = []
    for size in (4, 2, 1):
        pieces = [layer.clone().requires_grad_() for layer in maps]
        total = torch.zeros(())
        for first in range(0, 4, size):
            part = slice(first, first + size)
            total = total + object_loss([layer[part] for layer in pieces], masks[part], present[part]) * size / 4
        found.append([total, *torch.autograd.grad(total, pieces)])
    for split in found[1:]:
        for ours, whole in zip(split, found[0], strict=True):
            torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize(
    ("before", "after"), [((8, 8), (4, 2)), ((3, 4), (6, 12)), ((15, 9), (8, 5)), ((8, 5), (15, 9))]
)
def test_resize_is_adaptive_pooling_for_any_sizes(before, after):
    maps = torch.rand(2, 3, *before, requires_grad=True)
    ours, theirs = resize(maps, after), torch.nn.functional.adaptive_avg_pool2d(maps, after)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand_like(ours)
    gradients = [torch.autograd.grad((x * weights).sum(), maps)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "loss",
    [
        lambda: router_loss([], torch.ones(1, 1, 2, 2)),
        lambda: object_loss([], torch.ones(1, 1, 2, 2), torch.ones(1, 1).bool()),
    ],
)
def test_no_maps_is_an_error_and_not_a_loss_of_zero(loss):
    with pytest.raises(ValueError, match="needs at least one"):
        loss()


def test_total_loss_is_equation_11():
    masked, router, object_ = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(-0.5)
    assert total_loss(masked, router, object_).item() == pytest.approx(2 + 1e-4 * 3 - 1e-4 * 0.5)
    assert total_loss(masked, router, object_, 0.1, 0.2).item() == pytest.approx(2 + 0.3 - 0.1)
    assert total_loss(masked, 0.0, object_, 0.1, 0.2).item() == pytest.approx(2 - 0.1)
