"""What training leaves in a run folder, written by hand: the record that stages compare with their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.files import read_json, write_json
from flows.settings import LifecycleConfig
from flows.trained import run_training
from moa.train_config import FREE_KEYS

SHARDS = "sha256:shards"


def write_shards(folder: Path) -> None:
    """The manifest of a shard folder, as far as a model card reads it."""
    dataset = {"name": "m", "version": "1"}
    write_json(folder / "manifest.json", {"dataset": dataset, "digest": SHARDS, "config": {"resolution": 64}})


def write_export(config: LifecycleConfig, digest: str = "sha256:adapter", **changes: Any) -> Path:
    """An export that `config` would have made; `changes` are settings it was made with instead."""
    training = run_training(config)
    settings = training.model_dump(mode="json", exclude=set(FREE_KEYS)) | changes
    init = training.init and read_json(training.init / "manifest.json")["digest"]
    inputs = {"shards": SHARDS, "base": "sha256:base", "init": init}
    provenance = {"training": settings, "image_encoder": "sha256:encoder"}
    write_json(config.run / "export/config.json", {"provenance": provenance})
    manifest = {"step": training.steps, "commit": "c0ffee", "inputs": inputs, "digest": digest}
    return write_json(config.run / "export/manifest.json", manifest)
