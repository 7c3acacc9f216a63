"""The methods of an evaluation: which weights make which images, and how to open each as a pipeline.

Every comparison is with the prior on the same base, so each community base brings two methods: its prior, and MoA on
it. A community base is the pipeline's own with a LoRA merged into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError

from moa.adapter import load_adapter
from moa.data import file_digest
from moa.errors import EvaluationError
from moa.evaluation.files import json_digest
from moa.evaluation.generate import Method
from moa.evaluation.suite import Precision
from moa.models import BASE_PARTS, folder_digest
from moa.pipeline import MoAPipeline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_methods(
    pipeline: Path,
    *,
    champion: Path | None = None,
    ablations: dict[str, Path] | None = None,
    community: dict[str, Path] | None = None,
) -> list[Method]:
    """The prior, MoA, the champion, the ablations (label -> adapter folder), and two methods for each community base
    (label -> LoRA file, or a folder with one), each with the digest of the weights it runs on.

    Raises `EvaluationError` naming what is missing, or the label that cannot be a folder's name.
    """
    for part in (*BASE_PARTS, "subject_encoder", "adapter"):
        if not (pipeline / part).is_dir():
            raise EvaluationError(f"{pipeline}: is no MoA pipeline folder, it lacks {part}/")
    base, encoder = folder_digest(pipeline, BASE_PARTS), folder_digest(pipeline / "subject_encoder")
    own = folder_digest(pipeline / "adapter")
    methods = [
        Method("prior", "Prior only", "prior", base),
        Method("moa", "MoA", "moa", json_digest([base, encoder, own]), compared_with="prior"),
    ]
    adapters: list[tuple[str, str, Literal["champion", "ablation"], Path]] = []
    if champion:
        adapters.append(("champion", "Champion", "champion", champion))
    adapters += [(f"ablation {label!r}", label, "ablation", folder) for label, folder in (ablations or {}).items()]
    for what, label, kind, folder in adapters:
        _need_adapter(what, folder)
        name = "champion" if kind == "champion" else _new_name(what, label, methods)
        digest = json_digest([base, encoder, folder_digest(folder)])
        role = _role(folder) if kind == "ablation" else None
        methods.append(Method(name, label, kind, digest, folder, compared_with="prior", role=role))
    for role, lacks in (("no_moa", "MoA layers"), ("no_spacetime", "spacetime encoding")):
        alike = [method.label for method in methods if method.role == role]
        if len(alike) > 1:
            raise EvaluationError(
                f"ablations: {' and '.join(map(repr, alike))} lack {lacks}, and claims are judged by one: evaluate "
                "the others in runs of their own"
            )
    for label, place in (community or {}).items():
        methods += _on_community_base(f"community {label!r}", label, place, methods, [base, encoder, own])
    return methods


def _on_community_base(what: str, label: str, place: Path, methods: list[Method], digests: list[str]) -> list[Method]:
    """The prior on a LoRA's base, and MoA on it."""
    name = _new_name(what, label, methods)
    prior = _new_name(what, f"{label} prior", methods)
    lora = _lora_file(what, place)
    base, *personal = digests
    merged = json_digest([base, file_digest(lora)])
    return [
        Method(prior, f"{label}: prior only", "prior", merged, lora=lora),
        Method(name, f"{label}: MoA", "ablation", json_digest([merged, *personal]), lora=lora, compared_with=prior),
    ]


def _need_adapter(what: str, folder: Path) -> None:
    if not (folder / "manifest.json").is_file():
        raise EvaluationError(f"{what}: {folder} is no adapter folder, it lacks manifest.json")


def _role(adapter: Path) -> Literal["no_moa", "no_spacetime"] | None:
    """Which part of the architecture an adapter was trained without."""
    try:
        moa = json.loads((adapter / "config.json").read_text(encoding="utf-8"))["moa"]
        if moa["architecture"] == "single_branch":
            return "no_moa"
        return None if moa["spacetime"] else "no_spacetime"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{adapter / 'config.json'}: is no adapter's configuration ({error!r})") from error


def _new_name(what: str, label: str, methods: Iterable[Method]) -> str:
    """The folder name of a label: lower case letters, digits and hyphens."""
    name = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    if name in {"", "champion", *(method.name for method in methods)}:
        raise EvaluationError(f"{what}: its folder name would be {name!r}, empty or taken; choose another label")
    return name


def _lora_file(what: str, place: Path) -> Path:
    """The one safetensors file that `place` is or holds; pickled weights are never read."""
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    if len(files) != 1 or files[0].suffix != ".safetensors":
        raise EvaluationError(
            f"{what}: {place} must be a LoRA's .safetensors file or a folder with exactly one, it has {len(files)}"
        )
    return files[0]


def open_pipeline(folder: Path, method: Method, device: str, *, precision: Precision = "fp32") -> MoAPipeline:
    """The pipeline of a method, quiet, on `device`: the folder's own, on the method's base and with its adapter.

    Without its safety checker, as the published protocol has it: what it flags becomes black, so an image of a face
    would count as one without.
    """
    pipeline: Any = MoAPipeline.from_pretrained(folder, torch_dtype=DTYPES[precision])
    pipeline.register_modules(safety_checker=None)
    pipeline.register_to_config(requires_safety_checker=False)
    if method.adapter or method.lora:
        base = pipeline.unet.to_base_unet()
        if method.lora:
            base = _merge_lora(pipeline, base, method.lora)
        pipeline.register_modules(unet=load_adapter(base, method.adapter or folder / "adapter").eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _merge_lora(pipeline: Any, base: UNet2DConditionModel, lora: Path) -> UNet2DConditionModel:
    """`base`, and with it the pipeline's text encoder, with the LoRA merged into their own weights.

    It is merged before the adapter comes, so that no layer of the adapter can be taken for one of the prior's. Raises
    `EvaluationError` when the file does not fit: diffusers only warns of layers that the base does not have.
    """
    pipeline.register_modules(unet=base)
    options = {"weight_name": lora.name, "use_safetensors": True, "local_files_only": True}
    try:
        named, _ = pipeline.lora_state_dict(lora.parent, **options)
        pipeline.load_lora_weights(lora.parent, **options)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise EvaluationError(f"{lora} cannot be loaded as a LoRA of this base model: {error}") from error
    modules = [module for part in (base, pipeline.text_encoder) for module in part.modules()]
    taken = sum(hasattr(module, "lora_B") for module in modules)
    meant = sum("lora_B." in name or "lora.up." in name for name in named)
    if not taken or taken != meant:
        raise EvaluationError(
            f"{lora} names {meant} layers, of which this base model has {taken}: is it for this base?"
        )
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return base
