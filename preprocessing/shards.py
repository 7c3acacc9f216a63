"""Shards: plain WebDataset tar files whose bytes depend on nothing but their samples, each with an index beside it.

USTAR headers with mtime 0 and no owner, samples in key order, members sorted. The tar is renamed into place when it is
whole; its JSON follows and means: this shard is done. A chunk of which every image was dropped has a JSON and no tar.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from preprocessing.atomic import replacing, sha256_bytes, sha256_file, write_json
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
    """Name, split and items of each shard: `size` images in a row of one split, kept or not."""
    for split in SPLITS:
        of_split = [item for item in items if item.split == split]
        for number, start in enumerate(range(0, len(of_split), size)):
            yield f"{split}-{number:05d}", split, of_split[start : start + size]


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


def write_shard(folder: Path, plan: ShardPlan, batches: Iterable[list[Sample | Rejected]]) -> dict[str, Any]:
    """Write one shard and its JSON from results in item order; memory holds one batch. Returns the JSON's content."""
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
    write_json(folder / f"{plan.name}.json", record)
    return record


def read_finished(folder: Path, plan: ShardPlan) -> dict[str, Any] | None:
    """The JSON of a shard that was made from the same inputs and whose tar is untouched; None: make it (again)."""
    try:
        record = json.loads((folder / f"{plan.name}.json").read_text())
        if record["inputs"] != plan.inputs:
            return None
        if not record["samples"]:
            return record
        tar = folder / f"{plan.name}.tar"
        intact = tar.stat().st_size == record["bytes"] and sha256_file(tar) == record["sha256"]
        return record if intact else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _header(name: str, size: int) -> bytes:
    """A USTAR header; a key and a suffix always fit its 100 characters."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)
