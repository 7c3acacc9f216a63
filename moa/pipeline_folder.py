"""Pipeline folders on disk and on the Hub: reading their components, and writing them.

    <folder>/model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/, feature_extractor/[, safety_checker/]
    <folder>/image_encoder/      the encoder of the subjects' images
    <folder>/adapter/            what MoA adds (format moa-adapter/1); `unet/` is the untouched base

Every component is built from its own sub-folder with the classes named here: no code from a repository is run, and only
safetensors are read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    ModelMixin,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from huggingface_hub import snapshot_download
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from moa.adapter import attach, read_adapter, save_adapter
from moa.errors import AdapterGeometryError, PipelineFolderError

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "image_encoder", "feature_extractor", "adapter")
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, eq=False)
class PipelineParts:
    """What a `MoAPipeline` is made of."""

    components: dict[str, Any]
    provenance: dict[str, Any]  # of the adapter
    requires_safety_checker: bool


def read_pipeline(
    folder_or_repo: str | Path,
    *,
    revision: str | None,
    endpoint: str | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    torch_dtype: torch.dtype,
) -> PipelineParts:
    """Everything in a folder of the layout above, or in a Hub repository of that layout."""
    folder = Path(folder_or_repo)
    if not folder.is_dir():
        if not REPO_ID.fullmatch(str(folder_or_repo)):
            raise PipelineFolderError(
                f"{folder_or_repo} is neither a folder on this machine nor a repository owner/name"
            )
        patterns = ["model_index.json", "safety_checker/*", *(f"{part}/*" for part in PARTS)]
        folder = Path(
            snapshot_download(
                str(folder_or_repo),
                revision=revision,
                endpoint=endpoint,
                cache_dir=cache_dir,
                token=token,
                allow_patterns=patterns,
            )
        )
    parts = read_base(folder, folder / "adapter", folder, torch_dtype=torch_dtype)
    parts.components["scheduler"] = _scheduler(folder)
    return parts


def read_base(
    base: str | Path, adapter_folder: str | Path, encoder_folder: str | Path, *, torch_dtype: torch.dtype
) -> PipelineParts:
    """A Stable Diffusion folder, an adapter and an image encoder, with a UniPC scheduler."""
    base, encoder_folder = Path(base), Path(encoder_folder)
    adapter = read_adapter(adapter_folder)
    image_encoder, feature_extractor = _image_encoder(encoder_folder, torch_dtype)
    if image_encoder.config.projection_dim != adapter.config.image_dim:
        raise AdapterGeometryError(
            f"the image encoder in {encoder_folder} makes features of width {image_encoder.config.projection_dim}, the "
            f"adapter was trained with {adapter.config.image_dim}: use the encoder it was trained with"
        )
    unet = attach(_model(UNet2DConditionModel, base, "unet", torch_dtype=torch_dtype), adapter)
    index = _json(base / "model_index.json")
    components = {
        "unet": unet.eval(),
        "vae": _model(AutoencoderKL, base, "vae", torch_dtype=torch_dtype),
        "text_encoder": _model(CLIPTextModel, base, "text_encoder", dtype=torch_dtype),
        "tokenizer": _component(CLIPTokenizer, base, "tokenizer"),
        "scheduler": UniPCMultistepScheduler.from_config(_scheduler(base).config),
        "safety_checker": None,
        "feature_extractor": feature_extractor,
        "image_encoder": image_encoder,
    }
    if (base / "safety_checker").is_dir():
        components["safety_checker"] = _model(StableDiffusionSafetyChecker, base, "safety_checker", dtype=torch_dtype)
    return PipelineParts(components, adapter.provenance, bool(index.get("requires_safety_checker", True)))


def write_pipeline(pipe: Any, folder: Path, provenance: Mapping[str, Any], **options: Any) -> None:
    """Write `pipe` into `folder`, which may exist: built beside it, then moved in, the adapter last."""
    components = {**pipe.components, "unet": pipe.unet.to_base_unet()}
    forget_origin(components)
    plain = StableDiffusionPipeline(**components, requires_safety_checker=pipe.config["requires_safety_checker"])
    draft = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        plain.save_pretrained(draft, **options)
        save_adapter(pipe.unet, draft / "adapter", provenance)
        folder.mkdir(parents=True, exist_ok=True)
        for part in sorted(draft.iterdir(), key=lambda path: path.name == "adapter"):
            target = folder / part.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(part, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def forget_origin(components: Mapping[str, Any]) -> None:
    """What the libraries write down of where and how a component was loaded and last used is no part of it: the same
    pipeline has the same bytes everywhere, and names nobody's folders. Changes the components' own records."""
    for component in components.values():
        if isinstance(component, ModelMixin):
            component.register_to_config(_name_or_path="")
        elif isinstance(component, CLIPTokenizer):
            for key in ("is_local", "local_files_only"):
                component.init_kwargs.pop(key, None)
            component.backend_tokenizer.no_truncation()  # set anew by every call
            component.backend_tokenizer.no_padding()


def _image_encoder(folder: Path, dtype: torch.dtype) -> tuple[CLIPVisionModelWithProjection, CLIPImageProcessor]:
    if (folder / "image_encoder").is_dir():
        encoder = _model(CLIPVisionModelWithProjection, folder, "image_encoder", dtype=dtype)
        return encoder, _component(CLIPImageProcessor, folder, "feature_extractor")
    if not (folder / "config.json").is_file():
        raise PipelineFolderError(
            f"{folder} has no image_encoder/ and is no CLIP folder itself: give the image encoder's"
        )
    return _model(CLIPVisionModelWithProjection, folder, "", dtype=dtype), _component(CLIPImageProcessor, folder, "")


def _model(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    return _component(kind, folder, part, use_safetensors=True, **options).eval()


def _component(kind: Any, folder: Path, part: str, **options: Any) -> Any:
    """One component from its sub-folder; raises `PipelineFolderError` naming it."""
    if not (folder / part).is_dir():
        raise PipelineFolderError(f"{folder} has no {part}/ ({kind.__name__}): it is no complete pipeline folder")
    try:
        return kind.from_pretrained(folder / part, **options)
    except (OSError, ValueError) as error:
        raise PipelineFolderError(f"{folder / part} cannot be loaded as {kind.__name__}: {error}") from error


def _scheduler(folder: Path) -> SchedulerMixin:
    name = _json(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise PipelineFolderError(
            f"{folder / 'scheduler'} names the class {name!r}, which is no scheduler of diffusers"
        )
    return _component(kind, folder, "scheduler")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineFolderError(f"{path} cannot be read ({error}): is this a pipeline folder?") from error
