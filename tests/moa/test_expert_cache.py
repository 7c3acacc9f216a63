"""What is computed on which step, and what the images lose by it.    pytest tests/moa/test_expert_cache.py"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from moa.conditioning import MoAInput
from moa.errors import ConditioningError
from moa.expert_cache import ExpertCache
from moa.recorder import Recorder
from moa.unet import MoAUNet2DConditionModel
from tests.tiny_models import IMAGE_DIM, LATENT_SIZE, MAX_TOKENS, TEXT_DIM, one_level_moa_unet, tiny_moa_unet


def subjects(cache: ExpertCache | None, recorder: Recorder | None = None) -> MoAInput:
    """An unconditional row and one with a subject, both run the mixture."""
    features = torch.randn(2, 1, IMAGE_DIM, generator=torch.Generator().manual_seed(0))
    return MoAInput(features, torch.tensor([[-1], [2]]), torch.tensor([True, True]), recorder, cache)


def trajectory(unet, moa: MoAInput, timesteps=(900, 700, 500, 300, 100), drift=0.1) -> list[torch.Tensor]:
    """The U-Net's outputs on steps whose latents differ a little."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE, generator=generator)
    text = torch.randn(2, MAX_TOKENS, TEXT_DIM, generator=generator)
    change = drift * torch.randn(latents.shape, generator=generator)
    options = {"cross_attention_kwargs": {"moa": moa}}
    return [unet(latents + k * change, torch.tensor(t), text, **options).sample for k, t in enumerate(timesteps)]


def count_calls(unet: MoAUNet2DConditionModel, calls: Counter) -> None:
    for layer in unet.moa_layers():
        branch = unet.get_submodule(layer.name).moa
        branch.query.register_forward_hook(lambda *_: calls.update(["expert"]))
        if branch.router is not None:
            branch.router.register_forward_hook(lambda *_: calls.update(["router"]))


def test_each_step_may_be_followed_backwards():
    """Guidance by gradients asks after each step; one that mixes in a kept output has the gradient of the rest."""
    unet, cache = tiny_moa_unet(), ExpertCache(2)
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(2, MAX_TOKENS, TEXT_DIM, generator=generator)
    moa = subjects(cache)
    for t in (900, 700, 500):
        latents = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE, generator=generator).requires_grad_()
        unet(latents, torch.tensor(t), text, cross_attention_kwargs={"moa": moa}).sample.square().sum().backward()
        assert latents.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize("interval, computed", [(1, 5), (2, 3), (3, 2), (9, 1)])
def test_the_expert_runs_on_every_nth_step_and_the_router_on_all(interval, computed):
    unet, calls = tiny_moa_unet(), Counter()
    count_calls(unet, calls)
    trajectory(unet, subjects(ExpertCache(interval)))
    layers = len(unet.moa_layers())
    assert calls == {"expert": computed * layers, "router": 5 * layers}


@torch.no_grad()
def test_a_scheduler_of_second_order_computes_once_for_both_passes_of_a_step():
    """Heun asks at t0, then twice at each further timestep."""
    unet, calls = tiny_moa_unet(), Counter()
    count_calls(unet, calls)
    kept = trajectory(unet, subjects(ExpertCache(2, order=2)), (900, 700, 700, 500, 500, 300, 300, 100, 100), drift=0.0)
    assert calls["expert"] == 3 * len(unet.moa_layers())  # at 900, 500 and 100
    exact = trajectory(unet, subjects(None), (500, 100), drift=0.0)
    for number, expected in ((3, exact[0]), (4, exact[0]), (7, exact[1]), (8, exact[1])):
        torch.testing.assert_close(kept[number], expected, rtol=0, atol=1e-5)
    calls.clear()
    trajectory(unet, subjects(ExpertCache(1, order=2)))
    assert calls["expert"] == 5 * len(unet.moa_layers())


@pytest.mark.parametrize(
    ("interval", "order", "computed"),
    [
        (1, 1, "yyyyy"),
        (3, 1, "y--y--y"),
        (1, 2, "yyyyy"),
        (2, 2, "y--y---y---y"),
        (3, 2, "y----y-----y"),
        (2, 3, "y---y-----y"),
    ],
)
def test_which_passes_are_due(interval, order, computed):
    """Of a second order: t0, t1 t1, t2 t2, ...; the first pass of a step computes for both."""
    cache = ExpertCache(interval, order=order)
    assert "".join("y" if cache.start(2) else "-" for _ in computed) == computed


@torch.no_grad()
def test_a_batch_of_another_size_is_computed_anew():
    cache = ExpertCache(9)
    assert [cache.start(rows) for rows in (4, 4, 2, 2)] == [True, False, True, False]


@torch.no_grad()
def test_steps_that_compute_are_exact_and_the_others_are_nearer_the_smaller_the_step():
    unet, off = tiny_moa_unet(), []
    for gap in (200.0, 2.0, 0.02):
        steps = tuple(900 - k * gap for k in range(4))
        exact, kept = (trajectory(unet, subjects(cache), steps, gap / 2000) for cache in (None, ExpertCache(2)))
        assert torch.equal(exact[0], kept[0]) and torch.equal(exact[2], kept[2])
        off.append(float((exact[1] - kept[1]).norm() + (exact[3] - kept[3]).norm()))
    assert 0 < 20 * off[2] < off[1] < off[0]


@torch.no_grad()
def test_on_the_same_latents_and_timestep_nothing_is_lost():
    unet, moa = tiny_moa_unet(), subjects(ExpertCache(2))
    latents, text = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE), torch.randn(2, MAX_TOKENS, TEXT_DIM)
    first, second = (unet(latents, 500, text, cross_attention_kwargs={"moa": moa}).sample for _ in range(2))
    assert torch.equal(first, second)


@torch.no_grad()
def test_a_single_branch_has_no_prior_to_lean_on_and_computes_every_step():
    unet, calls, recorder = tiny_moa_unet(architecture="single_branch"), Counter(), Recorder(history=True)
    count_calls(unet, calls)
    trajectory(unet, subjects(ExpertCache(2), recorder))
    assert calls["expert"] == 5 * len(unet.moa_layers())
    maps = [step.attention[1] for step in recorder.steps]
    assert len(maps) == 5 and not any(torch.equal(*pair) for pair in pairwise(maps))


@torch.no_grad()
def test_router_maps_are_recorded_on_every_step():
    recorder = Recorder(subject_columns=False, history=True)
    trajectory(tiny_moa_unet(), subjects(ExpertCache(3), recorder))
    assert [len(step.router) for step in recorder.steps] == [len(recorder.steps[0].router)] * 5


@torch.no_grad()
def test_a_recorder_changes_no_step_and_keeps_the_attention_of_the_last_output_that_was_computed():
    unet, recorder = tiny_moa_unet(), Recorder(history=True)
    recorded = trajectory(unet, subjects(ExpertCache(2), recorder))
    for ours, theirs in zip(recorded, trajectory(unet, subjects(ExpertCache(2))), strict=True):
        assert torch.equal(ours, theirs)
    maps = [step.attention[1] for step in recorder.steps]
    same = [torch.equal(before, after) for before, after in zip(maps, maps[1:], strict=False)]
    assert same == [True, False, True, False]
    every = Recorder(history=True)
    trajectory(unet, subjects(None, every))
    assert torch.equal(maps[0], every.steps[0].attention[1])


@pytest.mark.slow
@torch.no_grad()
def test_it_compiles_without_a_graph_break_once_for_each_kind_of_step():
    torch._dynamo.reset()
    unet, counter = one_level_moa_unet(), CompileCounter()
    compiled = torch.compile(unet, fullgraph=True, backend=counter)
    steps = (900, 800, 700, 600, 500, 400)
    found = trajectory(compiled, subjects(ExpertCache(2)), steps)
    for ours, theirs in zip(found, trajectory(unet, subjects(ExpertCache(2)), steps), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert counter.frame_count <= 4  # computing and reusing, each with a number and then with a symbol for the step


@pytest.mark.parametrize("interval", [0, -1, 1.5, float("nan"), float("inf"), None, "2"])
def test_an_interval_that_is_no_number_of_steps_is_refused(interval):
    with pytest.raises(ConditioningError, match=f"expert_interval={interval!r}: it is a number"):
        ExpertCache(interval)
