"""Cached latents: the same training without encoding an image twice, and no half or foreign file is ever used."""

from __future__ import annotations

import errno
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

import moa.latents
import moa.train
from moa.data import ShardDataset
from moa.distributed import Ranks, StopRequest
from moa.errors import LatentCacheError
from moa.latents import LatentCache, open_latents, posterior
from moa.models import load_models
from moa.train import EXIT_STOPPED
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.shards import write_shards
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
    inputs, stop = INPUTS | changes.pop("inputs", {}), changes.pop("stop", StopRequest())
    return open_latents(root, ShardDataset(shards), vae, inputs, ALONE, stop, **changes)


def again(cache: LatentCache) -> LatentCache:
    """The same folder, opened anew as what its manifest says it is."""
    manifest = json.loads((cache.folder / "manifest.json").read_text())
    return LatentCache(cache.folder, manifest["samples"], manifest["inputs"])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_sample_has_its_own_posterior(tmp_path, shards, vae):
    told: list[tuple[int, int]] = []
    cache = pickle.loads(pickle.dumps(build(tmp_path, shards, vae, progress=lambda *p: told.append(p))))
    dataset = ShardDataset(shards)
    for i in range(len(dataset)):
        mean, deviation = posterior(vae, torch.from_numpy(dataset[i].image).permute(2, 0, 1)[None])
        assert torch.allclose(cache[i], torch.cat([mean, deviation]), atol=1e-5)
    assert told == [(2, 8), (3, 8), (5, 8), (6, 8), (8, 8)] and cache[0].dtype == torch.float32
    cache.verify()


def test_a_posterior_is_that_of_the_pixels_as_diffusers_scales_them(vae):
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        pixels = VaeImageProcessor().preprocess(image.float() / 255)
        wanted, found = vae.encode(pixels).latent_dist, posterior(vae, image)
    assert torch.allclose(found[0], wanted.mean, atol=1e-5) and torch.allclose(found[1], wanted.std, atol=1e-5)


def test_a_cpu_encodes_few_images_together_and_in_their_order(vae, monkeypatch):
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    together: list[int] = []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda pixels: together.append(len(pixels)) or encode(pixels))
    with torch.no_grad():
        alone = [torch.cat(each) for each in zip(*(posterior(vae, image[None]) for image in images), strict=True)]
        for pixels, sizes in ((2 * 32 * 32, [2, 2, 1]), (100, [1] * 5), (2**16, [5])):
            together.clear()
            monkeypatch.setattr(moa.latents, "CPU_PIXELS", pixels)
            found = posterior(vae, images)
            assert together == sizes
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, alone, strict=True))


def test_a_gpu_encodes_all_images_together(vae, monkeypatch):
    together: list[int] = []
    encode = vae.encode
    with AbsentGPU() as gpu:
        there = gpu.move(vae)
        monkeypatch.setattr(there, "encode", lambda pixels: together.append(len(pixels)) or encode(pixels))
        monkeypatch.setattr(moa.latents, "CPU_PIXELS", 1)
        with torch.no_grad():
            posterior(there, torch.zeros(3, 3, 32, 32, dtype=torch.uint8).to("cuda"))
    assert together == [3]


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

        def sum_(self, tensor: torch.Tensor) -> None:
            pass

    with pytest.raises(LatentCacheError, match="manifest.json"):  # it is the first rank's to write
        open_latents(tmp_path, ShardDataset(shards), vae, INPUTS, Second(1, 2, torch.device("cpu")), StopRequest())
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in folder.iterdir()] == ["00001.npy"] and sum(encoded) == 3
    together = build(tmp_path, shards, vae)
    assert together[7].shape == (2, *vae_shape(vae)) and sum(encoded) == 8
    alone = build(tmp_path / "alone", shards, vae)
    assert all(torch.allclose(together[i], alone[i], atol=1e-5) for i in range(8)), "each has its own samples"


def vae_shape(vae: Any) -> tuple[int, int, int]:
    side = 32 // 2 ** (len(vae.config.block_out_channels) - 1)
    return vae.config.latent_channels, side, side


@pytest.mark.parametrize(
    ("world", "counted"),
    [
        (2, [(4, 8), (6, 8), (8, 8)]),  # three parts of 3, 3 and 2 samples: the other rank has the second
        (4, [(6, 8), (8, 8)]),  # one part each, the last is shorter, the fourth rank has none
    ],
)
def test_a_rank_counts_the_others_to_be_as_far_as_itself(tmp_path, shards, vae, world, counted):
    told: list[tuple[int, int]] = []
    alone = Ranks(0, world, torch.device("cpu"))
    object.__setattr__(alone, "sum_", lambda tensor: None)
    with pytest.raises(LatentCacheError, match="00001.npy"):  # the other rank's part
        open_latents(
            tmp_path, ShardDataset(shards), vae, INPUTS, alone, StopRequest(), progress=lambda *p: told.append(p)
        )
    assert told == counted


def test_a_run_says_how_far_the_latents_are_but_not_after_every_batch(make_config, tmp_path, capfd, monkeypatch):
    def said(name: str) -> list[tuple[int, int]]:
        run(make_config(steps=1, out=tmp_path / name, latent_cache=tmp_path / f"latents-{name}"))
        lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        return [(line["done"], line["total"]) for line in lines if line.get("event") == "latents"]

    monkeypatch.setattr(moa.train, "SECONDS_BETWEEN_LATENTS", 1e9)
    assert said("seldom") == [(2, 8), (8, 8)]
    monkeypatch.setattr(moa.train, "SECONDS_BETWEEN_LATENTS", 0.0)
    assert said("often") == [(2, 8), (3, 8), (5, 8), (6, 8), (8, 8)]


def test_loader_processes_decode_the_same_bytes(tmp_path, shards, vae):
    alone, workers = (build(tmp_path / str(n), shards, vae, workers=n) for n in (0, 2))
    assert content(alone.folder) == content(workers.folder)


def test_other_inputs_have_their_own_folder(tmp_path, shards, vae, monkeypatch):
    folders = {build(tmp_path, shards, vae, inputs=change).folder for change in ({}, {"vae": "sha256:3"}, {})}
    monkeypatch.setattr(moa.latents, "FORMAT", "moa-latents/0")
    folders |= {build(tmp_path, shards, vae).folder}
    assert len(folders) == 3


def test_each_split_has_its_own_folder(tmp_path, vae):
    """The digest of the shards is that of all splits."""
    folders = set()
    for split in ("train", "heldout"):
        dataset = ShardDataset(write_shards(tmp_path / split, samples=3, split=split), split)
        folders.add(open_latents(tmp_path / "latents", dataset, vae, INPUTS, ALONE, StopRequest()).folder)
    assert len(folders) == 2


def test_files_of_another_size_are_not_read_as_if_they_were_ours(tmp_path, shards, vae, monkeypatch):
    threes = build(tmp_path, shards, vae)
    monkeypatch.setattr(moa.latents, "PART", 2)
    twos = build(tmp_path, shards, vae)
    monkeypatch.setattr(moa.latents, "PART", 3)
    third = threes[2]
    monkeypatch.setattr(moa.latents, "PART", 2)
    assert torch.allclose(twos[2], third, atol=1e-5) and twos.folder != threes.folder


@pytest.mark.parametrize("change", [{"format": "moa-latents/9"}, {"samples": 7}, {"inputs": {"shards": "sha256:7"}}])
def test_a_manifest_of_something_else_is_refused(tmp_path, shards, vae, change):
    path = build(tmp_path, shards, vae).folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LatentCacheError, match=rf"manifest.json: {next(iter(change))} is .*instead of.*delete"):
        build(tmp_path, shards, vae)


# Interruptions.


def test_a_stop_is_noticed_between_batches_and_what_is_encoded_is_kept(tmp_path, shards, vae, encoded, monkeypatch):
    stop = StopRequest()

    def stopping(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        encoded.append(len(images))
        stop.asked = sum(encoded) >= 4  # in the second of three parts
        return posterior(model, images)

    monkeypatch.setattr(moa.latents, "posterior", stopping)
    assert build(tmp_path, shards, vae, stop=stop) is None
    (folder,) = tmp_path.iterdir()
    assert encoded == [2, 1, 2] and [path.name for path in folder.iterdir()] == ["00000.npy"]
    assert build(tmp_path, shards, vae) and sum(encoded[3:]) == 5


def test_a_run_that_is_stopped_before_it_has_its_latents_exits_as_the_loop_does(make_config, tmp_path, capfd):
    config = make_config(latent_cache=tmp_path / "latents")
    stop = StopRequest()
    stop.asked = True
    assert run(config, stop) == EXIT_STOPPED
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["event"] == "stopped"
    assert run(config) == 0


def test_drafts_of_killed_writers_are_removed_and_those_of_others_stay(tmp_path, shards, vae):
    cache = build(tmp_path, shards, vae)
    old, fresh = cache.folder / ".00000.npy.1", cache.folder / ".00000.npy.2"
    for draft in (old, fresh):
        draft.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    (cache.folder / "manifest.json").unlink()
    build(tmp_path, shards, vae)
    assert fresh.exists() and not old.exists()


def test_two_writers_of_one_process_number_do_not_share_a_draft(tmp_path):
    """Two containers on one folder may both be process 1. The other one is done first: its file stays."""
    path = tmp_path / "00000.npy"

    def write(file: Any) -> None:
        file.write(b"ours")
        moa.latents._commit(path, lambda other: other.write(b"theirs"))

    moa.latents._commit(path, write)
    assert content(tmp_path) == {"00000.npy": b"theirs"}


def test_each_rank_looks_at_its_share_of_the_files(tmp_path, shards, vae):
    cache = build(tmp_path, shards, vae)
    (cache.folder / "00001.npy").write_bytes(b"x")
    cache.verify(0, 2)
    with pytest.raises(LatentCacheError, match=r"00001.npy"):
        cache.verify(1, 2)


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
        again(cache).verify()
    if damage != "flip":
        with pytest.raises(LatentCacheError, match="delete it, it is made again"):
            again(cache)[0]


def test_a_full_disk_leaves_no_part_behind(tmp_path, shards, vae, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LatentCacheError, match="No space left on device.*latent_cache"):
        build(tmp_path, shards, vae)
    assert not [path for folder in tmp_path.iterdir() for path in folder.iterdir()]
