"""What a run carries from step to step: an update and its average by hand, metrics, a checkpoint's return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from moa import checkpoint, train_state
from moa.errors import CheckpointError
from moa.train_state import MEANS, MetricsWindow, TrainState, rounded
from tests.moa.training import tiny_config

RATES = (1e-2, 3e-2, 2e-2)
DECAY, WEIGHT_DECAY = 0.2, 0.05
MakeState = Callable[..., TrainState]
STEP = {**dict.fromkeys(MEANS, 1.0), "router_background": 3.0, "router_foreground": 1.0, "routed": 4.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until `now` is set; windows that start at `now`."""
    clock = SimpleNamespace(now=100.0, window=lambda: MetricsWindow(_mark=clock.now))
    monkeypatch.setattr(train_state.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def make_state(tmp_path: Path) -> MakeState:
    """The state of a model with two trained parameters, the same in each call."""

    def make(names: tuple[str, ...] = ("a.moa", "b.moa"), **fields: object) -> TrainState:
        draw = torch.Generator().manual_seed(1)
        parameters = [(name, nn.Parameter(torch.randn(3, 2, generator=draw))) for name in names]
        options = {"shards": tmp_path, "out": tmp_path / "run", "weight_decay": WEIGHT_DECAY, **fields}
        return TrainState(SimpleNamespace(moa_parameters=lambda: iter(parameters)), tiny_config(tmp_path, **options))

    return make


def train(state: TrainState, rates: tuple[float, ...]) -> None:
    """One update for each rate, with gradients that the number of the step decides."""
    for rate in rates:
        draw = torch.Generator().manual_seed(state.step)
        for parameter in state.parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        state.update(rate)


def by_hand(start: Tensor, gradients: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Weights and their average after AdamW's steps at `RATES` (Loshchilov and Hutter 2019, algorithm 2), float64."""
    weights, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
    average = start
    for t, (rate, g) in enumerate(zip(RATES, gradients, strict=True), 1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step = (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        weights = weights - rate * step - rate * WEIGHT_DECAY * weights
        decay = min(DECAY, t / (9 + t))
        average = decay * average + (1 - decay) * weights
    return weights, average


def test_an_update_is_adamw_at_its_rate_then_the_average(make_state: MakeState) -> None:
    """The average's decay grows over 1/10 and 2/11 to 3/12, which the configured 0.2 cuts."""
    state = make_state(ema_decay=DECAY)
    start = {name: p.detach().double() for name, p in state.parameters.items()}
    train(state, RATES)
    draws = [torch.Generator().manual_seed(step) for step in range(len(RATES))]
    for name, parameter in state.parameters.items():
        gradients = [torch.randn(parameter.shape, generator=draw).double() for draw in draws]
        weights, average = by_hand(start[name], gradients)
        torch.testing.assert_close(parameter.detach().double(), weights, atol=1e-6, rtol=0)
        torch.testing.assert_close(state.average[name].double(), average, atol=1e-6, rtol=0)


def test_skipped_steps_are_counted_until_one_is_not(make_state: MakeState) -> None:
    state = make_state()
    state.skip()
    state.skip()
    assert (state.step, state.skipped) == (2, 2)
    train(state, RATES[:1])
    assert (state.step, state.skipped) == (3, 0)


def test_the_average_is_in_the_model_for_as_long_as_it_is_measured(make_state: MakeState) -> None:
    state = make_state(ema_decay=DECAY)
    train(state, RATES)
    weights = {name: p.detach().clone() for name, p in state.parameters.items()}
    average = {name: tensor.clone() for name, tensor in state.average.items()}
    with pytest.raises(ZeroDivisionError), state.averaged():
        assert all(torch.equal(p, average[name]) for name, p in state.parameters.items())
        raise ZeroDivisionError
    assert all(torch.equal(p, weights[name]) for name, p in state.parameters.items())
    assert all(torch.equal(tensor, average[name]) for name, tensor in state.average.items())


def test_without_an_average_there_is_none_to_measure_or_keep(make_state: MakeState) -> None:
    state = make_state(ema_decay=0)
    before = {name: p.detach().clone() for name, p in state.parameters.items()}
    with state.averaged():
        assert all(torch.equal(p, before[name]) for name, p in state.parameters.items())
    assert state.groups().keys() == {"weights", "optimizer"}


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_a_checkpoint_goes_on_bit_for_bit(
    make_state: MakeState, tmp_path: Path, clock: SimpleNamespace, decay: float
) -> None:
    """Weights, moments, average, counters, and the metrics line that was begun."""
    whole, begun, resumed = (make_state(ema_decay=decay) for _ in range(3))
    train(whole, RATES)
    train(begun, RATES[:2])
    begun.skip()
    begun.window = clock.window()
    begun.window.add(STEP)
    clock.now += 2
    checkpoint.save(tmp_path / "checkpoints", 3, begun.groups(), begun.counters(), keep=1, warn=pytest.fail)
    resumed.load(checkpoint.latest(tmp_path / "checkpoints"))
    assert (resumed.step, resumed.skipped) == (3, 1)
    assert (resumed.window.sums, resumed.window.steps) == (STEP, 1)
    assert (resumed.window.seconds, resumed.window.window_seconds) == (2.0, 2.0)
    resumed.step = 2
    train(resumed, RATES[2:])
    for group, tensors in whole.groups().items():
        assert all(torch.equal(tensor, resumed.groups()[group][name]) for name, tensor in tensors.items()), group


def test_weights_of_another_model_are_refused(make_state: MakeState, tmp_path: Path) -> None:
    state = make_state(names=("a.moa", "c.moa"))
    checkpoint.save(tmp_path / "checkpoints", 0, state.groups(), state.counters(), keep=1, warn=pytest.fail)
    with pytest.raises(CheckpointError, match="step-00000000 holds weights of another architecture"):
        make_state().load(checkpoint.latest(tmp_path / "checkpoints"))


def test_a_line_has_means_of_its_steps_and_shares_of_its_samples(clock: SimpleNamespace) -> None:
    """Two steps of 8 samples, of which 6 went through a router; validation in between is trained time, not speed."""
    window = clock.window()
    window.add({**STEP, "loss": 1.0, "lr": 0.5})
    clock.now += 1
    with window.paused():
        clock.now += 30
    clock.now += 3
    window.add({**STEP, "loss": 4.0, "lr": 0.7, "routed": 2.0})
    line = window.line(step=7, samples_per_step=8)
    assert line.items() >= {"step": 7, "loss": 2.5, "lr": 0.6, "samples_per_second": 4.0, "seconds": 34.0}.items()
    assert line["router_background"] == 1.0 and line["router_foreground"] == pytest.approx(1 / 3, abs=1e-6)


def test_the_next_line_starts_anew_but_for_the_time_trained(clock: SimpleNamespace) -> None:
    window = clock.window()
    window.add(STEP)
    clock.now += 5
    window.line(step=1, samples_per_step=8)
    window.add({**STEP, "loss": 3.0})
    clock.now += 2
    line = window.line(step=2, samples_per_step=8)
    assert line.items() >= {"step": 2, "loss": 3.0, "samples_per_second": 4.0, "seconds": 7.0}.items()


def test_there_are_no_shares_without_a_router(clock: SimpleNamespace) -> None:
    window = clock.window()
    window.add({**STEP, "routed": 0.0})
    clock.now += 1
    line = window.line(step=1, samples_per_step=8)
    assert line["router_background"] is None and line["router_foreground"] is None and line["loss"] == 1.0


def test_numbers_have_six_digits_and_are_null_where_they_are_none() -> None:
    given = {"a": 0.123456789, "b": 1234567.0, "c": float("nan"), "d": float("inf"), "e": None}
    assert rounded(given) == {"a": 0.123457, "b": 1234570.0, "c": None, "d": None, "e": None}
