"""Eq. 1-7 against loops in float64.    pytest tests/moa/test_layers.py"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, SlicedAttnProcessor
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from moa.backward import subject_columns
from moa.conditioning import MoAContext, multimodal_prompts
from moa.config import MoAConfig
from moa.layers import ExpertLinear, MoAAttention, MoABranch, Router, softmax_attention
from moa.recorder import Recorder

DIM, TEXT, HEADS, PIXELS, TOKENS = 12, 10, 3, 16, 7
LAYER = 5


def layer(cross: bool, **config) -> MoAAttention:
    """A mixture whose two experts and router differ, in float64."""
    attention = Attention(DIM, TEXT if cross else None, heads=HEADS, dim_head=DIM // HEADS).double().eval()
    attention.__class__ = MoAAttention
    attention.moa = MoABranch(attention, MoAConfig(image_dim=4, **config), LAYER)
    with torch.no_grad():
        for parameter in attention.moa.parameters():
            parameter.add_(torch.randn_like(parameter))
    return attention


def context(rows, text: Tensor, tokens: Tensor, positions: Tensor, recorder: Recorder | None = None) -> MoAContext:
    """For text of all rows, tokens and positions of the active ones."""
    prompts = multimodal_prompts(text[rows], tokens[None], positions)
    return MoAContext(len(text), rows, {LAYER: prompts[0]}, positions, (4, 4), recorder)


def without_subjects(batch: int, rows) -> MoAContext:
    return MoAContext(batch, rows, {}, torch.zeros(batch, 0, dtype=torch.long), (4, 4), None)


def attend_by_loops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Eq. 1, one head, one pixel, one token at a time: [N, d], [T, d], [T, d] -> [N, d]."""
    size = q.shape[-1] // HEADS
    out = torch.zeros_like(q)
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        for n in range(len(q)):
            weights = [math.exp(float(q[n, part] @ k[t, part]) / math.sqrt(size)) for t in range(len(k))]
            for t in range(len(k)):
                out[n, part] += weights[t] / sum(weights) * v[t, part]
    return out


def expert_by_loops(z: Tensor, c: Tensor, query, key, value, out) -> Tensor:
    """Eq. 2 and 3 with explicit matrices."""
    q, k, v = z @ query.weight.T, c @ key.weight.T, c @ value.weight.T
    return attend_by_loops(q, k, v) @ out.weight.T + out.bias


def mixture_by_loops(attention: MoAAttention, z: Tensor, c0: Tensor, c1: Tensor) -> Tensor:
    """Eq. 4-7 for one row."""
    prior = expert_by_loops(z, c0, attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    moa = attention.moa
    personal = expert_by_loops(z, c1, moa.query, moa.key, moa.value, moa.out)
    logits = z @ moa.router.logits.weight.T + moa.router.logits.bias
    shares = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    return shares[:, :1] * prior + shares[:, 1:] * personal


@torch.no_grad()
@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 3), torch.tensor([0, 2])], ids=["all", "guidance", "scattered"])
def test_cross_attention_is_equations_1_to_7(rows):
    attention = layer(cross=True)
    z, text, tokens = torch.randn(3, PIXELS, DIM), torch.randn(3, TOKENS, TEXT), torch.randn(3, 2, TEXT)
    z, text, tokens = z.double(), text.double(), tokens.double()
    positions = torch.tensor([[2, 5], [3, TOKENS], [6, 1]])  # the second row has one subject
    out = attention(z, text, moa=context(rows, text, tokens[rows], positions[rows]))
    prior = attention(z, text)
    active = torch.arange(3)[rows].tolist()
    for row in range(3):
        c1 = text[row].clone()
        for slot, position in enumerate(positions[row].tolist()):
            if position < TOKENS:
                c1[position] = tokens[row, slot]
        expected = mixture_by_loops(attention, z[row], text[row], c1) if row in active else prior[row]
        torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-9)
    assert not any(torch.allclose(out[row], prior[row]) for row in active)


@pytest.mark.parametrize("masked", [False, True])
def test_training_on_a_cpu_attends_as_the_fused_kernel_does(masked):
    q, k, v = (torch.randn(2, 3, n, 4).double().requires_grad_() for n in (PIXELS, TOKENS, TOKENS))
    mask = torch.randn(2, 1, 1, TOKENS).double() if masked else None
    out, fused = softmax_attention(q, k, v, mask, 0.3), scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    assert "ScaledDotProduct" not in type(out.grad_fn).__name__, "the fused kernel was used"
    torch.testing.assert_close(out, fused, rtol=0, atol=1e-12)
    weights = torch.randn_like(out)
    plain, expected = (torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (out, fused))
    torch.testing.assert_close(plain, expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        again = scaled_dot_product_attention(q, k, v, mask, scale=0.3)
        assert torch.equal(softmax_attention(q, k, v, mask, 0.3), again)


@pytest.mark.parametrize("rows", [slice(1, 3), slice(0, 0), torch.tensor([2, 0])], ids=str)
def test_blending_in_place_is_blending(rows):
    prior, personal, share = torch.randn(3, PIXELS, DIM), torch.randn(3, PIXELS, DIM), torch.rand(3, PIXELS, 1)
    moa = without_subjects(3, rows)
    expected = moa.blend(prior, personal[rows], share[rows])
    with torch.no_grad():
        assert torch.equal(moa.blend(prior.clone(), personal[rows], share[rows]), expected)
    for row in torch.arange(3)[rows].tolist():
        mixed = (1 - share[row]) * prior[row] + share[row] * personal[row]
        torch.testing.assert_close(expected[row], mixed)


@torch.no_grad()
def test_self_attention_is_equation_7_with_z_for_both_conditions():
    attention = layer(cross=False)
    z = torch.randn(2, PIXELS, DIM).double()
    out = attention(z, moa=without_subjects(2, slice(0, 2)))
    for row in range(2):
        torch.testing.assert_close(out[row], mixture_by_loops(attention, z[row], z[row], z[row]), rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_router_forced_to_the_prior_is_the_prior_bit_for_bit(dtype):
    attention = layer(cross=True).to(dtype)
    attention.moa.router.logits.weight.zero_()
    attention.moa.router.logits.bias.copy_(torch.tensor([1000.0, -1000.0]))
    z, text = torch.randn(2, PIXELS, DIM, dtype=dtype), torch.randn(2, TOKENS, TEXT, dtype=dtype)
    moa = context(slice(0, 2), text, torch.randn(2, 1, TEXT, dtype=dtype), torch.tensor([[2], [3]]))
    assert torch.equal(attention(z, text, moa=moa), attention(z, text))


@torch.no_grad()
def test_inactive_rows_are_the_prior_bit_for_bit():
    attention = layer(cross=True).float()
    z, text = torch.randn(4, PIXELS, DIM), torch.randn(4, TOKENS, TEXT)
    prior = attention(z, text)
    for rows in (slice(2, 4), torch.tensor([2, 0]), slice(0, 0)):
        active = torch.arange(4)[rows]
        moa = context(rows, text, torch.randn(len(active), 1, TEXT), torch.full((len(active), 1), 2))
        out = attention(z, text, moa=moa)
        inactive = [row for row in range(4) if row not in active.tolist()]
        assert torch.equal(out[inactive], prior[inactive])


@torch.no_grad()
def test_single_branch_never_runs_the_prior():
    attention = layer(cross=True, architecture="single_branch")
    z, text = torch.randn(1, PIXELS, DIM).double(), torch.randn(1, TOKENS, TEXT).double()
    attention.to_q.register_forward_hook(lambda *_: pytest.fail("the prior ran"))
    moa = context(slice(0, 1), text, torch.zeros(1, 1, TEXT).double(), torch.tensor([[TOKENS]]))
    out = attention(z, text, moa=moa)
    branch = attention.moa
    expected = expert_by_loops(z[0], text[0], branch.query, branch.key, branch.value, branch.out)
    torch.testing.assert_close(out[0], expected, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 3), torch.tensor([0, 2])], ids=["all", "guidance", "scattered"])
def test_text_mask_holds_for_the_personalization_expert(rows):
    """Each row has its own: as if its text were as short as its mask says."""
    attention, lengths = layer(cross=True), [4, 5, 6]
    z, text = torch.randn(3, PIXELS, DIM).double(), torch.randn(3, TOKENS, TEXT).double()
    mask = torch.zeros(3, 1, TOKENS).double()
    for row, length in enumerate(lengths):
        mask[row, :, length:] = -10000.0
    tokens, positions = torch.randn(3, 1, TEXT).double(), torch.tensor([[2], [3], [1]])
    out = attention(z, text, attention_mask=mask, moa=context(rows, text, tokens[rows], positions[rows]))
    for row in torch.arange(3)[rows].tolist():
        one = slice(row, row + 1)
        text_alone = text[one, : lengths[row]]
        alone = attention(z[one], text_alone, moa=context(slice(0, 1), text_alone, tokens[one], positions[one]))
        torch.testing.assert_close(out[one], alone)


@torch.no_grad()
@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([0, 2])], ids=["guidance", "scattered"])
def test_recorded_maps_are_the_priors_share_and_the_attention_at_the_subjects_by_loops(rows):
    """On the rows that are mixed, under a text mask; 1 and 0 on the others and in an empty slot."""
    attention, recorder = layer(cross=True), Recorder()
    z, text = torch.randn(3, PIXELS, DIM).double(), torch.randn(3, TOKENS, TEXT).double()
    mask = torch.randn(3, 1, TOKENS).double()
    tokens, positions = torch.randn(3, 2, TEXT).double(), torch.tensor([[2, 5], [3, TOKENS], [6, 1]])
    moa = context(rows, text, tokens[rows], positions[rows], recorder)
    attention(z, text, attention_mask=mask, moa=moa)
    branch, size = attention.moa, DIM // HEADS
    router, columns = torch.ones(3, PIXELS).double(), torch.zeros(3, 2, PIXELS).double()
    for place, row in enumerate(torch.arange(3)[rows].tolist()):
        logits = z[row] @ branch.router.logits.weight.T + branch.router.logits.bias
        router[row] = logits[:, 0].exp() / logits.exp().sum(dim=1)
        q, k = z[row] @ branch.query.weight.T, moa.prompts[LAYER][place] @ branch.key.weight.T
        for h in range(HEADS):
            part = slice(h * size, (h + 1) * size)
            weights = (q[:, part] @ k[:, part].T / math.sqrt(size) + mask[row]).exp()
            weights = weights / weights.sum(dim=1, keepdim=True)
            for slot, position in enumerate(positions[row].tolist()):
                if position < TOKENS:
                    columns[row, slot] += weights[:, position] / HEADS
    torch.testing.assert_close(recorder.router[LAYER], router.view(3, 4, 4), rtol=0, atol=1e-9)
    torch.testing.assert_close(recorder.attention[LAYER], columns.view(3, 2, 4, 4), rtol=0, atol=1e-9)


@torch.no_grad()
def test_router_maps_of_half_a_precision_are_recorded_in_full():
    attention, recorder = layer(cross=True).to(torch.bfloat16), Recorder()
    z, text = torch.randn(1, PIXELS, DIM).bfloat16(), torch.randn(1, TOKENS, TEXT).bfloat16()
    moa = context(slice(0, 1), text, torch.zeros(1, 1, TEXT).bfloat16(), torch.tensor([[2]]), recorder)
    attention(z, text, moa=moa)
    expected = attention.moa.router(z)[..., 0].view(1, 4, 4)
    assert expected.dtype == torch.float32 and torch.equal(recorder.router[LAYER], expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout": 0.5},
        {"residual_connection": True},
        {"rescale_output_factor": 2.0},
        {"qk_norm": "layer_norm"},
        {"cross_attention_norm": "layer_norm"},
        {"norm_num_groups": 2},
        {"processor": SlicedAttnProcessor(2)},
        {"scale_qk": False},
    ],
    ids=lambda options: "-".join(options) or "usual",
)
def test_the_prior_is_the_layer_of_diffusers_whatever_its_options(options):
    options = {"processor": AttnProcessor2_0(), **options}
    attention = Attention(DIM, TEXT, heads=HEADS, dim_head=DIM // HEADS, **options).train()
    z, text = torch.randn(2, PIXELS, DIM), torch.randn(2, TOKENS, TEXT)
    torch.manual_seed(0)
    expected = attention(z, text)
    attention.__class__ = MoAAttention
    attention.moa = MoABranch(attention, MoAConfig(image_dim=4), LAYER)
    attention.moa.router.logits.bias.copy_(torch.tensor([1000.0, -1000.0]))
    torch.manual_seed(0)
    moa = context(slice(0, 2), text, torch.randn(2, 1, TEXT, generator=torch.Generator()), torch.tensor([[2], [3]]))
    assert torch.equal(attention(z, text, moa=moa), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_an_expert_in_full_precision_computes_in_that_of_its_input(bias):
    linear, x = ExpertLinear(DIM, 5, bias=bias), torch.randn(2, PIXELS, DIM).bfloat16()
    expected = torch.nn.Linear(DIM, 5, bias=bias)
    expected.load_state_dict(linear.state_dict())
    assert torch.equal(linear(x), expected.bfloat16()(x))
    linear(x).sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in linear.parameters())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_router_starts_even_handed_and_stays_in_fp32(kind):
    router = Router(DIM, kind)
    z = torch.randn(2, PIXELS, DIM)
    assert torch.equal(router(z), torch.full((2, PIXELS, 2), 0.5))
    torch.nn.init.normal_(router.logits.weight)
    shares = router.bfloat16()(z.bfloat16())
    assert shares.dtype == torch.float32
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, PIXELS))
    assert shares.std() > 0.01


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_autocast_takes_no_precision_from_the_router_and_no_gradient(kind):
    """In training the router's weights are fp32 and z is bf16: its logits are those of fp32."""
    router, z = Router(DIM, kind), torch.randn(2, PIXELS, DIM).bfloat16().requires_grad_()
    torch.nn.init.normal_(router.logits.weight, std=3.0)
    weights = torch.randn(2, PIXELS, 2)
    with torch.autocast("cpu", torch.bfloat16):
        shares = router(z)
        hidden = z if router.hidden is None else torch.nn.functional.gelu(router.hidden(z))
    expected = (hidden.float() @ router.logits.weight.T + router.logits.bias).softmax(-1)
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-6)
    given = [z, *router.parameters()]
    ours, theirs = (torch.autograd.grad((x * weights).sum(), given, retain_graph=True) for x in (shares, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_router_under_autocast_keeps_no_copy_of_its_input():
    router, z, sizes = Router(DIM, "linear"), torch.randn(2, PIXELS, DIM).bfloat16().requires_grad_(), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append((t.dtype, t.shape)), t)[1], lambda t: t)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        router(z)
    assert (torch.float32, z.shape) not in sizes


def test_mlp_router_can_do_what_a_linear_one_cannot():
    router = Router(DIM, "mlp").double()
    torch.nn.init.normal_(router.logits.weight)
    z = torch.randn(1, 1, DIM).double()
    logits = [router(scale * z)[..., 1].logit() for scale in (0.0, 1.0, 2.0)]
    assert not torch.allclose(logits[2] - logits[1], logits[1] - logits[0])


def test_the_expert_starts_as_a_copy_and_no_name_ends_like_a_lora_target():
    attention = Attention(DIM, TEXT, heads=HEADS, dim_head=DIM // HEADS)
    branch = MoABranch(attention, MoAConfig(image_dim=4), LAYER)
    pairs = [
        ("query", attention.to_q),
        ("key", attention.to_k),
        ("value", attention.to_v),
        ("out", attention.to_out[0]),
    ]
    for name, prior in pairs:
        assert torch.equal(getattr(branch, name).weight, prior.weight)
        assert getattr(branch, name).weight.data_ptr() != prior.weight.data_ptr()
    assert torch.equal(branch.out.bias, attention.to_out[0].bias)
    names = [name for name, _ in branch.named_modules()]
    assert not any(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name in names)


def test_subject_columns_are_the_attention_probabilities_at_the_subjects():
    q, k = torch.randn(2, HEADS, PIXELS, 4).double(), torch.randn(2, HEADS, TOKENS, 4).double()
    positions = torch.tensor([[2, 5], [0, TOKENS]])
    columns = subject_columns(q, k, positions, None, 0.5)
    assert columns.shape == (2, 2, PIXELS)
    for row in range(2):
        for slot, position in enumerate(positions[row].tolist()):
            for n in range(PIXELS):
                expected = 0.0
                for h in range(HEADS):
                    scores = [math.exp(0.5 * float(q[row, h, n] @ k[row, h, t])) for t in range(TOKENS)]
                    expected += scores[position] / sum(scores) / HEADS if position < TOKENS else 0.0
                assert float(columns[row, slot, n]) == pytest.approx(expected, abs=1e-9)


def test_autocast_takes_no_precision_from_the_columns():
    q, k = torch.randn(2, HEADS, PIXELS, 4).bfloat16(), torch.randn(2, HEADS, TOKENS, 4).bfloat16()
    positions = torch.tensor([[2, 5], [0, TOKENS]])
    expected = subject_columns(q.double(), k.double(), positions, None, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(subject_columns(q, k, positions, None, 2.0).double(), expected, rtol=0, atol=1e-6)


def test_recording_columns_keeps_nothing_of_the_size_of_the_attention_matrix():
    attention = layer(cross=True).float()
    pixels, tokens = 16, 500
    z, text = torch.randn(1, pixels, DIM), torch.randn(1, tokens, TEXT)
    sizes: list[int] = []

    def kept(recorder: Recorder) -> int:
        sizes.clear()
        moa = context(slice(0, 1), text, torch.randn(1, 2, TEXT), torch.tensor([[2, 5]]), recorder)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            attention(z, text, moa=moa).sum()
        return sum(sizes)

    with_columns, without = kept(Recorder()), kept(Recorder(subject_columns=False))
    assert with_columns - without < HEADS * pixels * tokens / 2


def test_columns_give_gradients_to_the_expert():
    attention, recorder = layer(cross=True).float(), Recorder()
    tokens = torch.randn(1, 1, TEXT, requires_grad=True)
    text = torch.randn(1, TOKENS, TEXT)
    moa = context(slice(0, 1), text, tokens, torch.tensor([[2]]), recorder)
    attention(torch.randn(1, PIXELS, DIM), text, moa=moa)
    recorder.attention[LAYER].sum().backward()
    for tensor in (attention.moa.query.weight, attention.moa.key.weight, tokens):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0
