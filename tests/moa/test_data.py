"""Shards are read exactly as written, damage is a typed error, and the order depends on (seed, step) alone."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moa.augment import augment_subject
from moa.batch import Batch, TrainingSet, batches, collate, draw
from moa.data import ShardDataset, batch_indices, sample_order
from moa.errors import MissingInputError, ShardDataError
from moa.train_config import SubjectAugmentation, TrainConfig
from tests.moa.shards import write_shards
from tests.tiny_models import tiny_image_processor, tiny_tokenizer

LATENT = (4, 8, 8)


# Reading.


def test_samples_are_those_a_tar_reader_sees(shards: Path) -> None:
    dataset = ShardDataset(shards)
    assert len(dataset) == 8
    for i in range(8):
        sample = dataset[i]
        with tarfile.open(shards / "shards" / f"train-{i // 4:05d}.tar") as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames() if name.startswith(sample.key)}
        expected = {
            name: np.array(Image.open(io.BytesIO(data))) for name, data in members.items() if "json" not in name
        }
        assert sample.key == dataset.key(i) == f"{i:09d}"
        assert np.array_equal(sample.image, expected[f"{sample.key}.image.png"])
        assert np.array_equal(sample.mask, expected[f"{sample.key}.mask.png"])
        assert sample.meta == json.loads(members[f"{sample.key}.json"])
        assert len(sample.subjects) == 1 + i % 2
        for n, crop in enumerate(sample.subjects):
            assert np.array_equal(np.array(crop), expected[f"{sample.key}.subject{n}.webp"])


def test_dataset_can_be_sent_to_a_worker(shards: Path) -> None:
    copy = pickle.loads(pickle.dumps(ShardDataset(shards)))
    assert np.array_equal(copy[3].image, ShardDataset(shards)[3].image)


def test_splits_are_separate(tmp_path: Path) -> None:
    write_shards(tmp_path, samples=2, split="heldout")
    assert len(ShardDataset(tmp_path, "heldout")) == 2
    with pytest.raises(ShardDataError, match="no sample of split 'train'; its splits are: heldout"):
        ShardDataset(tmp_path, "train")


# Damage.


def _edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_missing_folder_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="manifest.json does not exist: run `python -m preprocessing`"):
        ShardDataset(tmp_path)


def test_other_format_version_is_refused(tmp_path: Path) -> None:
    _edit_manifest(write_shards(tmp_path), format="moa-shards/2")
    with pytest.raises(ShardDataError, match="'moa-shards/2', this version reads 'moa-shards/1'"):
        ShardDataset(tmp_path)


@pytest.mark.parametrize("suffix", [".tar", ".json"])
def test_missing_shard_is_named(tmp_path: Path, suffix: str) -> None:
    (write_shards(tmp_path) / "shards" / f"train-00001{suffix}").unlink()
    with pytest.raises(MissingInputError, match=f"train-00001{suffix} is named in the manifest but missing"):
        ShardDataset(tmp_path)


def test_index_of_another_shard_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path) / "shards"
    (folder / "train-00000.json").write_bytes((folder / "train-00001.json").read_bytes())
    with pytest.raises(ShardDataError, match="train-00000.json does not belong to the manifest"):
        ShardDataset(tmp_path)


def test_verify_finds_one_flipped_bit_and_each_rank_looks_at_its_share(tmp_path: Path) -> None:
    tar = write_shards(tmp_path) / "shards" / "train-00001.tar"
    dataset = ShardDataset(tmp_path)
    dataset.verify()
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    dataset.verify(rank=0, world=2)  # shard 0
    for rank, world in ((0, 1), (1, 2)):
        with pytest.raises(ShardDataError, match="train-00001.tar is not the shard its manifest describes"):
            dataset.verify(rank, world)


def test_a_cut_shard_never_gives_an_incomplete_sample(tmp_path: Path) -> None:
    """Cut at every block: samples before the cut are whole, the others are errors that name shard and sample."""
    tar = write_shards(tmp_path, samples=2) / "shards" / "train-00000.tar"
    dataset, data = ShardDataset(tmp_path), tar.read_bytes()
    ends = [row["offset"] + row["size"] for row in json.loads(tar.with_suffix(".json").read_text())["index"]]
    for cut in range(0, len(data), 512):
        tar.write_bytes(data[:cut])
        for i, end in enumerate(ends):
            if end <= cut:
                assert dataset[i].key == f"{i:09d}"
            else:
                with pytest.raises(ShardDataError, match=rf"train-00000.tar: sample '{i:09d}' .* is damaged"):
                    dataset[i]


def test_a_flipped_header_or_missing_member_is_an_error(tmp_path: Path) -> None:
    tar = write_shards(tmp_path, samples=1) / "shards" / "train-00000.tar"
    dataset, data = ShardDataset(tmp_path), bytearray(tar.read_bytes())
    data[3] ^= 1  # in the name of the first member
    tar.write_bytes(data)
    with pytest.raises(ShardDataError, match="no tar header at byte 0"):
        dataset[0]


# Order.


@pytest.mark.parametrize(("n", "batch"), [(8, 4), (7, 4), (5, 12), (100, 8)])
def test_each_epoch_visits_each_sample_once_whatever_the_ranks(n: int, batch: int) -> None:
    whole = [i for step in range(25) for i in batch_indices(n, 3, step, batch)]
    for world in (1, 2, 4):
        ranks = [batch_indices(n, 3, step, batch, rank, world) for step in range(25) for rank in range(world)]
        assert [i for part in ranks for i in part] == whole
    for first in range(0, len(whole) - n + 1, n):
        assert sorted(whole[first : first + n]) == list(range(n))


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [sample_order(50, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert sample_order(50, 0, 0).tolist() == orders[0]


# Random numbers of a sample.


@pytest.fixture
def training_set(shards: Path, tmp_path: Path) -> Callable[[TrainConfig], TrainingSet]:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    return lambda config: TrainingSet(ShardDataset(shards), tokenizer, tiny_image_processor(), LATENT, config)


def _equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def test_draws_are_a_function_of_seed_and_number(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    first, again = draw(config, 7, LATENT), draw(config, 7, LATENT)
    assert torch.equal(first.noise, again.noise) and first.timestep == again.timestep
    assert not torch.equal(first.noise, draw(config, 8, LATENT).noise)
    assert not torch.equal(first.noise, draw(make_config(seed=1), 7, LATENT).noise)
    assert not torch.equal(first.noise, first.posterior_noise)


def test_draws_follow_the_configured_rates(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(condition_dropout=0.25, masked_loss_probability=0.75, max_timestep=10)
    draws = [draw(config, number, (1, 1, 1)) for number in range(2000)]
    assert {d.timestep for d in draws} == set(range(10))
    assert np.mean([d.dropped for d in draws]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([d.masked for d in draws]) == pytest.approx(0.75, abs=0.04)
    assert np.mean([d.noise.item() for d in draws]) == pytest.approx(0, abs=0.1)
    assert np.std([d.noise.item() for d in draws]) == pytest.approx(1, abs=0.1)


def test_a_dropped_sample_has_no_conditions(training_set: Callable, make_config: Callable[..., TrainConfig]) -> None:
    kept, dropped = (
        collate([training_set(make_config(condition_dropout=rate))[n] for n in range(4)]) for rate in (0.0, 1.0)
    )
    assert kept.active.all() and kept.present.any(1).all() and len(kept.pixels) == int(kept.present.sum())
    assert not dropped.active.any() and not dropped.present.any() and len(dropped.pixels) == 0
    assert len(dropped.input_ids.unique(dim=0)) == 1  # the empty prompt
    assert torch.equal(kept.noise, dropped.noise)


def test_positions_point_at_the_words(training_set: Callable, make_config: Callable[..., TrainConfig]) -> None:
    samples = training_set(make_config(condition_dropout=0.0))
    for number in range(8):
        example = samples[number]
        words = [samples.tokenizer.decode(example.input_ids[p]).strip() for p in example.positions]
        sample = samples.dataset[batch_indices(8, 0, number, 1)[0]]
        assert words == [subject["word"] for subject in sample.meta["subjects"]]


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


# Augmentation.

CROP = np.zeros((16, 16, 4), np.uint8)
CROP[4:14, 3:8] = (200, 80, 40, 255)
OFF = {"flip": 0.0, "background": 0.0, "colour": 0.0, "geometry": 0.0, "rotation": 0.0}


def _augmented(seed: int = 0, **options: float) -> np.ndarray:
    config = SubjectAugmentation(**{**OFF, **options})
    return np.array(augment_subject(Image.fromarray(CROP), config, np.random.default_rng(seed)))


def test_without_augmentation_the_crop_is_unchanged() -> None:
    assert np.array_equal(_augmented(), CROP)


def test_flip_mirrors() -> None:
    assert np.array_equal(_augmented(flip=1.0), CROP[:, ::-1])


def test_background_fills_one_random_colour_behind_the_subject() -> None:
    images = [_augmented(seed, background=1.0) for seed in (0, 1)]
    for image in images:
        assert image.shape == (16, 16, 3)
        assert np.array_equal(image[4:14, 3:8], CROP[4:14, 3:8, :3])
        assert len(np.unique(image[CROP[..., 3] == 0], axis=0)) == 1
    assert not np.array_equal(images[0][0, 0], images[1][0, 0])


def test_colour_jitter_keeps_the_colour_recognisable_and_the_outline() -> None:
    changed = [_augmented(seed, colour=0.1) for seed in range(20)]
    inside = np.array([image[6, 5, :3] for image in changed], int)
    assert len(np.unique(inside, axis=0)) > 10
    assert np.abs(inside - [200, 80, 40]).max() < 0.25 * 255
    assert all((colour.argmax(), colour.argmin()) == (0, 2) for colour in inside)  # still an orange red
    assert all(np.array_equal(image[..., 3], CROP[..., 3]) for image in changed)


@pytest.mark.parametrize("option", [{"geometry": 0.2}, {"rotation": 30.0}])
def test_geometry_moves_the_subject_within_bounds(option: dict[str, float]) -> None:
    alphas = np.array([_augmented(seed, **option)[..., 3] for seed in range(20)], float)
    assert len(np.unique(alphas, axis=0)) == 20
    area = alphas.sum((1, 2)) / 255 / 50
    assert (area > 0.5).all() and (area < 1.6).all()
    colours = np.array([_augmented(seed, **option) for seed in range(20)])
    assert np.abs(colours[colours[..., 3] > 128][:, :3].astype(int) - [200, 80, 40]).max() <= 3  # no dark fringe


def test_an_augmented_subject_is_always_visible() -> None:
    sliver = np.zeros((16, 16, 4), np.uint8)
    sliver[:, 0] = 255
    config = SubjectAugmentation(geometry=0.5, rotation=45, background=0)
    for seed in range(50):
        image = augment_subject(Image.fromarray(sliver), config, np.random.default_rng(seed))
        assert image.getchannel("A").getbbox()
