"""What there is to publish: a folder with the shape of a saved pipeline, and a card for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from moa.hub.card import CardInput
from moa.hub.licences import LICENCES


def write_pipeline(folder: Path, weights: bytes = b"\0first weights" * 100) -> Path:
    """A folder with the files of a saved pipeline; the weights are any bytes."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "model_index.json").write_text('{"_class_name": "MoAPipeline"}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    (folder / "adapter" / "moa.safetensors").write_bytes(weights[::-1])
    entry = {"sha256": f"sha256:{hashlib.sha256(weights[::-1]).hexdigest()}", "bytes": len(weights)}
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    manifest = {"format": "moa-adapter/1", "files": {"moa.safetensors": entry}, "digest": digest}
    (folder / "adapter" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def make_card(**changes: object) -> CardInput:
    values = {
        "title": "MoA on the miniature world",
        "base_model": "the miniature base model",
        "dataset": "miniature 1",
        "dataset_digest": "sha256:" + "0" * 64,
        "command": "python -m moa.train runs/test/config.json",
        "code_commit": "af2a0b4",
        "seed": 1,
        "steps": 100,
        "image_size": 64,
        "licences": LICENCES["miniature"],
    }
    return CardInput.model_validate(values | changes)
