"""A tiny deterministic shard folder (format `moa-shards/1`), written with the standard library alone.

`write_shards(folder)` draws images of one or two coloured people on a coloured background; the caption names them. It
imports no other room: it is the written contract (datasets/FORMAT.md), read once more.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ("man", "woman", "boy", "girl")
PLACES = ("beach", "park", "city")


def write_shards(folder: Path, *, samples: int = 8, per_shard: int = 4, size: int = 32, split: str = "train") -> Path:
    """Writes `samples` samples of `size` x `size` pixels in shards of `per_shard`; returns `folder`.

    Sample i has two people when i is odd. The same arguments give the same bytes.
    """
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, samples, per_shard)):
        name = f"{split}-{number:05d}"
        data, index = _tar([_sample(i, size) for i in range(first, min(first + per_shard, samples))])
        (folder / "shards" / f"{name}.tar").write_bytes(data)
        row = {"split": split, "samples": len(index), "bytes": len(data), "sha256": _digest(data)}
        _json(folder / "shards" / f"{name}.json", {**row, "shard": name, "index": index})
        shards.append({"name": name, **row})
    manifest = {"format": "moa-shards/1", "dataset": {"name": "tiny", "version": 1}, "config": {}, "shards": shards}
    manifest["digest"] = _digest(json.dumps(manifest, sort_keys=True).encode())
    _json(folder / "manifest.json", {**manifest, "commit": None})
    return folder


def _sample(i: int, size: int) -> tuple[str, dict[str, bytes]]:
    """Key and members: people are upright rectangles in their own colour."""
    rng = np.random.default_rng(i)
    image = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (size, size, 3)).copy()
    mask = np.zeros((size, size), np.uint8)
    words = [WORDS[(i + n) % len(WORDS)] for n in range(1 + i % 2)]
    members, subjects = {}, []
    caption = f"a {' and a '.join(words)} in the {PLACES[i % len(PLACES)]}"
    for n, word in enumerate(words):
        x0 = n * size // 2 + 2
        box = [x0, size // 4, x0 + size // 3, size]
        image[box[1] : box[3], box[0] : box[2]] = rng.integers(0, 256, 3, dtype=np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = n + 1
        start = caption.index(word) if n == 0 else caption.index(f"and a {word}") + len("and a ")
        subjects.append(
            {"index": n, "word": word, "start": start, "end": start + len(word), "box": box, "face": None}
            | {"area": (box[2] - box[0]) * (box[3] - box[1]) / size**2, "identity": f"{word}-{i}"}
        )
        crop = np.dstack([image, np.where(mask == n + 1, 255, 0).astype(np.uint8)])
        members[f"subject{n}.webp"] = _encode(Image.fromarray(crop).crop((x0, 0, x0 + size // 2, size // 2)), "WEBP")
    key = f"{i:09d}"
    meta = {"key": key, "caption": caption, "caption_source": "template", "caption_repaired": False}
    meta |= {"subjects": subjects, "attributes": {}, "source": {"name": key, "sha256": _digest(key.encode())}}
    members |= {"image.png": _encode(Image.fromarray(image), "PNG"), "mask.png": _encode(Image.fromarray(mask), "PNG")}
    return key, members | {"json": json.dumps(meta, sort_keys=True).encode()}


def _tar(samples: list[tuple[str, dict[str, bytes]]]) -> tuple[bytes, list[dict[str, object]]]:
    """Bytes of the tar and its index."""
    buffer, index = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            offset = tar.offset
            for name in sorted(members):
                info = tarfile.TarInfo(f"{key}.{name}")
                info.size = len(members[name])
                tar.addfile(info, io.BytesIO(members[name]))
            index.append({"key": key, "offset": offset, "size": tar.offset - offset})
    return buffer.getvalue(), index


def _encode(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1), encoding="utf-8")
