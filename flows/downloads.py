"""What people download themselves, below models/: nothing here fetches anything. Torch-free.

Names of folders and files as the presets use them, and the command that puts each there. Only the files that are read
are fetched: these repositories hold the same weights in several formats.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from preprocessing.models import fetch_command

STABLE_DIFFUSION = "stable-diffusion-v1-5"
STABLE_DIFFUSION_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"  # on the Hub
CLIP = "clip-vit-large-patch14"
MASK2FORMER = "mask2former-swin-base-coco-panoptic"
FACENET = "20180402-114759-vggface2.pt"

_FACENET_ADDRESS = f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{FACENET}"
_PARTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model", "safety_checker/model")
_FROM_THE_HUB = {
    STABLE_DIFFUSION: (STABLE_DIFFUSION_ID, *(f"{part}.safetensors" for part in _PARTS)),
    CLIP: ("openai/clip-vit-large-patch14", "model.safetensors"),
}


def command(place: Path) -> str | None:
    """The command that puts a model where a preset looks for it; None for a place with another name."""
    if place.name == FACENET:
        return f"curl --location --create-dirs --output {shlex.quote(str(place))} {_FACENET_ADDRESS}"
    if place.name == MASK2FORMER:
        return fetch_command(f"facebook/{MASK2FORMER}", place)
    if place.name not in _FROM_THE_HUB:
        return None
    repository, *weights = _FROM_THE_HUB[place.name]
    return hf_download(repository, place, *weights)


def hf_download(repository: str, place: Path, *weights: str) -> str:
    """`hf download` of a model's configuration, vocabulary and the named weight files (patterns are allowed)."""
    patterns = ("*.json", "*.txt", *weights)
    words = ["hf", "download", repository, *(word for pattern in patterns for word in ("--include", pattern))]
    return shlex.join([*words, "--local-dir", str(place)])
