"""What one tiny lifecycle needs, on disk: random models, a drawn dataset of 32-pixel pictures, a suite of one prompt.

`write_world(folder)` returns the overrides that turn the preset `miniature` into it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from transformers import CLIPConfig, CLIPModel

from flows.prefect_environment import PROJECT
from moa.adapter import save_adapter
from moa.zoo.identity import MiniatureFaces
from tests.tiny_models import (
    IMAGE_DIM,
    tiny_base,
    tiny_image_encoder,
    tiny_image_processor,
    tiny_moa_unet,
    tiny_text_encoder,
    tiny_tokenizer,
)


def write_world(folder: Path) -> list[str]:
    """Writes models, dataset and suite below `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_base(folder / "base")
        _write_clip(folder / "clip")
        MiniatureFaces().save_pretrained(folder / "identity")
        provenance = {"inputs": {}, "step": 0, "commit": None}
        save_adapter(tiny_moa_unet(), folder / "init", provenance)
        save_adapter(tiny_moa_unet(architecture="single_branch"), folder / "ablation", provenance)
    variants = [
        {"label": "without MoA layers", "adapter": str(folder / "ablation")},
        {"label": "MLP router", "overrides": ["train.moa.router=mlp", "train.steps=1"]},  # `flows.ablate` trains it
    ]
    values = {
        "preprocess.dataset": _write_dataset(folder / "tiny.yaml"),
        "train.base": folder / "base",
        "train.image_encoder": folder / "clip",
        "train.init": folder / "init",
        "train.moa.image_dim": IMAGE_DIM,
        "train.steps": 3,
        "train.global_batch": 4,
        "train.checkpoint_every": 2,
        "launch.processes": 1,  # more of them are tested with training; each takes seconds to import torch
        "train.log_every": 1,
        "evaluate.suite": _write_suite(folder / "suite.yaml"),
        "ablate.variants": json.dumps(variants),
        "ablate.community": "[]",
        "promote.tolerance_ip": 1,  # any difference of random models will do
        "promote.tolerance_pc": 2,
        "promote.above_prior_ip": -9,
    }
    return [f"{field}={value}" for field, value in values.items()]


def _write_clip(folder: Path) -> None:
    """A whole random CLIP: image encoder of the adapter, and judge of prompt consistency."""
    text, vision = tiny_text_encoder().config.to_dict(), tiny_image_encoder().config.to_dict()
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=IMAGE_DIM)).save_pretrained(folder)
    tiny_tokenizer(folder).save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)


def _write_dataset(path: Path) -> Path:
    """The miniature dataset with a dozen small pictures."""
    declared = yaml.safe_load((PROJECT / "datasets/miniature.yaml").read_text(encoding="utf-8"))
    declared["source"] |= {"size": 32, "counts": {"train": 8, "heldout": 6}}
    declared |= {"name": "tiny", "resolution": 32, "crop_size": 32, "shard_size": 8}
    path.write_text(yaml.safe_dump(declared), encoding="utf-8")
    return path


def _write_suite(path: Path) -> Path:
    """The miniature suite with two people (an interval needs them), one pair, a prompt each, two denoising steps."""
    declared = yaml.safe_load((PROJECT / "datasets/suites/miniature.yaml").read_text(encoding="utf-8"))
    declared["subjects"] = {"kind": "shards", "split": "heldout", "count": 2}
    declared["seeds"] = [0]
    pair = {"id": "beach", "text": "a {first} and a {second} on a beach"}
    declared["pairs"] = {"count": 1, "prompts": [pair], "seeds": [0]}
    declared["prompts"] = [{"id": "beach", "category": "context", "text": "a {word} on a beach"}]
    declared["images"] = {"size": 32, "steps": 2, "guidance": 3.0}
    declared["evaluators"] = {"faces": {"kind": "miniature", "path": "identity"}, "clip": {"path": "clip"}}
    path.write_text(yaml.safe_dump(declared), encoding="utf-8")
    return path
