"""The shards of a folder that are done: found by what they were made from, named as the plan names them.

A shard's JSON holds the digest of its inputs, so a finished shard is known again whatever its number was. When a
photograph comes or goes, the numbers of later shards may change; those shards move, and are not made again. A shard
counts as done only after its bytes have been hashed, so a damaged one is made again, whatever its size and times say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from preprocessing.atomic import sha256_file, write_json
from preprocessing.config import SPLITS
from preprocessing.shards import END, ShardPlan, record_digest

HASHING_THREADS = 8
_SHARD_FILE = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.(tar|json)")


def find_finished(folder: Path, plans: Iterable[ShardPlan]) -> dict[str, dict[str, Any]]:
    """The JSON of each planned shard that lies in `folder` whole and was made from the same inputs, by planned name;
    its `shard` says under which name it lies."""
    known: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        if (record := _read_record(path)) is not None:
            known.setdefault(record["inputs"], []).append(record)
    found = {}
    for plan in plans:
        whole = (record for record in known.get(plan.inputs, ()) if _is_whole(folder, record))
        if record := next(whole, None):
            found[plan.name] = record
    return found


def dataset_of(folder: Path) -> str | None:
    """The dataset whose shards lie in `folder`; None without any, or where an earlier version made all."""
    records = map(_read_record, sorted(folder.glob("*.json")))
    return next((record["dataset"] for record in records if record and "dataset" in record), None)


def are_whole(folder: Path, entries: list[dict[str, Any]]) -> bool:
    """Whether the shards that a manifest lists lie in `folder` whole, each with the JSON that belongs to it."""
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return all(threads.map(partial(_is_as_listed, folder), entries))


def settle(folder: Path, finished: dict[str, dict[str, Any]]) -> None:
    """Remove all shard files of ours that are not of `finished` (planned name -> record); then give each its planned
    name, in its record too. Other files are left alone.

    Neighbours keep their order, so those that move down do so from the first on, those that move up from the last on,
    and none meets another. A kill between two steps loses nothing: a shard lies under its old or its new name.
    """
    _remove_others(folder, keep={record["shard"] for record in finished.values()})
    moving = sorted((name, record["shard"]) for name, record in finished.items() if name != record["shard"])
    down = [(new, old) for new, old in moving if new < old]
    up = [(new, old) for new, old in reversed(moving) if new > old]
    for new, old in down + up:
        record = finished[new] = finished[new] | {"shard": new}
        write_json(folder / f"{new}.json", record)
        if record["samples"]:
            (folder / f"{old}.tar").rename(folder / f"{new}.tar")
        (folder / f"{old}.json").unlink()


def _remove_others(folder: Path, keep: set[str]) -> None:
    for path in sorted(folder.glob("*")):
        if _SHARD_FILE.fullmatch(path.name) and path.stem not in keep:
            path.unlink()


def _read_record(path: Path) -> dict[str, Any] | None:
    """The JSON of a shard, None for anything else or a damaged one; earlier versions wrote no digest."""
    try:
        record = json.loads(path.read_text())
        if record["shard"] != path.stem or not isinstance(record["inputs"], str):
            return None
        return record if record.get("digest") in (None, record_digest(record)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_as_listed(folder: Path, entry: dict[str, Any]) -> bool:
    record = _read_record(folder / f"{entry['name']}.json")
    fields = ("split", "samples", "bytes", "sha256")
    return record is not None and all(record.get(f) == entry[f] for f in fields) and _is_whole(folder, record)


def _is_whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the tar of a record is there and untouched, and its index, too; a shard without samples has no tar."""
    try:
        if not record["samples"]:
            return True
        tar = folder / f"{record['shard']}.tar"
        as_long = tar.stat().st_size == record["bytes"]
        return as_long and _fits_index(tar, record) and sha256_file(tar) == record["sha256"]
    except (OSError, KeyError, TypeError):
        return False


def _fits_index(tar: Path, record: dict[str, Any]) -> bool:
    """Whether the index names the samples of a tar by their keys, one behind the other to its end."""
    end = 0
    with tar.open("rb") as stream:
        for entry in record["index"]:
            stream.seek(end)
            key = f"{entry['key']}.".encode()
            if entry["offset"] != end or stream.read(len(key)) != key:
                return False
            end += entry["size"]
    return len(record["index"]) == record["samples"] and end + len(END) == record["bytes"]
