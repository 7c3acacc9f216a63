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


@pytest.mark.parametrize("text", ["[1]", "3", "{", ""])
def test_a_manifest_or_index_that_is_no_json_object_is_named(tmp_path: Path, text: str) -> None:
    folder = write_shards(tmp_path)
    for path in (folder / "shards/train-00001.json", folder / "manifest.json"):
        path.write_text(text)
        with pytest.raises(ShardDataError, match=f"{path.name} is no JSON object"):
            ShardDataset(folder)


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


def _rewrite(folder: Path, change: Callable[[dict[str, bytes]], None]) -> ShardDataset:
    """The dataset with its only sample, of two people, written again after `change` of its members."""
    tar = folder / "shards" / "train-00000.tar"
    row = json.loads(tar.with_suffix(".json").read_text())["index"][1]
    with tarfile.open(tar) as archive:
        members = {name: archive.extractfile(name).read() for name in archive.getnames() if row["key"] in name}
    members = {name.partition(".")[2]: content for name, content in members.items()}
    change(members)
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            info = tarfile.TarInfo(f"{row['key']}.{name}")
            info.size = len(members[name])
            archive.addfile(info, io.BytesIO(members[name]))
        size = archive.offset
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["samples"] = 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    record = json.loads(tar.with_suffix(".json").read_text())
    tar.with_suffix(".json").write_text(json.dumps(record | {"index": [row | {"offset": 0, "size": size}]}))
    return ShardDataset(folder)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mask", "problem"),
    [
        (np.zeros((31, 32), np.uint8), r"its mask is uint8 \(31, 32\), its image \(32, 32\)"),
        (np.zeros((32, 32, 3), np.uint8), r"its mask is uint8 \(32, 32, 3\)"),
        (np.zeros((32, 32), np.uint16), r"its mask is \w+ \(32, 32\)"),
    ],
)
def test_a_mask_of_another_size_or_kind_is_refused(tmp_path: Path, mask: np.ndarray, problem: str) -> None:
    dataset = _rewrite(write_shards(tmp_path, samples=2), lambda members: members.update({"mask.png": _png(mask)}))
    with pytest.raises(ShardDataError, match=problem):
        dataset[0]


def _numbered(*numbers: int) -> Callable[[dict[str, bytes]], None]:
    """Gives the two people, or copies of them, these numbers."""

    def change(members: dict[str, bytes]) -> None:
        meta = json.loads(members["json"])
        meta["subjects"] = [meta["subjects"][n % 2] | {"index": index} for n, index in enumerate(numbers)]
        members["json"] = json.dumps(meta).encode()
        members |= {f"subject{index}.webp": members[f"subject{n % 2}.webp"] for n, index in enumerate(numbers)}

    return change


def test_people_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    first, second = (entry["word"] for entry in ShardDataset(write_shards(tmp_path, samples=2))[1].meta["subjects"])
    sample = _rewrite(tmp_path, _numbered(1, 0))[0]
    assert [(entry["index"], entry["word"]) for entry in sample.meta["subjects"]] == [(0, second), (1, first)]


@pytest.mark.parametrize("numbers", [(0, 2), (1, 2), (0, 0), tuple(range(9))])
def test_people_numbered_otherwise_or_too_many_are_refused(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    dataset = _rewrite(write_shards(tmp_path, samples=2), _numbered(*numbers))
    with pytest.raises(ShardDataError, match="not numbered 0, 1, ... up to 7"):
        dataset[0]
    assert len(_rewrite(write_shards(tmp_path / "8", samples=2), _numbered(*range(8)))[0].subjects) == 8


def test_members_that_fill_their_blocks_and_those_that_the_index_cuts(tmp_path: Path) -> None:
    """Tar pads to 512 bytes; a member of exactly as many is not padded, and the next header follows at once."""
    dataset = _rewrite(write_shards(tmp_path, samples=2), lambda members: members.update({"a.txt": bytes(1024)}))
    assert dataset[0].image.shape == (32, 32, 3)
    path = tmp_path / "shards" / "train-00000.json"
    record = json.loads(path.read_text())
    record["index"][0]["size"] = 512 + 1023
    path.write_text(json.dumps(record))
    with pytest.raises(ShardDataError, match="member .*a.txt is cut after 1023 of 1024 bytes"):
        ShardDataset(tmp_path)[0]


def test_an_index_with_fewer_samples_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    path = write_shards(tmp_path) / "shards" / "train-00000.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"index": record["index"][:-1]}))
    with pytest.raises(ShardDataError, match="train-00000.json does not belong to the manifest"):
        ShardDataset(tmp_path)


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
    assert [sample_index(5, 3, n) for n in range(10)] == [*sample_order(5, 3, 0), *sample_order(5, 3, 1)]
    orders = [sample_order(50, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert sample_order(50, 0, 0).tolist() == orders[0]
