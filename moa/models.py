"""Loads what a training run needs: the frozen prior, the image encoder, and the U-Net with the weights to train.

Preflight: `find_inputs` looks into every folder before anything is loaded and digests what the run depends on. Weights
are read from safetensors alone, never from pickles, and have to be complete.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from moa.adapter import load_adapter, read_adapter
from moa.data import file_digest, read_manifest
from moa.errors import MissingInputError, ModelFolderError, TrainConfigError
from moa.layers import PLAIN_PIXELS
from moa.subjects import processor_folder
from moa.train_config import TrainConfig
from moa.unet import MoAUNet2DConditionModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DIFFUSERS, TRANSFORMERS = (  # a whole file, or the index of one that is cut in pieces
    (f"{name}.safetensors", f"{name}.safetensors.index.json") for name in ("diffusion_pytorch_model", "model")
)
BASE_FILES: dict[str, list[tuple[str, ...]]] = {  # of each part of a base model, for each file the names it may have
    "unet": [("config.json",), DIFFUSERS],
    "vae": [("config.json",), DIFFUSERS],
    "text_encoder": [("config.json",), TRANSFORMERS],
    "tokenizer": [("tokenizer.json", "vocab.json")],
    "scheduler": [("scheduler_config.json",)],
}
BASE_PARTS = tuple(BASE_FILES)
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Models:
    """The networks of a run. All is frozen but the U-Net's MoA parameters, which are fp32 whatever the precision."""

    unet: MoAUNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    image_encoder: CLIPVisionModelWithProjection
    image_processor: CLIPImageProcessor
    scheduler: DDPMScheduler

    @cached_property
    def router_layers(self) -> tuple[int, ...]:
        """Numbers of the layers in L of eq. 10."""
        return tuple(layer.index for layer in self.unet.moa_layers() if layer.in_router_loss)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a `height` x `width` image.

        Raises `TrainConfigError` for an image that the VAE and the U-Net's levels cannot halve evenly.
        """
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        smallest = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if height % smallest or width % smallest:
            raise TrainConfigError(
                f"shards: images of {width} x {height} pixels do not fit this base model, "
                f"preprocess to a multiple of {smallest}"
            )
        return self.vae.config.latent_channels, height // factor, width // factor


def find_inputs(config: TrainConfig) -> dict[str, str | None]:
    """Digests of all inputs: {"shards", "base", "image_encoder", "init"}.

    Raises `MissingInputError` naming the first path that is not there and what to do about it, `AdapterError` for a
    damaged `init`.
    """
    for part, files in BASE_FILES.items():
        for names in files:
            _need(config.base / part, names, "base: point it at a diffusers Stable Diffusion folder on this machine")
    for names in (("config.json",), TRANSFORMERS):
        _need(config.image_encoder, names, "image_encoder: point it at a CLIP folder on this machine")
    _need(
        processor_folder(config.image_encoder),
        ("preprocessor_config.json",),
        "image_encoder: copy the encoder's image processor there",
    )
    if config.init:
        _need(config.init, ("manifest.json",), "init: point it at an adapter folder (runs/<name>/export), or null")
    return {
        "shards": read_manifest(config.shards)["digest"],
        "base": folder_digest(config.base, BASE_PARTS),
        "image_encoder": folder_digest(config.image_encoder),
        "init": read_adapter(config.init).digest if config.init else None,
    }


def load_models(config: TrainConfig, device: torch.device) -> Models:
    """Loads and freezes everything, the same weights on each rank.

    Raises `TrainConfigError` when the image encoder, the warm-start adapter or the scheduler does not fit the
    configuration, `ModelFolderError` for a folder that is incomplete or damaged.
    """
    torch.manual_seed(config.seed)  # the personalization weights that are no copy of the prior start at random
    dtype = DTYPES[config.precision]
    image_encoder = _pretrained(CLIPVisionModelWithProjection, "image_encoder", config.image_encoder, dtype=dtype)
    width = image_encoder.config.projection_dim
    if width != config.moa.image_dim:
        raise TrainConfigError(
            f"moa.image_dim is {config.moa.image_dim}, but {config.image_encoder} gives {width} features"
        )
    with _loading("base", config.base / "scheduler"):
        scheduler = DDPMScheduler.from_pretrained(config.base / "scheduler")
    with _loading("base", config.base / "tokenizer"):
        tokenizer = CLIPTokenizer.from_pretrained(config.base / "tokenizer")
    with _loading("image_encoder", processor_folder(config.image_encoder)):
        image_processor = CLIPImageProcessor.from_pretrained(processor_folder(config.image_encoder))
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise TrainConfigError(
            f"base: the scheduler's prediction_type {scheduler.config.prediction_type!r} is not supported, "
            f"use one of {', '.join(PREDICTIONS)}"
        )
    if config.max_timestep > scheduler.config.num_train_timesteps:
        raise TrainConfigError(
            f"max_timestep: the base model has only {scheduler.config.num_train_timesteps} timesteps"
        )
    frozen = {
        "vae": _pretrained(AutoencoderKL, "base", config.base / "vae", torch_dtype=dtype),
        "text_encoder": _pretrained(CLIPTextModel, "base", config.base / "text_encoder", dtype=dtype),
        "image_encoder": image_encoder,
    }
    for model in frozen.values():
        model.requires_grad_(False).eval().to(device)
    if device.type == "cpu":
        frozen["vae"].to(memory_format=torch.channels_last)  # a sixth less time; untried on a GPU
    unet = _load_unet(config, device, dtype)
    if (channels := unet.config.in_channels) != frozen["vae"].config.latent_channels:
        raise TrainConfigError(
            f"base: {config.base / 'unet'} takes {channels} channels, the autoencoder's latents have "
            f"{frozen['vae'].config.latent_channels}: train on a text-to-image model; the adapter may be attached to "
            "one for inpainting afterwards"
        )
    return Models(
        unet=unet,
        tokenizer=tokenizer,
        image_processor=image_processor,
        scheduler=scheduler,
        **frozen,
    )


def folder_digest(folder: Path, parts: tuple[str, ...] = ()) -> str:
    """Digest of the names and contents of all visible files under `folder`, or under its sub-folders `parts`.

    What is hidden, or in a hidden folder, does not count: `hf download --local-dir` leaves a `.cache` with the times of
    its downloads.
    """
    roots = [Path(folder) / part for part in parts] or [Path(folder)]
    found = sorted(file for root in roots for file in root.rglob("*") if file.is_file())
    names = [file.relative_to(folder) for file in found]
    visible = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    lines = [f"{name.as_posix()} {file_digest(folder / name)}\n" for name in visible]
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def code_commit() -> str | None:
    """The git commit this package runs from, with `+changes` behind it where a file of the package differs from it;
    None outside a repository, in one that does not hold this package, or without git."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _pretrained(kind: Any, field: str, folder: Path, **options: Any) -> Any:
    """The model of a folder, on the CPU. The libraries fill weights that are missing at random, with a warning."""
    with _loading(field, folder):
        model, report = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    if report["missing_keys"]:
        raise ModelFolderError(f"{field}: {folder} lacks weights, e.g. {min(report['missing_keys'])}; copy it again")
    return model


@contextmanager
def _loading(field: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelFolderError(
            f"{field}: {folder} cannot be loaded, a file is damaged or does not belong to the others ({error}); copy "
            "it again"
        ) from error


def _load_unet(config: TrainConfig, device: torch.device, dtype: torch.dtype) -> MoAUNet2DConditionModel:
    base = _pretrained(UNet2DConditionModel, "base", config.base / "unet", torch_dtype=torch.float32)
    unet = load_adapter(base, config.init) if config.init else MoAUNet2DConditionModel.from_unet(base, config.moa)
    if unet.moa_config != config.moa:
        raise TrainConfigError(
            f"init: {config.init} holds an adapter of {unet.moa_config!r}, `moa` asks for {config.moa!r}"
        )
    unet.requires_grad_(False).eval()
    trained = {id(parameter) for _, parameter in unet.moa_parameters()}
    for parameter in unet.parameters():
        parameter.data = parameter.data.to(device, torch.float32 if id(parameter) in trained else dtype)
        parameter.requires_grad_(id(parameter) in trained)
    for buffer in unet.buffers():
        buffer.data = buffer.data.to(device)
    side = unet.config.sample_size
    if device.type == "cpu" and isinstance(side, int) and side**2 <= PLAIN_PIXELS:
        unet.set_attn_processor(
            AttnProcessor()
        )  # the prior's attention, as `moa.layers.softmax_attention` does the expert's
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if config.compile:
        # A checkpointed layer hands its maps to the recorder; run again in the backward pass it need not do that twice.
        torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
        unet.compile()
    return unet


def _need(folder: Path, names: tuple[str, ...], advice: str) -> None:
    """A file of one of these names has to be in the folder. `advice` is the field, a colon and what to do."""
    if any((folder / name).is_file() for name in names):
        return
    field, remedy = advice.split(": ", 1)
    weights = [path.name for path in sorted(folder.glob("*")) if path.suffix in (".bin", ".ckpt", ".safetensors")]
    found = ""
    if weights and names[0].endswith(".safetensors"):
        found = f" (there is {', '.join(weights)}; weights are read from safetensors of this name alone)"
    raise MissingInputError(f"{field}: {folder / names[0]} does not exist{found}; {remedy}")
