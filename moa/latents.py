"""`LatentCache`: what the frozen autoencoder says of each image, computed once and kept over steps, epochs and runs.

    <latent_cache>/<key>/
        00000.npy, 00001.npy, ...   float [n, 2, C, h, w]: mean and standard deviation of PART samples' posteriors
        manifest.json               written last: {"format", "inputs", "samples", "files": {name: sha256}}

The key is a digest of the format and the inputs (shards, split, autoencoder, precision, samples of a file), so runs
that agree in these share the folder and others do not. Ranks encode different parts; a part appears whole or not at
all, and one that is there is left alone, so an interrupted build goes on and two runs may build at once. Samples of the
posterior are drawn anew in every step, as without a cache.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import Dataset

from moa.atomic import replacing
from moa.data import ShardDataset, file_digest
from moa.distributed import Ranks, StopRequest
from moa.errors import LatentCacheError
from moa.loader import load

FORMAT = "moa-latents/2"
PART = 512  # samples of a file: 32 MB at 512 px in half precision
BATCH = 16  # images read together
CPU_PIXELS = 2**16  # pixels a CPU encodes together; what more take does not stay in its caches (LOG.md, 2026-11-28)
ABANDONED = 3600.0  # seconds after which the writer of a draft is taken for killed

Progress = Callable[[int, int], None]


def posterior(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, fp32 [B, C, h, w] each, of the latents of uint8 images [B, 3, H, W]. A GPU encodes
    them all together."""
    height, width = images.shape[-2:]
    together = max(1, CPU_PIXELS // (height * width)) if images.device.type == "cpu" else len(images)
    pixels = (images.float() / 127.5 - 1).to(vae.dtype)
    found = [vae.encode(part).latent_dist for part in pixels.split(together)]
    mean, deviation = (torch.cat([getattr(each, name) for each in found]).float() for name in ("mean", "std"))
    return mean, deviation


class LatentCache:
    """The posteriors of `samples` samples made from `inputs`, memory-mapped. It may be pickled or forked.

    Raises `LatentCacheError` for a folder of something else, and for a file that is missing or not the one its
    manifest names.
    """

    def __init__(self, folder: Path, samples: int, inputs: dict[str, Any]):
        self.folder = Path(folder)
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            self.files: dict[str, str] = manifest["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LatentCacheError(f"{self.folder} has no readable manifest.json ({error!r}): delete it") from error
        for name, value in {"format": FORMAT, "samples": samples, "inputs": inputs}.items():
            if manifest.get(name) != value:
                raise LatentCacheError(
                    f"{self.folder / 'manifest.json'}: {name} is {manifest.get(name)!r} instead of {value!r}: delete "
                    f"{self.folder}, it is made again"
                )

    def __getitem__(self, i: int) -> Tensor:
        """Mean and standard deviation of sample i, [2, C, h, w] in the precision they are kept in."""
        part, place = divmod(i, PART)
        return torch.from_numpy(np.array(self._parts[part][place]))

    def verify(self, rank: int = 0, world: int = 1) -> None:
        """Compares the sha256 of this rank's share of the files."""
        for name, digest in sorted(self.files.items())[rank::world]:
            path = self.folder / name
            if not path.is_file() or file_digest(path) != digest:
                raise LatentCacheError(f"{path} is not the file its manifest describes: delete {self.folder}")

    @cached_property
    def _parts(self) -> list[np.ndarray]:
        try:
            return [np.load(self.folder / name, mmap_mode="r") for name in sorted(self.files)]
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
    stop: StopRequest,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
) -> LatentCache | None:
    """The cache of `dataset` under `root`, built by all ranks together where it is not there yet.

    `inputs` are the digests of what the posteriors depend on besides precision and split; `workers` processes of each
    rank decode the images. `progress(done, total)` gets numbers of samples, after each batch of this rank; as ranks go
    in step, it counts the others to be as far. None when `stop` was asked on any rank: what was encoded by then is
    kept. Raises `LatentCacheError` when a part cannot be written (disk full, ...).
    """
    precision = str(vae.dtype).removeprefix("torch.")
    known = {**inputs, "split": dataset.split, "precision": precision, "part": PART}
    folder = Path(root) / _key(known)
    if not here.from_first(int(here.first and (folder / "manifest.json").is_file())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not _write_parts(folder, dataset, vae, here, stop, workers, progress):
                return None
            if here.first:
                _write_manifest(folder, known, len(dataset))
                _remove_abandoned(folder)
        except OSError as error:
            raise LatentCacheError(f"{folder}: {error}; make room or choose another `latent_cache`") from error
        here.barrier()
    return LatentCache(folder, len(dataset), known)


def _key(inputs: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([FORMAT, inputs], sort_keys=True).encode()).hexdigest()[:16]


def _names(samples: int) -> list[str]:
    return [f"{part:05d}.npy" for part in range(-(-samples // PART))]


def _write_parts(
    folder: Path,
    dataset: ShardDataset,
    vae: AutoencoderKL,
    here: Ranks,
    stop: StopRequest,
    workers: int,
    progress: Progress,
) -> bool:
    """Encodes this rank's share of the parts that are not there; False when stopped before the end."""
    names = _names(len(dataset))
    missing = [part for part in range(here.rank, len(names), here.world) if not (folder / names[part]).exists()]
    batches = _images(dataset, missing, workers, here.device)
    for first in range(0, len(names), here.world):  # ranks go in step, so that none waits longer than a part takes
        part = first + here.rank
        if part in missing:
            share = islice(batches, len(_lists(len(dataset), part)))
            told = partial(_tell, progress, first, here.world, len(dataset))
            _write_part(folder / names[part], (_moments(vae, images, here.device) for images in share), stop, told)
        if here.any(stop.asked):
            return False
    return True


def _tell(progress: Progress, first: int, world: int, samples: int, encoded: int) -> None:
    """`encoded` samples of a part are, on each of `world` ranks that are at the parts from `first` on and has one."""
    parts = range(first, min(first + world, len(_names(samples))))
    progress(first * PART + sum(min(encoded, samples - part * PART) for part in parts), samples)


class _Images(Dataset):
    """The images alone, uint8 [3, H, W]."""

    def __init__(self, dataset: ShardDataset):
        self.dataset = dataset

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(self.dataset.image(i)).permute(2, 0, 1).contiguous()


def _images(dataset: ShardDataset, parts: list[int], workers: int, device: torch.device) -> Iterator[Tensor]:
    """The images of these parts in batches: uint8 [B, 3, H, W]."""
    lists = [batch for part in parts for batch in _lists(len(dataset), part)]
    workers = workers if lists else 0
    return load(_Images(dataset), lists, workers=workers, pin_memory=device.type == "cuda", collate=torch.stack)


def _lists(samples: int, part: int) -> list[list[int]]:
    """Numbers of a part's samples, batch by batch."""
    last = min(samples, (part + 1) * PART)
    return [list(range(first, min(first + BATCH, last))) for first in range(part * PART, last, BATCH)]


@torch.no_grad()
def _moments(vae: AutoencoderKL, images: Tensor, device: torch.device) -> np.ndarray:
    kept = torch.float32 if vae.dtype == torch.float32 else torch.float16
    return torch.stack(posterior(vae, images.to(device, non_blocking=True)), dim=1).to(kept).cpu().numpy()


def _write_part(path: Path, pieces: Iterator[np.ndarray], stop: StopRequest, told: Callable[[int], None]) -> None:
    """`told` gets the number of samples so far. Nothing is written when `stop` is asked meanwhile."""
    found: list[np.ndarray] = []
    for piece in pieces:
        found.append(piece)
        told(sum(map(len, found)))
        if stop.asked:
            return
    _commit(path, lambda file: np.save(file, np.concatenate(found)))


def _write_manifest(folder: Path, inputs: dict[str, Any], samples: int) -> None:
    files = {name: file_digest(folder / name) for name in _names(samples)}
    record = {"format": FORMAT, "inputs": inputs, "samples": samples, "files": files}
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    _commit(folder / "manifest.json", lambda file: file.write(text.encode()))


def _commit(path: Path, write: Callable[[Any], Any]) -> None:
    """The file appears under its name when it is whole; one that is there already stays."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # containers that share the folder may share a pid
    with replacing(path, draft, first_stays=True) as file:
        write(file)


def _remove_abandoned(folder: Path) -> None:
    """Drafts of writers that were killed: a draft is written in seconds."""
    for draft in folder.glob(".*.*"):
        with suppress(FileNotFoundError):  # another run has just finished it
            if time.time() - draft.stat().st_mtime > ABANDONED:
                draft.unlink()
