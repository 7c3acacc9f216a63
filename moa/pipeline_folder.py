"""Pipeline folders on disk: reading their components, and writing them.

    <folder>/model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/[, safety_checker/, feature_extractor/]
    <folder>/subject_encoder/    the CLIP model that sees the subjects' images, with its image processor
    <folder>/adapter/            what MoA adds (format moa-adapter/1); `unet/` is the untouched base

Without the last two it is a plain Stable Diffusion folder, and stock diffusers loads it as one. Every component is
built from its own sub-folder with the classes named here: no code from a repository is run, and only safetensors are
read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
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
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
from transformers.utils import logging

from moa.adapter import MANIFEST, attach, read_adapter, save_adapter
from moa.errors import AdapterError, AdapterGeometryError, PipelineFolderError, UnsupportedBaseError
from moa.subjects import processor_folder
from moa.unet import LORA_LOADED, MoAUNet2DConditionModel

INDEX = "model_index.json"
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")  # there if the index names a class for them
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", *OPTIONAL, "subject_encoder", "adapter")
_UNWRITABLE = (OSError, SafetensorError, AdapterError)  # the second is how safetensors says that the disk is full


def read_pipeline(folder: Path, given: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The components in a folder of the layout above, by name; those in `given` are taken as they are.

    A stock U-Net in `given` becomes the base that the folder's adapter is attached to. Raises `PipelineFolderError`,
    `AdapterError`, `AdapterGeometryError` and `UnsupportedBaseError`.
    """
    if "scheduler" not in given:
        given = {**given, "scheduler": _scheduler(folder)}
    return read_base(folder, folder / "adapter", folder / "subject_encoder", given, dtype)


def read_base(
    base: Path, adapter_folder: Path, encoder_folder: Path, given: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """The components of a Stable Diffusion folder with an adapter and a CLIP folder, as `read_pipeline`; UniPC."""
    index = _json(base / INDEX)
    unet = given.get("unet") or _model(UNet2DConditionModel, base / "unet", dtype)
    if not isinstance(unet, MoAUNet2DConditionModel):
        if not (adapter_folder / MANIFEST).is_file():
            raise PipelineFolderError(
                f"{adapter_folder} has no {MANIFEST}: it is no adapter, or writing it was interrupted; save or "
                "download it again"
            )
        unet = attach(unet, read_adapter(adapter_folder)).eval()
    loaders: dict[str, Callable[[], Any]] = {
        "vae": lambda: _model(AutoencoderKL, base / "vae", dtype),
        "text_encoder": lambda: _model(CLIPTextModel, base / "text_encoder", dtype),
        "tokenizer": lambda: _component(CLIPTokenizer, base / "tokenizer"),
        "scheduler": lambda: UniPCMultistepScheduler.from_config(_scheduler(base).config),
        "safety_checker": lambda: _model(StableDiffusionSafetyChecker, base / "safety_checker", dtype),
        "feature_extractor": lambda: _component(CLIPImageProcessor, base / "feature_extractor"),
        "image_encoder": lambda: _model(CLIPVisionModelWithProjection, base / "image_encoder", dtype),
        "subject_encoder": lambda: _model(CLIPVisionModelWithProjection, encoder_folder, dtype),
        "subject_processor": lambda: _component(CLIPImageProcessor, processor_folder(encoder_folder)),
    }
    absent = {name for name in OPTIONAL if (index.get(name) or [None])[0] is None}
    read = {name: None if name in absent else load() for name, load in loaders.items() if name not in given}
    components = {"requires_safety_checker": bool(index.get("requires_safety_checker", True)), **read, **given}
    _check_width(components["subject_encoder"], unet)
    _check_prediction(components["scheduler"], unet)
    return {**components, "unet": unet}


def write_pipeline(pipe: Any, folder: Path, **options: Any) -> None:
    """Write `pipe` into `folder`: built beside it, then moved in.

    What lies in the way is removed first, beginning with `adapter/`, which comes last: an interrupted call leaves a
    folder that cannot be loaded, never one with parts of two pipelines. Files of other names stay. Raises
    `PipelineFolderError` when the folder cannot be written (disk full, no permission).
    """
    if pipe.subject_encoder is None or pipe.subject_processor is None:
        raise PipelineFolderError(
            "this pipeline has no subject_encoder or subject_processor: load it with them to save it"
        )
    for name, part in pipe.components.items():
        if getattr(part, "peft_config", None):  # transformers would write the LoRA layers, and not the model
            raise UnsupportedBaseError(LORA_LOADED.format(f"the {name}"))
    components = {name: part for name, part in pipe.components.items() if name in PARTS and name != "subject_encoder"}
    components["unet"] = pipe.unet.to_base_unet()
    forget_origin(components)
    plain = StableDiffusionPipeline(**components, requires_safety_checker=pipe.config["requires_safety_checker"])
    folder = Path(folder).resolve()
    draft = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        plain.save_pretrained(draft, **options)
        pipe.subject_encoder.save_pretrained(draft / "subject_encoder", **options)
        pipe.subject_processor.save_pretrained(draft / "subject_encoder")
        save_adapter(pipe.unet, draft / "adapter", pipe.unet.provenance)
        _move(draft, folder)
    except _UNWRITABLE as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or error
        raise PipelineFolderError(
            f"{folder} cannot be written ({reason}): free space there or fix permissions, then save it again"
        ) from error
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


def _move(draft: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in reversed(PARTS):
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "adapter"):
        os.replace(path, folder / path.name)


def _check_width(encoder: Any, unet: MoAUNet2DConditionModel) -> None:
    width = None if encoder is None else encoder.config.projection_dim
    if width not in (None, unet.moa_config.image_dim):
        raise AdapterGeometryError(
            f"the subject encoder makes features of width {width}, the adapter was trained with "
            f"{unet.moa_config.image_dim}: use the encoder it was trained with"
        )


def _check_prediction(scheduler: Any, unet: MoAUNet2DConditionModel) -> None:
    """A base of the same geometry may predict another quantity; what an adapter adds is meant for one of them."""
    predicts, trained = scheduler.config.get("prediction_type"), unet.provenance.get("prediction_type")
    if predicts and trained and predicts != trained:
        raise UnsupportedBaseError(
            f"the scheduler says that the base predicts {predicts!r}, the adapter was trained on one that predicts "
            f"{trained!r}: attach it to such a base"
        )


def _model(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A complete model from its folder; the libraries would fill gaps with random weights."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a CLIP folder also holds a text model, which is not loaded
    try:
        options = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True}
        model, report = _component(kind, folder, **options)
    finally:
        logging.set_verbosity(level)
    if missing := report["missing_keys"]:
        raise PipelineFolderError(
            f"{folder} lacks {len(missing)} weights of a {kind.__name__}, e.g. {min(missing)}: download or save "
            "it again"
        )
    return model.eval()


def _component(kind: Any, folder: Path, **options: Any) -> Any:
    """One component from its folder; raises `PipelineFolderError` naming it."""
    if not folder.is_dir():
        raise PipelineFolderError(
            f"{folder} does not exist, a {kind.__name__} was expected there: download the folder again, or pass "
            f"{folder.name}= yourself"
        )
    try:
        return kind.from_pretrained(folder, **options)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise PipelineFolderError(f"{folder} cannot be loaded as {kind.__name__}: {error}") from error


def _scheduler(folder: Path) -> SchedulerMixin:
    name = _json(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise PipelineFolderError(
            f"{folder / 'scheduler'} names the class {name!r}, which is no scheduler of diffusers"
        )
    return _component(kind, folder / "scheduler")


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PipelineFolderError(f"{path} cannot be read ({error}): is this a pipeline folder?") from error
