"""`LatentCache`: what the frozen autoencoder says of each image, computed once and kept over steps, epochs and runs.

    <latent_cache>/<key>/
        00000.npy, 00001.npy, ...   float [n, 2, C, h, w]: mean and standard deviation of PART samples' posteriors
        manifest.json               written last: {"format", "inputs", "samples", "files": {name: sha256}}

The key names shards, split, autoencoder and precision, so runs that agree in these share the folder and others do not.
Ranks encode different parts; a part appears whole or not at all, and one that is there is left alone, so an interrupted
build goes on and two runs may build at once. Samples of the posterior are drawn anew in every step, as without a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from moa.data import ShardDataset, file_digest
from moa.distributed import Ranks
from moa.errors import LatentCacheError

FORMAT = "moa-latents/1"
PART = 512  # samples of a file: 32 MB at 512 px in half precision
BATCH = 16  # images encoded together

Progress = Callable[[int, int], None]


def posterior(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, fp32 [B, C, h, w] each, of the latents of uint8 images [B, 3, H, W]."""
    pixels = (images.float() / 127.5 - 1).to(vae.dtype)
    found = vae.encode(pixels).latent_dist
    return found.mean.float(), found.std.float()


class LatentCache:
    """The posteriors of a dataset's samples, memory-mapped. It may be pickled or forked.

    Raises `LatentCacheError` for a file that is missing or not the one its manifest names.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LatentCacheError(f"{self.folder} has no readable manifest.json ({error}): delete it") from error

    def __getitem__(self, i: int) -> Tensor:
        """Mean and standard deviation of sample i, [2, C, h, w] in the precision they are kept in."""
        part, place = divmod(i, PART)
        return torch.from_numpy(np.array(self._parts[part][place]))

    def verify(self, rank: int = 0, world: int = 1) -> None:
        """Compares the sha256 of this rank's share of the files."""
        for name, digest in sorted(self.manifest["files"].items())[rank::world]:
            path = self.folder / name
            if not path.is_file() or file_digest(path) != digest:
                raise LatentCacheError(f"{path} is not the file its manifest describes: delete {self.folder}")

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        try:
            return [np.load(self.folder / name, mmap_mode="r") for name in sorted(self.manifest["files"])]
        except (OSError, ValueError) as error:
            raise LatentCacheError(f"{self.folder} is damaged ({error}): delete it, it is made again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_parts"}


def open_latents(
    root: Path,
    dataset: ShardDataset,
    vae: AutoencoderKL,
    inputs: dict[str, str],
    here: Ranks,
    progress: Progress = lambda done, total: None,
) -> LatentCache:
    """The cache of `dataset` under `root`, built by all ranks together where it is not there yet.

    `inputs` are the digests of what the posteriors depend on besides precision and split. `progress(done, total)` gets
    numbers of samples. Raises `LatentCacheError` when a part cannot be written (disk full, no permission).
    """
    known = {**inputs, "split": dataset.split, "precision": str(vae.dtype).removeprefix("torch.")}
    folder = Path(root) / _key(known)
    if not here.from_first(int(here.first and (folder / "manifest.json").is_file())):
        parts = range(-(-len(dataset) // PART))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for part in parts[here.rank :: here.world]:
                _write_part(folder / _name(part), dataset, vae, part, here.device)
                progress(min(len(dataset), (part + 1) * PART), len(dataset))
            here.barrier()
            if here.first:
                _write_manifest(folder, known, len(dataset), [_name(part) for part in parts])
        except OSError as error:
            raise LatentCacheError(f"{folder}: {error}; make room or choose another `latent_cache`") from error
        here.barrier()
    return LatentCache(folder)


def _key(inputs: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _name(part: int) -> str:
    return f"{part:05d}.npy"


@torch.no_grad()
def _write_part(path: Path, dataset: ShardDataset, vae: AutoencoderKL, part: int, device: torch.device) -> None:
    if path.exists():
        return
    last = min(len(dataset), (part + 1) * PART)
    kept = torch.float32 if vae.dtype == torch.float32 else torch.float16
    pieces = []
    for first in range(part * PART, last, BATCH):
        images = np.stack([dataset[i].image for i in range(first, min(first + BATCH, last))])
        moments = posterior(vae, torch.from_numpy(images).permute(0, 3, 1, 2).to(device))
        pieces.append(torch.stack(moments, dim=1).to(kept).cpu().numpy())
    _commit(path, lambda file: np.save(file, np.concatenate(pieces)))


def _write_manifest(folder: Path, inputs: dict[str, str], samples: int, names: list[str]) -> None:
    files = {name: file_digest(folder / name) for name in names}
    record = {"format": FORMAT, "inputs": inputs, "samples": samples, "files": files}
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    _commit(folder / "manifest.json", lambda file: file.write(text.encode()))


def _commit(path: Path, write: Callable[[Any], Any]) -> None:
    """The file appears under its name when it is whole; one that is there already stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not path.exists():
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
