"""Training samples out of a shard folder (format `moa-shards/1`, datasets/FORMAT.md section 2).

A sample is read with one `pread` at the place the shard's index names; the shards stay plain WebDataset tars for
everybody else. Which samples a step sees is a function of (seed, step) alone: neither ranks nor workers nor a restart
change it.

    dataset = ShardDataset(Path("data/miniature"), "train")
    numbers = batch_numbers(step=0, global_batch=16, rank=0, world=2)
    samples = [dataset[sample_index(len(dataset), seed=1, number=number)] for number in numbers]
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moa.errors import MissingInputError, ShardDataError
from moa.file_lock import Warn, locked

FORMAT = "moa-shards/1"
LOCK = ".lock"
MAX_SUBJECTS = 8
NO_SUBJECT = 255  # mask value of a person who is no subject
_BLOCK = 512  # bytes of a tar header; members are padded to a multiple of it


@dataclass(frozen=True)
class Sample:
    """One image with its people."""

    key: str
    image: np.ndarray  # uint8 [H, W, 3]; [0, 0, 3] of a dataset opened without images
    mask: np.ndarray  # uint8 [H, W]: 0 background, i+1 = subject i, 255 = a person who is no subject
    subjects: list[Image.Image]  # RGBA crops, one per entry of meta["subjects"], in the order of their `index`
    meta: dict[str, Any]  # the sample's json member


@dataclass(frozen=True)
class _Place:
    shard: Path
    key: str
    offset: int
    size: int


class ShardDataset:
    """The samples of one split, in the order of the manifest.

    Opening it reads the manifest and the index of each shard, no image. It holds no open file, so it may be forked or
    pickled. `images=False` leaves the images undecoded, for who has their latents; masks and crops are read.

    Raises `MissingInputError` for a folder or shard that is not there, `ShardDataError` for another format, an empty
    split, an index that does not belong to its shard, or (on reading) a damaged sample.
    """

    def __init__(self, folder: Path, split: str = "train", images: bool = True):
        self.folder, self.split, self.images = Path(folder), split, images
        self.manifest = read_manifest(self.folder)
        self.digest: str = self.manifest["digest"]
        self.shards = [s for s in self.manifest["shards"] if s["split"] == split]
        self._places = [place for shard in self.shards for place in self._index(shard)]
        if not self._places:
            known = ", ".join(sorted({s["split"] for s in self.manifest["shards"]})) or "none"
            raise ShardDataError(f"{self.folder} has no sample of split {split!r}; its splits are: {known}")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, i: int) -> Sample:
        with self._members(i) as members:
            return _sample(self.key(i), members, self.images)

    def image(self, i: int) -> np.ndarray:
        """The image of sample i alone, uint8 [H, W, 3]."""
        with self._members(i) as members:
            return np.array(_image(members).convert("RGB"))

    def key(self, i: int) -> str:
        """The key of sample i, without reading it."""
        return self._places[i].key

    def verify(self, rank: int = 0, world: int = 1) -> None:
        """Compares size and sha256 of this rank's share of the shards. Raises `ShardDataError` naming the shard."""
        for shard in self.shards[rank::world]:
            path = self._shard_path(shard)
            if path.stat().st_size != shard["bytes"] or file_digest(path) != shard["sha256"]:
                raise ShardDataError(f"{path} is not the shard its manifest describes (size or sha256): copy it again")

    @contextmanager
    def _members(self, i: int) -> Iterator[dict[str, bytes]]:
        """The members of sample i by their name without its key. An error in the block becomes one of the sample."""
        place = self._places[i]
        try:
            named = _members(self._read(place)).items()
            yield {name.removeprefix(f"{place.key}."): content for name, content in named}
        except (ShardDataError, OSError, ValueError, KeyError) as error:
            raise ShardDataError(
                f"{place.shard}: sample {place.key!r} at byte {place.offset} is damaged ({error}); "
                "make the shards again, or copy this one again from its source"
            ) from error

    def _shard_path(self, shard: dict[str, Any]) -> Path:
        name = shard["name"].removesuffix(".tar")
        return self.folder / "shards" / f"{name}.tar"

    def _index(self, shard: dict[str, Any]) -> list[_Place]:
        tar = self._shard_path(shard)
        for path in (tar, tar.with_suffix(".json")):
            if not path.is_file():
                raise MissingInputError(f"{path} is named in the manifest but missing: copy it, or preprocess again")
        index = _read_json(tar.with_suffix(".json"))
        if index.get("sha256") != shard["sha256"] or len(index["index"]) != shard["samples"]:
            raise ShardDataError(f"{tar.with_suffix('.json')} does not belong to the manifest: preprocess again")
        return [_Place(tar, row["key"], row["offset"], row["size"]) for row in index["index"]]

    @staticmethod
    def _read(place: _Place) -> bytes:
        file = os.open(place.shard, os.O_RDONLY)
        try:
            data = os.pread(file, place.size, place.offset)
        finally:
            os.close(file)
        if len(data) != place.size:
            raise ShardDataError(f"the shard ends after {len(data)} of {place.size} bytes")
        return data


@contextmanager
def unchanging(folder: Path, warn: Warn) -> Iterator[None]:
    """Keeps preprocessing from changing a shard folder, which all who read it share: a sample is read by its shard's
    name, and out of replaced shards it would be another picture under the digest of the old ones.

    Raises `ShardDataError` when preprocessing is changing it now. A folder in which no lock can be made or opened, as
    in one that is read-only or not there, is not held; one on a file system without locks neither, and `warn` gets a
    message.
    """
    busy = ShardDataError(
        f"{folder} is being changed by preprocessing at this moment: let it finish, then run the same command again"
    )
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(folder / LOCK, busy, warn, shared=True))
        yield


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard folder. Raises `MissingInputError`, or `ShardDataError` for another format."""
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise MissingInputError(
            f"{path} does not exist: run `python -m preprocessing` for this dataset, or let it finish"
        )
    manifest = _read_json(path)
    if manifest.get("format") != FORMAT:
        raise ShardDataError(f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT!r}")
    return manifest


def describe(manifest: dict[str, Any]) -> dict[str, Any]:
    """What an adapter's record keeps of its dataset, whose folder may be made anew: name and version, the side of its
    images in pixels, and the rule of which images are held out (None: the source has them apart)."""
    config = manifest["config"]
    return {
        **{key: manifest["dataset"][key] for key in ("name", "version")},
        "resolution": config.get("resolution"),
        "split": config.get("source", {}).get("split"),
    }


@lru_cache(maxsize=4)
def sample_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which epoch `epoch` visits samples 0..n-1: int64 [n], each once."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_numbers(step: int, global_batch: int, rank: int, world: int) -> range:
    """Positions in the endless stream of samples that `rank` of `world` trains on in `step` (0-based).

    The ranks' ranges joined do not depend on `world`. A batch may span two epochs.
    """
    local = global_batch // world
    first = step * global_batch + rank * local
    return range(first, first + local)


def sample_index(n: int, seed: int, number: int) -> int:
    """The sample at position `number` of the endless stream of epochs; each visits each of `n` samples once."""
    epoch, position = divmod(number, n)
    return int(sample_order(n, seed, epoch)[position])


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's bytes."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ShardDataError(f"{path} is no JSON object ({error}): preprocess again") from None


def _members(data: bytes) -> dict[str, bytes]:
    """Tar members in `data`: file name -> content. Only regular USTAR members occur in our shards."""
    members, at = {}, 0
    while at < len(data):
        header = data[at : at + _BLOCK]
        if len(header) < _BLOCK or header[257:262] != b"ustar" or not _checksum_holds(header):
            raise ShardDataError(f"no tar header at byte {at} of the sample")
        name = header[:100].rstrip(b"\0").decode()
        size = int(header[124:136].rstrip(b"\0 "), 8)
        content = data[at + _BLOCK : at + _BLOCK + size]
        if len(content) != size:
            raise ShardDataError(f"member {name} is cut after {len(content)} of {size} bytes")
        members[name] = content
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return members


def _checksum_holds(header: bytes) -> bool:
    stated = int(header[148:156].rstrip(b"\0 ") or b"0", 8)
    return sum(header) - sum(header[148:156]) + 8 * ord(" ") == stated


def _member(members: dict[str, bytes], *names: str) -> bytes:
    """The first of these that is there."""
    for name in names:
        if name in members:
            return members[name]
    raise ShardDataError(f"it has no member {' or '.join(names)}")


def _image(members: dict[str, bytes]) -> Image.Image:
    return Image.open(io.BytesIO(_member(members, "image.png", "image.jpg")))  # reads the header only


def _sample(key: str, members: dict[str, bytes], images: bool) -> Sample:
    meta = json.loads(_member(members, "json"))
    file = _image(members)
    image = np.array(file.convert("RGB")) if images else np.empty((0, 0, 3), np.uint8)
    mask = np.array(_open(_member(members, "mask.png")))
    if mask.shape != (file.height, file.width) or mask.dtype != np.uint8:
        raise ShardDataError(f"its mask is {mask.dtype} {mask.shape}, its image {(file.height, file.width)}")
    order = sorted(meta["subjects"], key=lambda subject: subject["index"])
    if [subject["index"] for subject in order] != list(range(len(order))) or len(order) > MAX_SUBJECTS:
        raise ShardDataError("its subjects are not numbered 0, 1, ... up to 7")
    meta["subjects"] = order
    crops = [_open(_member(members, f"subject{i}.webp")).convert("RGBA") for i in range(len(order))]
    return Sample(key, image, mask, crops, meta)


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
