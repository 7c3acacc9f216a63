"""Eq. 8 against loops in float64, and what a `MoAInput` must be.    pytest tests/moa/test_conditioning.py"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from moa.conditioning import MoAContext, MoAInput, MultimodalPrompt, SpacetimeEncoding, multimodal_prompts
from moa.config import MoAConfig
from moa.errors import ConditioningError

IMAGE, TEXT = 5, 6
LAYERS = (1, 3, 7)


def prompt(**config) -> MultimodalPrompt:
    """The learned part with no zeros left in it, in float64."""
    module = MultimodalPrompt(MoAConfig(image_dim=IMAGE, **config), TEXT, LAYERS).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


def token_by_hand(module: MultimodalPrompt, f: Tensor, w: Tensor, t: float, layer: int) -> Tensor:
    """Eq. 8 for one subject, written out."""
    m = torch.cat([f, w])
    if module.encoding is not None:
        time, place = module.encoding.frequencies
        phases = [2 * math.pi * (t / 1000 * float(a) + layer * float(b)) for a, b in zip(time, place, strict=True)]
        fourier = torch.tensor([math.cos(p) for p in phases] + [math.sin(p) for p in phases], dtype=torch.float64)
        m = m + module.encoding.project.weight @ fourier + module.encoding.project.bias
    normal = (m - m.mean()) / torch.sqrt(m.var(unbiased=False) + module.norm.eps)
    x = module.hidden.weight @ (normal * module.norm.weight + module.norm.bias) + module.hidden.bias
    x = torch.tensor([0.5 * float(v) * (1 + math.erf(float(v) / math.sqrt(2))) for v in x], dtype=torch.float64)
    return w + module.token.weight @ x + module.token.bias


@torch.no_grad()
@pytest.mark.parametrize("spacetime", [True, False])
def test_token_is_equation_8(spacetime):
    module = prompt(spacetime=spacetime, hidden_dim=9, fourier_features=4)
    features, words = torch.randn(2, 3, IMAGE).double(), torch.randn(2, 3, TEXT).double()
    timesteps = torch.tensor([17.0, 801.0])
    tokens = module(features, words, timesteps)
    assert tokens.shape == (3, 2, 3, TEXT)
    for i, layer in enumerate(LAYERS):
        for row in range(2):
            for slot in range(3):
                f, w = features[row, slot], words[row, slot]
                expected = token_by_hand(module, f, w, float(timesteps[row]), layer)
                torch.testing.assert_close(tokens[i, row, slot], expected, rtol=0, atol=1e-4)  # phases are fp32


@torch.no_grad()
def test_spacetime_tells_timesteps_and_layers_apart_and_without_it_neither():
    features, words = torch.randn(1, 1, IMAGE).double(), torch.randn(1, 1, TEXT).double()
    for spacetime in (True, False):
        module = prompt(spacetime=spacetime)
        early, late = (module(features, words, torch.tensor([t])) for t in (100.0, 600.0))
        assert torch.allclose(early, late) != spacetime
        assert torch.allclose(early[0], early[1]) != spacetime
        assert any("encoding" in name for name, _ in module.named_parameters()) == spacetime


@torch.no_grad()
def test_before_training_the_token_is_the_word_itself():
    module = MultimodalPrompt(MoAConfig(image_dim=IMAGE), TEXT, LAYERS)
    words = torch.randn(2, 3, TEXT)
    tokens = module(torch.randn(2, 3, IMAGE), words, torch.tensor([5, 900]))
    assert all(torch.equal(tokens[i], words) for i in range(3))


def test_every_parameter_learns():
    module = prompt().float()
    module(torch.randn(2, 1, IMAGE), torch.randn(2, 1, TEXT), torch.tensor([5, 900])).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_frequencies_are_normal_with_a_deviation_of_two_cycles():
    """Of time per schedule and of the layers per layer: what models were trained with."""
    frequencies = SpacetimeEncoding(20_000, 1).frequencies
    torch.testing.assert_close(frequencies.mean(dim=1), torch.zeros(2), rtol=0, atol=0.1)
    torch.testing.assert_close(frequencies.std(dim=1), torch.full((2,), 2.0), rtol=0, atol=0.1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_encoding_and_not_the_time(dtype):
    """bfloat16 has no 801."""
    encoding = SpacetimeEncoding(32, 8)
    encoding.project = torch.nn.Identity()
    times, layers = torch.tensor([801.0, 333.0]), torch.tensor(LAYERS)
    assert torch.equal(encoding(times, layers, dtype), encoding(times, layers, torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_frequencies_and_new_models_have_the_same(dtype):
    first, second = SpacetimeEncoding(32, 8), SpacetimeEncoding(32, 8)
    assert torch.equal(first.frequencies, second.frequencies)
    torch.testing.assert_close(first.to(dtype).frequencies.float(), second.frequencies, rtol=0, atol=1e-7)


def test_prompts_replace_the_subject_tokens_and_nothing_else():
    text, tokens = torch.randn(2, 7, TEXT), torch.randn(3, 2, 2, TEXT)
    result = multimodal_prompts(text, tokens, torch.tensor([[5, 2], [7, 3]]))
    expected = text.expand(3, -1, -1, -1).clone()
    expected[:, 0, 5], expected[:, 0, 2], expected[:, 1, 3] = tokens[:, 0, 0], tokens[:, 0, 1], tokens[:, 1, 1]
    assert torch.equal(result, expected) and all(each.is_contiguous() for each in result.unbind(0))


def test_prompts_give_gradients_to_the_text_that_stays_and_to_the_tokens_that_take_its_place():
    text, tokens = torch.randn(1, 4, TEXT, requires_grad=True), torch.randn(3, 1, 2, TEXT, requires_grad=True)
    multimodal_prompts(text, tokens, torch.tensor([[2, 4]])).sum().backward()
    assert text.grad[0, :, 0].tolist() == [3, 3, 0, 3]  # one of each of three layers
    assert tokens.grad[:, 0, :, 0].tolist() == [[1, 0]] * 3  # the second slot is empty


def test_grid_follows_the_levels_of_the_unet():
    moa = MoAContext(1, slice(0, 1), {}, torch.zeros(1, 0), (9, 16), None)
    assert [moa.grid(n) for n in (144, 40, 12)] == [(9, 16), (5, 8), (3, 4)]
    with pytest.raises(ConditioningError, match="13 pixels"):
        moa.grid(13)


@pytest.mark.parametrize(
    ("active", "expected"),
    [
        ([0, 0, 1, 1], slice(2, 4)),
        ([1, 1, 1, 1], slice(0, 4)),
        (None, slice(0, 4)),
        ([0, 0, 0, 0], slice(0, 0)),
        ([1, 0, 0, 1], [0, 3]),
    ],
)
def test_active_rows_are_a_slice_where_they_are_neighbours(active, expected):
    active = None if active is None else torch.tensor(active).bool()
    moa = MoAInput(torch.zeros(4, 1, IMAGE), torch.zeros(4, 1, dtype=torch.long), active)
    rows = moa.rows
    assert (rows.tolist() if isinstance(rows, Tensor) else rows) == expected


def test_half_a_guided_batch_is_its_conditional_half_and_any_other_size_is_refused():
    features, positions = torch.randn(6, 1, IMAGE), torch.arange(6)[:, None]
    active = torch.tensor([True, False, True] * 2)
    moa = MoAInput(features, positions, active, guided=True)
    half = moa.for_batch(3)
    assert moa.for_batch(6) is moa and moa.for_batch(3) is half
    assert torch.equal(half.features, features[3:]) and half.positions.flatten().tolist() == [3, 4, 5]
    assert half.rows.tolist() == [0, 2] and half.with_subjects.tolist() == [True, False, True]
    pair = MoAInput(features[:4], positions[:4], guided=True).for_batch(2)  # has no unconditional half of its own
    for size, given in ((4, moa), (3, MoAInput(features, positions, active)), (6, half), (1, pair)):
        with pytest.raises(ConditioningError, match=f"the batch {size}.*doubled batch"):
            given.for_batch(size)


def test_rows_with_subjects_are_active_and_name_a_token():
    features, positions = torch.zeros(4, 2, IMAGE), torch.tensor([[0, -1], [-1, -1], [-1, 4], [3, 4]])
    assert MoAInput(features, positions).with_subjects.tolist() == [True, False, True, True]
    active = torch.tensor([True, True, True, False])
    assert MoAInput(features, positions, active).with_subjects.tolist() == [True, False, True, False]


def test_positions_are_read_on_the_cpu_alone_and_what_is_known_of_them_travels():
    """A device that cannot be read, as an accelerator that would have to be waited for."""
    there, features, positions = torch.device("meta"), torch.zeros(2, 2, IMAGE), torch.tensor([[3, -1], [7, 2]])
    for moa in (MoAInput(features, positions), MoAInput(features, positions).to(there)):
        moa.check_positions(8)
        with pytest.raises(ConditioningError, match="bound to token 7.*the tokens 0 to 6"):
            moa.check_positions(7)
    unknown = MoAInput(features.to(there), positions.to(there))
    assert unknown.last is None
    unknown.check_positions(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.zeros(2, IMAGE)}, "features must be"),
        ({"positions": torch.zeros(2, 4, dtype=torch.long)}, "positions"),
        ({"positions": torch.zeros(2, 3)}, "integer"),
        ({"active": torch.zeros(2)}, "bool"),
        ({"active": torch.zeros(3).bool()}, "one per row"),
    ],
)
def test_inputs_that_do_not_belong_together_are_refused(change, message):
    fields = {
        "features": torch.zeros(2, 3, IMAGE),
        "positions": torch.zeros(2, 3, dtype=torch.long),
        "active": torch.ones(2).bool(),
    }
    with pytest.raises(ConditioningError, match=message):
        MoAInput(**{**fields, **change})
