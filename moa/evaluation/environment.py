"""Where an evaluation ran and how it sampled: what its pixels depend on beyond the inputs, to the last digit."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from moa.evaluation.processor import processor_name
from moa.evaluation.suite import Suite
from moa.pipeline import EXPERT_INTERVAL


def describe_environment(suite: Suite, pipeline: Path, devices: Sequence[str]) -> dict[str, Any]:
    """The `environment` of `summary.json` (datasets/FORMAT.md, section 6)."""
    packages = ["torch", "torchvision", "diffusers", "transformers", "numpy", "pillow"]
    packages += ["facenet-pytorch"] if suite.evaluators.faces.kind == "facenet" else []
    packages += ["open_clip_torch"] if (Path(suite.evaluators.clip.path) / "open_clip_config.json").is_file() else []
    scheduler = json.loads((pipeline / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "devices": [f"{device}: {_device_name(device)}" for device in devices],
        "threads": torch.get_num_threads(),
        "precision": suite.images.precision,
        "scheduler": scheduler.get("_class_name"),
        "expert_interval": EXPERT_INTERVAL,
    }


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return processor_name()
