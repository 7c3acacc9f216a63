"""What training leaves in a run folder, written by hand: the record that stages compare with their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.files import read_json, write_json
from flows.settings import LifecycleConfig
from flows.trained import run_training
from moa.train_config import FREE_KEYS

SHARDS = "sha256:shards"
SPLIT = {"kind": "fraction", "heldout": 0.1, "group": "image"}
DATASET = {"name": "m", "version": "1"}


def write_shards(folder: Path, digest: str = SHARDS, version: str = "1", split: dict[str, Any] | None = SPLIT) -> None:
    """The manifest of a shard folder, as far as flows read it."""
    config = {"resolution": 64, "source": {"kind": "folder", "split": split}}
    manifest = {"format": "moa-shards/1", "dataset": DATASET | {"version": version}, "digest": digest, "config": config}
    write_json(folder / "manifest.json", manifest)


def write_export(config: LifecycleConfig, digest: str = "sha256:adapter", **changes: Any) -> Path:
    """An export that `config` would have made; `changes` are settings it was made with instead."""
    training = run_training(config)
    settings = training.model_dump(mode="json", exclude=set(FREE_KEYS)) | changes
    init = training.init and read_json(training.init / "manifest.json")["digest"]
    inputs = {"shards": SHARDS, "base": "sha256:base", "init": init}
    dataset = DATASET | {"resolution": 64, "split": SPLIT}
    provenance = {"training": settings, "image_encoder": "sha256:encoder", "dataset": dataset}
    write_json(config.run / "export/config.json", {"provenance": provenance})
    manifest = {"step": training.steps, "commit": "c0ffee", "inputs": inputs, "digest": digest}
    return write_json(config.run / "export/manifest.json", manifest)
