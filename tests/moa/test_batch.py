"""All randomness of a step comes from (seed, sample number): ranks, micro-batches and workers cannot change it."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from moa.augment import augment_subject
from moa.batch import TrainingSet, batches, collate, draw
from moa.data import ShardDataset, sample_index
from moa.subjects import encoder_pixels
from moa.train_config import TrainConfig
from tests.tiny_models import tiny_image_processor, tiny_tokenizer

LATENT = (4, 8, 8)


@pytest.fixture
def training_set(shards: Path, tmp_path: Path) -> Callable[[TrainConfig], TrainingSet]:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    return lambda config: TrainingSet(ShardDataset(shards), tokenizer, tiny_image_processor(), LATENT, config)


def test_draws_are_a_function_of_seed_and_number(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    first, again = draw(config, 7, LATENT), draw(config, 7, LATENT)
    assert torch.equal(first.noise, again.noise) and first.timestep == again.timestep
    assert not torch.equal(first.noise, draw(config, 8, LATENT).noise)
    assert not torch.equal(first.noise, draw(make_config(seed=1), 7, LATENT).noise)
    assert not torch.equal(first.noise, first.posterior_noise)


def test_random_numbers_are_those_written_out(training_set: Callable, make_config: Callable[..., TrainConfig]) -> None:
    """Drawn once more, in the order of the format: an earlier run could not be resumed if any of them moved."""
    seed, number = 3, 13
    config = make_config(seed=seed, max_timestep=10, condition_dropout=0.5, masked_loss_probability=0.5)
    rng = np.random.default_rng([seed, number, 0])
    timestep, dropped, masked = rng.random(3)
    noise, posterior_noise = rng.standard_normal((2, *LATENT), dtype=np.float32)
    draws = draw(config, number, LATENT)
    assert (draws.timestep, draws.dropped, draws.masked) == (int(10 * timestep), dropped < 0.5, masked < 0.5)
    assert np.array_equal(draws.noise, noise) and np.array_equal(draws.posterior_noise, posterior_noise)

    samples = training_set(config.model_copy(update={"condition_dropout": 0.0}))
    rng = np.random.default_rng([seed, number, 1])
    sample = samples.dataset[np.random.default_rng([seed, 1]).permutation(8)[5]]  # of 8 samples, number 13 is 1 * 8 + 5
    crops = [augment_subject(crop, config.augmentation, rng) for crop in sample.subjects]
    assert torch.equal(samples[number].pixels, encoder_pixels(crops, samples.image_processor))


def test_samples_go_to_processes_that_are_started_anew(
    training_set: Callable, make_config: Callable[..., TrainConfig]
) -> None:
    """As loader processes are where none is forked (macOS)."""
    samples = training_set(make_config())
    sent = pickle.loads(pickle.dumps(samples))
    assert torch.equal(sent[3].pixels, samples[3].pixels) and torch.equal(sent[3].image, samples[3].image)


def test_draws_follow_the_configured_rates(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(condition_dropout=0.25, masked_loss_probability=0.75, max_timestep=10)
    draws = [draw(config, number, (1, 1, 1)) for number in range(2000)]
    assert {d.timestep for d in draws} == set(range(10))
    assert np.mean([d.dropped for d in draws]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([d.masked for d in draws]) == pytest.approx(0.75, abs=0.04)
    assert np.mean([d.dropped and d.masked for d in draws]) == pytest.approx(0.25 * 0.75, abs=0.04)  # two coins
    assert np.mean([d.noise.item() for d in draws]) == pytest.approx(0, abs=0.1)
    assert np.std([d.noise.item() for d in draws]) == pytest.approx(1, abs=0.1)


def test_a_dropped_sample_has_no_conditions(training_set: Callable, make_config: Callable[..., TrainConfig]) -> None:
    kept, dropped = (
        collate([training_set(make_config(condition_dropout=rate))[n] for n in range(4)]) for rate in (0.0, 1.0)
    )
    assert kept.present.any(1).all() and len(kept.pixels) == len(kept.slots) == int(kept.present.sum())
    assert dropped.positions.tolist() == [[-1]] * 4  # a slot, so that there is a shape to work with
    assert not dropped.present.any() and len(dropped.pixels) == len(dropped.slots) == 0
    assert len(dropped.input_ids.unique(dim=0)) == 1  # the empty prompt
    assert torch.equal(kept.noise, dropped.noise)


def test_positions_point_at_the_words(training_set: Callable, make_config: Callable[..., TrainConfig]) -> None:
    samples = training_set(make_config(condition_dropout=0.0))
    for number in range(8):
        example = samples[number]
        words = [samples.tokenizer.decode(example.input_ids[p]).strip() for p in example.positions]
        sample = samples.dataset[sample_index(8, 0, number)]
        assert words == [subject["word"] for subject in sample.meta["subjects"]]


def test_a_word_beyond_the_text_encoder_leaves_its_subject_out_and_says_so(
    training_set: Callable, make_config: Callable[..., TrainConfig]
) -> None:
    samples = training_set(make_config(condition_dropout=0.0))
    samples.tokenizer.model_max_length = 8  # "a man and a boy in ...": the second word is token 5
    number = next(n for n in range(8) if len(samples.dataset[sample_index(8, 0, n)].subjects) == 2)
    whole = samples[number]
    samples.tokenizer.model_max_length = 6
    with pytest.warns(UserWarning, match="sample 0000.*subject 1 is left out: the subject word"):
        example = samples[number]
    assert example.positions == [whole.positions[0], -1]
    batch = collate([dataclasses.replace(example, input_ids=whole.input_ids), whole])
    assert batch.present.tolist() == [[True, False], [True, True]]
    assert len(batch.pixels) == 3


def test_batches_are_the_same_for_any_ranks_accumulation_and_workers(
    training_set: Callable, make_config: Callable[..., TrainConfig]
) -> None:
    def stream(world: int, **changes: object) -> list[torch.Tensor]:
        samples = training_set(make_config(steps=3, **changes))
        ranks = [list(batches(samples, 1, rank, world, pin_memory=False)) for rank in range(world)]
        assert [len(batch.images) for rank in ranks for batch in rank] == [samples.config.micro_batch(world)] * (
            2 * samples.config.accumulation * world
        )
        noise = [torch.cat([b.noise for b in rank]).unflatten(0, (2, -1)) for rank in ranks]
        return torch.cat(noise, 1)

    whole = stream(1)
    assert torch.equal(whole, stream(2))
    assert torch.equal(whole, stream(1, accumulation=2))
    assert torch.equal(whole, stream(1, num_workers=2))


def test_a_compiled_network_meets_batches_of_two_slots_or_more(
    training_set: Callable, make_config: Callable[..., TrainConfig]
) -> None:
    """It would be compiled anew for one. What fills them stays."""
    configs = [make_config(steps=3, global_batch=1, compile=on) for on in (False, True)]
    plain, padded = ([*batches(training_set(config), 0, 0, 1, pin_memory=False)] for config in configs)
    assert {batch.positions.shape[1] for batch in plain} >= {1} and {b.positions.shape[1] for b in padded} == {2}
    for one, two in zip(plain, padded, strict=True):
        assert torch.equal(two.positions[:, : one.positions.shape[1]], one.positions)
        assert two.present.sum() == one.present.sum() and torch.equal(two.slots, one.slots)
