"""Small source folders for the tests: coloured rectangles are people, their label maps and captions lie beside them."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from preprocessing.config import DatasetConfig
from preprocessing.frame import Item

SHARD_SIZE = 3
PersonBox = tuple[str, tuple[int, int, int, int]]


def declaration(**changes: Any) -> DatasetConfig:
    """A folder with sidecar annotations at 32 pixels, lossless, three images a shard; `changes` replace fields."""
    values = {
        "name": "toy",
        "version": 1,
        "licence": "CC0-1.0",
        "author": "nobody",
        "source": {"kind": "folder", "split": {"kind": "fraction", "heldout": 0.0}},
        "captions": {"kind": "sidecar"},
        "segmentation": {"kind": "sidecar"},
        "faces": {"kind": "sidecar"},
        "min_side": 16,
        "resolution": 32,
        "crop_size": 16,
        "image_format": "png",
        "shard_size": SHARD_SIZE,
    }
    return DatasetConfig.model_validate(values | changes)


def photo_names(count: int) -> list[str]:
    """Names in order of which every third begins a shard, as their hashes decide."""
    names = []
    for number in range(count):
        tries = (f"{number:03d}-{letters}.png" for letters in range(1000))
        names.append(next(name for name in tries if begins_shard(name) == (number % SHARD_SIZE == 0)))
    return names


def begins_shard(name: str) -> bool:
    return item_of(name).name_hash % SHARD_SIZE == 0


def item_of(name: str) -> Item:
    return Item(number=None, name=name, split="train", sha256=None, licence="", author="")


def picture(size: tuple[int, int], shade: int = 0) -> np.ndarray:
    """A gradient, uint8 [H, W, 3], different for each shade."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    return np.dstack([x * 255 // width, y * 255 // height, np.full_like(x, shade % 256)]).astype(np.uint8)


def add_photo(
    root: Path,
    name: str,
    caption: str = "a man on a beach",
    people: list[PersonBox] | None = None,
    *,
    size: tuple[int, int] = (48, 48),
    shade: int = 0,
    **extra: Any,
) -> Path:
    """Write `<name>` with its annotation: each person is a box with a word, a mask value, a face in the upper half."""
    people = [("man", (8, 8, 30, 40))] if people is None else people
    pixels, labels = picture(size, shade), np.zeros(size[::-1], np.uint8)
    entries = []
    for number, (word, (x0, y0, x1, y1)) in enumerate(people, 1):
        labels[y0:y1, x0:x1] = number
        pixels[y0:y1, x0:x1] = (60 * number, 40, 200)
        face = [x0, y0, x1, (y0 + y1) // 2]
        entries.append({"word": word, "mask_value": number, "identity": f"{word}-{number}", "face": face})
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    path.with_suffix(".json").write_text(json.dumps({"caption": caption, "people": entries, **extra}))
    Image.fromarray(labels).save(path.with_suffix(".mask.png"))
    return path


def files_of(out: Path) -> dict[str, bytes]:
    """All files of a written dataset by relative path, but the lock, the inventory and the manifest's code commit."""
    files = {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in {".lock", ".inventory.json"}
    }
    if "manifest.json" in files:
        files["manifest.json"] = re.sub(rb'"commit": .*', b"", files["manifest.json"])
    return files


def samples_of(out: Path) -> dict[str, dict[str, bytes]]:
    """Every sample by key, read through the index with one slice each: `{suffix: content}`."""
    samples = {}
    for index_file in sorted((out / "shards").glob("*.json")):
        for entry in json.loads(index_file.read_text())["index"]:
            data = index_file.with_suffix(".tar").read_bytes()[entry["offset"] : entry["offset"] + entry["size"]]
            with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
                members = {m.name: archive.extractfile(m).read() for m in archive}
            assert all(name.startswith(f"{entry['key']}.") for name in members)
            samples[entry["key"]] = {name.partition(".")[2]: content for name, content in members.items()}
    return samples


def metadata_of(out: Path) -> dict[str, dict[str, Any]]:
    """The metadata of every sample by the name of its source image."""
    found = [json.loads(members["json"]) for members in samples_of(out).values()]
    return {metadata["source"]["name"]: metadata for metadata in found}


def rejected_of(out: Path) -> dict[str, str]:
    """Reasons by image name."""
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert len({line["name"] for line in lines}) == len(lines)
    return {line["name"]: line["reason"] for line in lines}


def bomb(side: int) -> bytes:
    """A PNG of a hundred bytes that claims `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
