"""Check a written dataset from end to end: `python -m preprocessing.verify data/miniature`. Writes nothing.

Every digest of the manifest, every index entry, every member of every sample; label maps, crops and metadata agree.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from preprocessing.atomic import sha256_file
from preprocessing.errors import REJECTION_REASONS, OutputError, ShardError
from preprocessing.frame import OTHER_PERSON
from preprocessing.manifest import manifest_digest, read_manifest
from preprocessing.shards import record_digest


def verify(folder: Path | str) -> dict[str, Any]:
    """The manifest's counts, once everything has been read and agrees. Raises ShardError that names the file."""
    folder = Path(folder)
    manifest = _manifest(folder)
    _check(folder / "manifest.json", manifest_digest(manifest) == manifest["digest"], "its digest does not match")
    for name in ("rejected.jsonl", "quality.json"):
        expected = manifest[f"{name.partition('.')[0]}_sha256"]
        _check(folder / name, _digest(folder / name) == expected, "differs from the manifest")
    seen: Counter[str] = Counter()
    for shard in manifest["shards"]:
        seen.update(_verify_shard(folder / "shards" / f"{shard['name']}.tar", shard, manifest["config"]))
    rejected = _read_rejected(folder / "rejected.jsonl")
    counts = manifest["counts"]
    found = {
        "images": seen["samples"] + rejected,
        "samples": seen["samples"],
        "rejected": rejected,
        "subjects": seen["subjects"],
        "splits": {split: seen[split] for split in counts["splits"]},
    }
    _check(folder / "manifest.json", counts == found, f"counts are {counts}, the files hold {found}")
    return counts


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
    except OutputError as error:
        raise ShardError(str(error)) from error
    if manifest is None:
        raise ShardError(f"{folder / 'manifest.json'}: missing; the dataset is not finished: run preprocessing again")
    return manifest


def _verify_shard(path: Path, entry: dict[str, Any], config: dict[str, Any]) -> Counter[str]:
    """Counts of one shard."""
    _check(path, _digest(path) == entry["sha256"], "differs from the manifest; run preprocessing again")
    account = path.with_suffix(".json")
    index, is_whole = _read_account(account, entry)
    counts: Counter[str] = Counter()
    with _reading(path), path.open("rb") as shard:
        for record in index:
            shard.seek(record["offset"])
            members = _members(path, shard.read(record["size"]), record["key"])
            counts["subjects"] += _verify_sample(f"{path}: {record['key']}", members, record["key"], config)
    _check(account, is_whole, "differs from its digest; run preprocessing again")
    counts["samples"] = counts[entry["split"]] = len(index)
    return counts


def _read_account(path: Path, entry: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """Of a shard's JSON the index, where in its tar each sample is, and whether all of it is what was written."""
    try:
        with _reading(path):
            record = json.loads(path.read_text())
        index = record["index"]
        keys = [sample["key"] for sample in index]
        places = [sample[name] for sample in index for name in ("offset", "size")]
        inside = all(type(place) is int and 0 <= place <= entry["bytes"] for place in places)
        _check(path, inside, "an offset or a size is no length in the shard")
        _check(path, len(index) == entry["samples"], f"lists {len(index)} samples, not {entry['samples']}")
        _check(path, keys == sorted(set(keys)), "keys are not sorted or not unique")
        return index, record.get("digest") in (None, record_digest(record))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{path}: cannot be read ({error!r}); run preprocessing again") from error


def _members(path: Path, content: bytes, key: str) -> dict[str, bytes]:
    """The files of one sample by suffix, from the bytes that its entry in the index points to."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content + bytes(1024)), mode="r:") as archive:
            files = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    except tarfile.TarError as error:
        raise ShardError(f"{path}: the index entry of {key} does not point to a sample ({error})") from error
    strange = [name for name in files if not name.startswith(f"{key}.")]
    _check(path, not strange, f"the index entry of {key} also holds {strange}")
    return {name.removeprefix(f"{key}."): content for name, content in files.items()}


def _verify_sample(where: str, members: dict[str, bytes], key: str, config: dict[str, Any]) -> int:
    """Whether the members of a sample agree; returns the number of its subjects."""
    try:
        metadata = json.loads(members["json"])
        subjects = metadata["subjects"]
        image = Image.open(io.BytesIO(members[f"image.{config['image_format']}"]))
        labels = np.asarray(Image.open(io.BytesIO(members["mask.png"])))
        crops = [Image.open(io.BytesIO(members[f"subject{i}.webp"])) for i in range(len(subjects))]
        side, crop = config["resolution"], config["crop_size"]
        _check(where, metadata["key"] == key, "the metadata has another key")
        _check(where, len(members) == 3 + len(subjects), f"has members {sorted(members)}")
        _check(where, image.size == (side, side) and image.mode == "RGB", f"image is {image.size} {image.mode}")
        _check(where, labels.shape == (side, side) and labels.dtype == np.uint8, f"mask is {labels.shape}")
        present = set(np.unique(labels).tolist()) - {0, OTHER_PERSON}
        _check(where, present == set(range(1, len(subjects) + 1)), f"mask holds labels {sorted(present)}")
        for subject, picture in zip(subjects, crops, strict=True):
            named = metadata["caption"][subject["start"] : subject["end"]]
            _check(where, named.lower() == subject["word"].lower(), f"{subject['word']!r} is not at its offsets")
            _check(where, picture.size == (crop, crop), f"crop is {picture.size}")
            _check(where, picture.convert("RGBA").getchannel("A").getbbox() is not None, "a crop is wholly transparent")
    except (KeyError, OSError, ValueError) as error:
        raise ShardError(f"{where}: a member is missing or damaged ({error!r})") from error
    return len(subjects)


def _read_rejected(path: Path) -> int:
    with _reading(path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    unknown = {line["reason"] for line in lines} - set(REJECTION_REASONS)
    _check(path, not unknown, f"unknown reasons {sorted(unknown)}")
    return len(lines)


def _digest(path: Path) -> str:
    with _reading(path):
        return sha256_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """An OSError inside, where `path` is read, becomes a ShardError: a disk in trouble is no damage to the dataset."""
    try:
        yield
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing; run preprocessing again") from error
    except OSError as error:
        what = error.strerror or str(error)
        raise ShardError(
            f"{path}: {what}. See to its permissions, the disk or the network drive, and verify again"
        ) from error


def _check(where: Path | str, holds: bool, problem: str) -> None:
    if not holds:
        raise ShardError(f"{where}: {problem}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit code 0 when the dataset is whole, 1 when it is not."""
    parser = argparse.ArgumentParser(prog="python -m preprocessing.verify", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of a dataset, such as data/miniature")
    try:
        print(json.dumps(verify(parser.parse_args(arguments).folder), sort_keys=True))
    except ShardError as error:
        print(f"preprocessing.verify: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
