"""The adapter: everything MoA adds to a base model, as a folder that fits any base of the same geometry.

    save_adapter(unet, "runs/demo/export", provenance)        moa.safetensors, config.json, manifest.json (written last)
    unet = load_adapter(base_unet, "runs/demo/export")
    base_unet = unet.to_base_unet()                           detach

Format `moa-adapter/1`, datasets/FORMAT.md section 4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moa.atomic import replacing
from moa.config import MoAConfig
from moa.errors import AdapterError, AdapterGeometryError
from moa.unet import MoAUNet2DConditionModel

FORMAT = "moa-adapter/1"
WEIGHTS, CONFIG, MANIFEST = "moa.safetensors", "config.json", "manifest.json"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A verified adapter in memory."""

    config: MoAConfig
    geometry: dict[str, Any]
    provenance: dict[str, Any]  # as it was given to `save_adapter`
    tensors: dict[str, Tensor]  # fp16, on the CPU
    digest: str  # of the manifest: same weights, configuration and provenance


def save_adapter(unet: MoAUNet2DConditionModel, folder: str | Path, provenance: Mapping[str, Any]) -> Path:
    """Write the adapter of `unet` into `folder` and return the path of its manifest.

    `provenance` is JSON: "inputs" ({"shards", "base", "init"}: digests), "step" and "commit" go into the manifest, all
    of it into config.json. Tensors are stored as fp16; the same weights and provenance give the same bytes. Raises
    `AdapterError` when the folder cannot be written (disk full, no permission).
    """
    folder = Path(folder)
    tensors = {name: t.detach().to("cpu", torch.float16).contiguous() for name, t in unet.moa_state_dict().items()}
    config = {
        "format": FORMAT,
        "moa": unet.moa_config.model_dump(mode="json"),
        "geometry": geometry(unet),
        "provenance": dict(provenance),
    }
    contents = {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: _json(config)}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "files": {name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in contents.items()},
        "inputs": provenance.get("inputs", {}),
        "step": provenance.get("step"),
        "commit": provenance.get("commit"),
    }
    manifest["digest"] = _digest(manifest)
    try:
        for name, data in {**contents, MANIFEST: _json(manifest)}.items():
            with replacing(folder / name, folder / f"{name}.tmp") as file:
                file.write(data)
    except OSError as error:
        raise AdapterError(
            f"{folder} cannot be written ({error.strerror}): free space there or fix permissions, then save it again"
        ) from error
    return folder / MANIFEST


def read_adapter(folder: str | Path) -> Adapter:
    """Read and verify an adapter folder. Raises `AdapterError` naming the file that is missing or damaged."""
    folder = Path(folder)
    manifest = _object(_read(folder, MANIFEST), folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise AdapterError(
            f"{folder / MANIFEST} has format {manifest.get('format')!r}, this version reads {FORMAT!r}: export it "
            "again with this version, or load it with the one that wrote it"
        )
    if manifest.get("digest") != _digest(manifest):
        raise AdapterError(
            f"{folder / MANIFEST} is damaged: it does not match its own digest; download or export it again"
        )
    weights, config = _contents(folder, manifest.get("files"))
    try:
        return Adapter(
            config=MoAConfig.model_validate(config["moa"]),
            geometry=config["geometry"],
            provenance=config["provenance"],
            tensors=load(weights),
            digest=manifest["digest"],
        )
    except (KeyError, ValidationError, SafetensorError) as error:
        raise AdapterError(f"{folder} is not a usable adapter ({error}); export it again") from error


def _contents(folder: Path, listed: Any) -> tuple[bytes, dict[str, Any]]:
    """Bytes of the weights and the configuration, which are those that the manifest lists: it must list just these two,
    so that none is read unverified and no other file is opened."""
    if not isinstance(listed, dict) or listed.keys() != {WEIGHTS, CONFIG}:
        raise AdapterError(
            f"{folder / MANIFEST} does not list {CONFIG} and {WEIGHTS} alone, which an adapter consists of: export it "
            "again with save_adapter"
        )
    contents = {name: _read(folder, name) for name in (WEIGHTS, CONFIG)}
    for name, data in contents.items():
        if not isinstance(listed[name], dict) or listed[name].get("sha256") != _sha256(data):
            raise AdapterError(
                f"{folder / name} is damaged: its sha256 is not that of {MANIFEST}; download or export it again"
            )
    return contents[WEIGHTS], _object(contents[CONFIG], folder / CONFIG)


def attach(base: UNet2DConditionModel, adapter: Adapter) -> MoAUNet2DConditionModel:
    """The mixture of `base` (whose tensors are shared, not copied) and the adapter, on its device, in its dtype.

    Raises `AdapterGeometryError` naming the first difference when the adapter was made for another geometry.
    """
    unet = MoAUNet2DConditionModel.from_unet(base, adapter.config)
    _check_geometry(geometry(unet), adapter.geometry)
    expected = unet.moa_state_dict()
    wrong = {name for name in expected.keys() | adapter.tensors.keys()} - {
        name for name, t in expected.items() if name in adapter.tensors and adapter.tensors[name].shape == t.shape
    }
    if wrong:
        raise AdapterError(
            f"the adapter lacks, adds or reshapes {len(wrong)} tensors, e.g. {min(wrong)}: write it again with "
            "save_adapter"
        )
    unet.load_state_dict(adapter.tensors, strict=False)
    unet.provenance = dict(adapter.provenance)
    return unet


def load_adapter(base_unet: UNet2DConditionModel, folder: str | Path) -> MoAUNet2DConditionModel:
    """`attach(base_unet, read_adapter(folder))`: verified weights on a base model; MoA parameters are trainable."""
    return attach(base_unet, read_adapter(folder))


def geometry(unet: MoAUNet2DConditionModel) -> dict[str, Any]:
    """What a base must have for an adapter to fit: its text width, and name, width and heads of each mixture layer."""
    return {
        "text_dim": unet.config["cross_attention_dim"],
        "layers": [{"name": layer.name, "dim": layer.dim, "heads": layer.heads} for layer in unet.moa_layers()],
    }


def _check_geometry(base: dict[str, Any], adapter: dict[str, Any]) -> None:
    advice = "load it on a base model of the architecture it was trained on"
    if base["text_dim"] != adapter["text_dim"]:
        raise AdapterGeometryError(
            f"the adapter was trained for text width {adapter['text_dim']}, this base has {base['text_dim']}: {advice}"
        )
    if len(base["layers"]) != len(adapter["layers"]):
        raise AdapterGeometryError(
            f"the adapter has {len(adapter['layers'])} attention layers, this base has {len(base['layers'])}: {advice}"
        )
    for ours, theirs in zip(base["layers"], adapter["layers"], strict=True):
        if ours != theirs:
            raise AdapterGeometryError(f"the adapter's layer {theirs} does not fit this base's layer {ours}: {advice}")


def _digest(manifest: dict[str, Any]) -> str:
    kept = {key: value for key, value in manifest.items() if key not in ("commit", "digest")}
    return _sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise AdapterError(f"{folder / name} cannot be read ({error.strerror}): is this an adapter folder?") from error


def _object(data: bytes, path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise AdapterError(f"{path} is no JSON object ({error}); download or export it again") from error
