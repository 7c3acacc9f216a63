"""Cached latents: the same training without encoding an image twice, and no half or foreign file is ever used."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import moa.latents
from moa.data import ShardDataset
from moa.distributed import Ranks
from moa.errors import LatentCacheError
from moa.latents import LatentCache, open_latents, posterior
from moa.models import load_models
from tests.moa.training import ALONE, MakeConfig, metrics, run, tensors

INPUTS = {"shards": "sha256:1", "vae": "sha256:2"}


@pytest.fixture
def vae(make_config: MakeConfig) -> Any:
    return load_models(make_config(), ALONE.device).vae


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moa.latents, "PART", 3)  # of the eight samples: three files
    monkeypatch.setattr(moa.latents, "BATCH", 2)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images encoded together, as it happens."""
    sizes: list[int] = []

    def counting(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(images))
        return posterior(model, images)

    monkeypatch.setattr(moa.latents, "posterior", counting)
    return sizes


def build(root: Path, shards: Path, vae: Any, **changes: Any) -> LatentCache:
    return open_latents(root, ShardDataset(shards), vae, INPUTS | changes.pop("inputs", {}), ALONE, **changes)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_sample_has_its_own_posterior(tmp_path, shards, vae):
    told: list[tuple[int, int]] = []
    cache = pickle.loads(pickle.dumps(build(tmp_path, shards, vae, progress=lambda *p: told.append(p))))
    dataset = ShardDataset(shards)
    for i in range(len(dataset)):
        mean, deviation = posterior(vae, torch.from_numpy(dataset[i].image).permute(2, 0, 1)[None])
        assert torch.allclose(cache[i], torch.cat([mean, deviation]), atol=1e-5)
    assert told == [(3, 8), (6, 8), (8, 8)] and cache[0].dtype == torch.float32
    cache.verify()


def test_half_precision_is_kept_in_half_the_bytes(tmp_path, shards, vae):
    whole = build(tmp_path, shards, vae)
    half = build(tmp_path, shards, vae.to(torch.bfloat16))
    assert half[0].dtype == torch.float16 and half.folder != whole.folder
    assert torch.allclose(half[7].float(), whole[7], atol=0.1)


def test_training_with_it_is_training_without_it(make_config: MakeConfig, tmp_path: Path, encoded: list[int]) -> None:
    without = make_config(out=tmp_path / "without")
    cached = make_config(out=tmp_path / "cached", latent_cache=tmp_path / "latents")
    run(without)
    assert encoded == []  # the step has its own name for the function
    run(cached)
    assert sum(encoded) == 8, "each image once"
    for ours, theirs in zip(metrics(cached), metrics(without), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    first, second = (tensors(config, 4) for config in (cached, without))
    for name in (name for name in first if name.startswith("weights")):
        assert torch.allclose(first[name], second[name], atol=1e-5), name
    run(make_config(out=tmp_path / "again", latent_cache=tmp_path / "latents"))
    assert sum(encoded) == 8, "another run finds them"


def test_images_are_not_decoded(shards):
    without = ShardDataset(shards, images=False)[1]
    assert without.image.size == 0 and np.array_equal(without.mask, ShardDataset(shards)[1].mask)


def test_an_interrupted_build_goes_on_with_the_same_bytes(tmp_path, shards, vae, encoded):
    whole = content(build(tmp_path / "whole", shards, vae).folder)
    cache = build(tmp_path / "parts", shards, vae)
    for name in ("00001.npy", "manifest.json"):
        (cache.folder / name).unlink()
    encoded.clear()
    assert content(build(tmp_path / "parts", shards, vae).folder) == whole
    assert sum(encoded) == 3


def test_ranks_share_the_work(tmp_path, shards, vae, encoded):
    class Second(Ranks):
        """Rank 1 of 2, at the time when the first has not come yet."""

        def from_first(self, value: int) -> int:
            return 0

    with pytest.raises(LatentCacheError, match="manifest.json"):  # it is the first rank's to write
        open_latents(tmp_path, ShardDataset(shards), vae, INPUTS, Second(1, 2, torch.device("cpu")))
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["00001.npy"] and sum(encoded) == 3
    assert build(tmp_path, shards, vae)[7].shape == (2, *vae_shape(vae)) and sum(encoded) == 8


def vae_shape(vae: Any) -> tuple[int, int, int]:
    side = 32 // 2 ** (len(vae.config.block_out_channels) - 1)
    return vae.config.latent_channels, side, side


def test_other_inputs_have_their_own_folder(tmp_path, shards, vae):
    folders = {build(tmp_path, shards, vae, inputs=change).folder for change in ({}, {"vae": "sha256:3"}, {})}
    assert len(folders) == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path, shards, vae, damage):
    cache = build(tmp_path, shards, vae)
    path = cache.folder / "00002.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    if damage != "gone":
        path.write_bytes(data if damage == "flip" else data[:-1])
    with pytest.raises(LatentCacheError, match=r"00002.npy.*delete"):
        LatentCache(cache.folder).verify()
    if damage != "flip":
        with pytest.raises(LatentCacheError, match="delete it, it is made again"):
            LatentCache(cache.folder)[0]


def test_a_full_disk_leaves_no_part_behind(tmp_path, shards, vae, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LatentCacheError, match="No space left on device.*latent_cache"):
        build(tmp_path, shards, vae)
    assert not [path for folder in tmp_path.iterdir() for path in folder.iterdir()]
