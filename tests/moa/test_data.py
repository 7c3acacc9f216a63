"""Shards are read exactly as written, damage is a typed error, and the order depends on (seed, step) alone."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moa.data import ShardDataset, batch_numbers, sample_index, sample_order
from moa.errors import MissingInputError, ShardDataError
from tests.moa.shards import write_shards

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
        assert np.array_equal(dataset.image(i), sample.image)
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
                for read in (dataset.__getitem__, dataset.image):
                    with pytest.raises(ShardDataError, match=rf"train-00000.tar: sample '{i:09d}' .* is damaged"):
                        read(i)


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
    whole = [sample_index(n, 3, number) for number in range(25 * batch)]
    for world in (1, 2, 4):
        ranks = [batch_numbers(step, batch, rank, world) for step in range(25) for rank in range(world)]
        assert [sample_index(n, 3, number) for part in ranks for number in part] == whole
    for first in range(0, len(whole) - n + 1, n):
        assert sorted(whole[first : first + n]) == list(range(n))


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [sample_order(50, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert sample_order(50, 0, 0).tolist() == orders[0]
