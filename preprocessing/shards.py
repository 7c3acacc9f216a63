"""Shards: plain WebDataset tar files whose bytes depend on nothing but their samples, each with an index beside it.

USTAR headers with mtime 0 and no owner, samples in key order, members sorted. The tar is renamed into place when it is
whole; its JSON follows and means: this shard is done. A chunk of which every image was dropped has a JSON and no tar.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from preprocessing.atomic import replacing, sha256_bytes, sha256_json, write_json
from preprocessing.config import SPLITS
from preprocessing.frame import Item, Rejected
from preprocessing.quality import Statistics
from preprocessing.samples import Sample

BLOCK = 512
END = bytes(2 * BLOCK)


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which items become which shard; `inputs` is the digest of everything its bytes depend on."""

    name: str
    split: str
    items: list[Item]
    inputs: str


def chunk_items(items: list[Item], size: int) -> Iterable[tuple[str, str, list[Item]]]:
    """Name, split and items (in key order) of each shard: neighbours of one split, kept or not.

    Drawn pictures are cut after every `size`. Files are cut before a name whose hash says so, one in `size`, and after
    2 `size` at the latest: where a shard begins depends on the names near it, so that a photograph that comes or goes
    changes a shard or two, not all that follow (`find_finished` knows a shard again under another number).
    """
    for split in SPLITS:
        chunks: list[list[Item]] = []
        for item in (item for item in items if item.split == split):
            if not chunks or _begins_shard(item, len(chunks[-1]), size):
                chunks.append([])
            chunks[-1].append(item)
        for number, chunk in enumerate(chunks):
            yield f"{split}-{number:05d}", split, sorted(chunk, key=lambda item: item.key)


def _begins_shard(item: Item, length: int, size: int) -> bool:
    """Whether an item is the first of a shard, behind one of `length` items."""
    if item.number is not None:
        return length == size
    return length == 2 * size or item.name_hash % size == 0


class TarWriter:
    """Appends samples to an open file and keeps the index and the digest."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.bytes = 0
        self.index: list[dict[str, Any]] = []

    def add(self, sample: Sample) -> None:
        """Write all members of a sample one after the other."""
        start = self.bytes
        for suffix, content in sample.members:
            self._put(_header(f"{sample.key}.{suffix}", len(content)))
            self._put(content + bytes(-len(content) % BLOCK))
        self.index.append({"key": sample.key, "offset": start, "size": self.bytes - start})

    def close(self) -> str:
        """Write the end of the archive; returns `sha256:<hex>` of all bytes."""
        self._put(END)
        return f"sha256:{self._digest.hexdigest()}"

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.bytes += len(data)


def write_shard(
    folder: Path, plan: ShardPlan, made: dict[str, Any], batches: Iterable[list[Sample | Rejected]]
) -> dict[str, Any]:
    """Write one shard and its JSON from results in item order; memory holds one batch. Returns the JSON's content.

    made: `dataset` and `tools`, for the JSON: for what and by what the shard is made.
    """
    statistics, rejected, sources = Statistics(), [], []
    tar = folder / f"{plan.name}.tar"
    with replacing(tar) as stream:
        writer = TarWriter(stream)
        for result in (result for batch in batches for result in batch):
            if isinstance(result, Rejected):
                rejected.append(asdict(result))
            else:
                writer.add(result)
                statistics.add(result)
                source = result.metadata["source"]
                sources.append([source["name"], source["sha256"]])
        digest = writer.close()
    size = writer.bytes
    if not writer.index:
        tar.unlink()
        digest, size = sha256_bytes(b""), 0
    record = {
        "shard": plan.name,
        **made,
        "split": plan.split,
        "sha256": digest,
        "bytes": size,
        "samples": len(writer.index),
        "index": writer.index,
        "inputs": plan.inputs,
        "rejected": rejected,
        "sources": sources,
        "statistics": statistics.as_json(),
    }
    record["digest"] = record_digest(record)
    write_json(folder / f"{plan.name}.json", record)
    return record


def record_digest(record: dict[str, Any]) -> str:
    """Digest of a shard's JSON without itself and the shard's name, which may change. Raises ValueError for NaN."""
    return sha256_json({key: value for key, value in record.items() if key not in ("shard", "digest")})


def _header(name: str, size: int) -> bytes:
    """A USTAR header; a key and a suffix always fit its 100 characters."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)
