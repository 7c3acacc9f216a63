"""Leaner backward passes: PyTorch's values and gradients, less kept.    pytest tests/moa/test_backward.py"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from moa.backward import FrozenConv2d, RecomputedGEGLU, mix, routed_shares, subject_columns
from moa.conditioning import MoAInput
from tests.tiny_models import IMAGE_DIM, LATENT_SIZE, MAX_TOKENS, TEXT_DIM, tiny_moa_unet

PRECISIONS = ["fp32", "bf16", "autocast"]


def step(function: Callable[..., Tensor], inputs: list[Tensor], autocast: bool) -> tuple[list[Tensor], int]:
    """Output and input gradients of one forward and backward pass, and the bytes kept in between."""
    given = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in inputs]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = function(*given)
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        loss = (output * weight).sum()
    loss.backward()
    return [output.detach(), *(tensor.grad for tensor in given)], sum(kept.values())


def same_and_leaner(stock, lean, inputs: list[Tensor], precision: str) -> None:
    inputs = [tensor.bfloat16() for tensor in inputs] if precision == "bf16" else inputs
    expected, much = step(stock, inputs, precision == "autocast")
    found, less = step(lean, inputs, precision == "autocast")
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert less < much


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
        {"kernel_size": 3, "dilation": 2, "groups": 2},
        {"kernel_size": 1},
    ],
    ids=str,
)
def test_a_frozen_convolution_forgets_its_input(precision, options):
    convolution = nn.Conv2d(4, 6, **options).requires_grad_(False)
    lean = nn.Conv2d(4, 6, **options).requires_grad_(False)
    lean.__class__ = FrozenConv2d
    lean.load_state_dict(convolution.state_dict())
    if precision == "bf16":
        convolution, lean = convolution.bfloat16(), lean.bfloat16()
    same_and_leaner(convolution, lean, [torch.randn(2, 4, 9, 9)], precision)


@pytest.mark.parametrize("weights", [torch.channels_last, torch.contiguous_format], ids=str)
def test_a_frozen_convolution_keeps_the_memory_format(weights):
    convolution, lean = nn.Conv2d(4, 6, 3).requires_grad_(False), nn.Conv2d(4, 6, 3).requires_grad_(False)
    lean.__class__ = FrozenConv2d
    lean.load_state_dict(convolution.state_dict())
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    convolution, lean = (module.to(memory_format=weights) for module in (convolution, lean))
    (_, theirs), (_, ours) = step(convolution, [x], False)[0], step(lean, [x], False)[0]
    assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


@pytest.mark.parametrize("trained", ["weight", "bias"])
@pytest.mark.parametrize("padding", [1, "same"])
def test_a_trained_convolution_gets_its_gradients(trained, padding):
    convolution = FrozenConv2d(4, 6, 3, padding=padding).requires_grad_(False)
    getattr(convolution, trained).requires_grad_()
    convolution(torch.randn(2, 4, 9, 9, requires_grad=True)).square().sum().backward()
    assert getattr(convolution, trained).grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}], ids=str)
def test_a_frozen_convolution_of_another_padding_takes_the_usual_way(options):
    """As of pictures without a seam."""
    convolution = nn.Conv2d(4, 6, 3, **options).requires_grad_(False)
    lean = nn.Conv2d(4, 6, 3, **options).requires_grad_(False)
    lean.__class__ = FrozenConv2d
    lean.load_state_dict(convolution.state_dict())
    x = torch.randn(2, 4, 9, 9)
    for theirs, ours in zip(step(convolution, [x], False)[0], step(lean, [x], False)[0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gate_is_computed_again(precision):
    stock, lean = GEGLU(6, 10).requires_grad_(False), RecomputedGEGLU(6, 10).requires_grad_(False)
    lean.load_state_dict(stock.state_dict())
    if precision == "bf16":
        stock, lean = stock.bfloat16(), lean.bfloat16()
    same_and_leaner(stock, lean, [torch.randn(2, 16, 6)], precision)
    with torch.no_grad():
        x = torch.randn(2, 16, 6, dtype=stock.proj.weight.dtype)
        assert torch.equal(lean(x), stock(x))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_mixture_keeps_one_difference(precision):
    inputs = [torch.randn(2, 16, 6), torch.randn(2, 16, 6), torch.rand(2, 16, 1)]
    same_and_leaner(torch.lerp, mix, inputs, precision)


def test_gradients_are_those_of_finite_differences():
    inputs = [torch.randn(2, 3, 5), torch.randn(2, 3, 5), torch.rand(2, 3, 1)]
    assert torch.autograd.gradcheck(mix, [tensor.double().requires_grad_() for tensor in inputs])
    convolution = FrozenConv2d(2, 3, 3, padding=1).double().requires_grad_(False)
    assert torch.autograd.gradcheck(convolution, [torch.randn(1, 2, 4, 4).double().requires_grad_()])
    gate = RecomputedGEGLU(3, 4).double().requires_grad_(False)
    assert torch.autograd.gradcheck(gate, [torch.randn(2, 3).double().requires_grad_()])
    router = [torch.randn(2, 4, 3), torch.randn(2, 3), torch.randn(2)]
    assert torch.autograd.gradcheck(routed_shares, [tensor.double().requires_grad_() for tensor in router])
    q, k = (torch.randn(2, 3, n, 4).double().requires_grad_() for n in (5, 6))
    positions, bias = torch.tensor([[2, 5], [6, 0]]), torch.randn(2, 1, 1, 6).double()  # 6: an empty slot
    for mask in (None, bias):
        assert torch.autograd.gradcheck(lambda q, k, m=mask: subject_columns(q, k, positions, m, 0.7), [q, k])


def test_two_slots_at_one_token_add_their_gradients():
    q, k = (torch.randn(1, 2, n, 4).double().requires_grad_() for n in (5, 6))
    weights = torch.randn(1, 2, 5).double()
    both = subject_columns(q, k, torch.tensor([[3, 3]]), None, 0.5)
    one = subject_columns(q, k, torch.tensor([[3]]), None, 0.5)
    found = torch.autograd.grad((both * weights).sum(), (q, k))
    torch.testing.assert_close(found, torch.autograd.grad((one * weights.sum(1, keepdim=True)).sum(), (q, k)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_shares_are_rounded_once(dtype):
    z, weight, bias = (4 * torch.randn(size, dtype=dtype) for size in ((2, 500, 32), (2, 32), (2,)))
    assert torch.equal(routed_shares(z, weight, bias, exact=False), routed_shares(z, weight, bias).to(dtype))


def test_a_router_in_full_precision_keeps_its_input_in_half():
    z, weight, bias = torch.randn(2, 64, 32).bfloat16(), torch.randn(2, 32), torch.randn(2)

    def plainly(z: Tensor) -> Tensor:
        return torch.nn.functional.linear(z.float(), weight, bias).softmax(dim=-1)

    weight.requires_grad_(), bias.requires_grad_()
    (theirs, of_theirs), much = step(plainly, [z], False)
    expected = weight.grad, bias.grad
    weight.grad = bias.grad = None
    (ours, of_ours), less = step(lambda z: routed_shares(z, weight, bias), [z], False)
    assert torch.equal(ours, theirs) and torch.equal(of_ours, of_theirs) and less < 0.7 * much
    torch.testing.assert_close((weight.grad, bias.grad), expected)


def columns(q: Tensor, k: Tensor) -> Tensor:
    return subject_columns(q, k, torch.tensor([[3]]), None, 0.5)


def test_training_compiles_without_a_graph_break():
    convolution, gate = FrozenConv2d(4, 6, 3).requires_grad_(False), RecomputedGEGLU(6, 10).requires_grad_(False)
    cases = [
        (mix, [torch.randn(2, 5, 6), torch.randn(2, 5, 6), torch.rand(2, 5, 1)]),
        (convolution, [torch.randn(1, 4, 9, 9)]),
        (gate, [torch.randn(2, 6)]),
        (routed_shares, [torch.randn(2, 5, 6), torch.randn(2, 6), torch.randn(2)]),
        (columns, [torch.randn(1, 2, 5, 4), torch.randn(1, 2, 6, 4)]),
    ]
    for function, inputs in cases:
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for ours, theirs in zip(step(compiled, inputs, False)[0], step(function, inputs, False)[0], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_unet_uses_them_and_an_unfrozen_prior_still_trains():
    unet = tiny_moa_unet()
    assert {type(m) for m in unet.modules() if isinstance(m, nn.Conv2d)} == {FrozenConv2d}
    assert {type(m) for m in unet.modules() if isinstance(m, GEGLU)} == {RecomputedGEGLU}
    unet.requires_grad_(True)
    moa = MoAInput(torch.randn(1, 1, IMAGE_DIM), torch.tensor([[2]]), torch.tensor([True]))
    latents, text = torch.randn(1, 4, LATENT_SIZE, LATENT_SIZE), torch.randn(1, MAX_TOKENS, TEXT_DIM)
    unet(latents, 500, text, cross_attention_kwargs={"moa": moa}).sample.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in unet.parameters())
