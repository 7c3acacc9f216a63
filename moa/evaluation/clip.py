"""CLIP image and text embeddings, the model behind PC.

Reads a `transformers` CLIPModel folder (openai/clip-vit-large-patch14 for the published protocol, zoo/clip in the
miniature world) or an OpenCLIP one. The image path is FastComposer's (evaluation/clip_eval.py): the picture as a float
tensor in 0..1, bicubic resize of the shorter side, centre crop, CLIP normalisation. That resize ran without
antialiasing in the torchvision of 2023 and runs with it since 0.17; both are offered, because the 224 px input differs
by 2.5 of 255 on average, and the choice is written into the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transform

from moa.errors import EvaluationError
from moa.evaluation.clip_towers import FOLDERS, Towers
from moa.evaluation.pixels import batch_size, by_size, stacked
from moa.evaluation.suite import ClipModel
from moa.evaluation.weights import checked_digest, reading

REMEDY = (  # that repository holds the weights in several formats, of which one is read
    "`hf download openai/clip-vit-large-patch14 --include '*.json' --include '*.txt' --include model.safetensors "
    "--local-dir DIR` fetches the published protocol's"
)


def load_clip(model: ClipModel, device: str = "cpu") -> ClipScorer:
    """The CLIP that a suite declares. Raises `EvaluatorWeightsError` when its folder is incomplete or not the right
    one."""
    return ClipScorer.from_folder(Path(model.path), sha256=model.sha256, antialias=model.antialias, device=device)


class ClipScorer:
    """Unit embeddings of images and texts; `batch_size` bounds memory and changes results by float rounding only."""

    def __init__(self, towers: Towers, *, antialias: bool = True, device: str = "cpu", weights: str = "random"):
        self.towers, self.antialias, self.weights = towers, antialias, weights
        self.device = torch.device(device)
        self.batch_size = batch_size(self.device, cpu=4, gpu=64)  # 16 take a CPU a sixth longer
        towers.to(self.device)

    @classmethod
    def from_folder(
        cls, folder: Path, *, sha256: str | None = None, antialias: bool = True, device: str = "cpu"
    ) -> ClipScorer:
        """Loads a local folder; `sha256` is what the file of its weights must be. Nothing is ever downloaded."""
        kind = next((name for name in FOLDERS if (folder / name).is_file()), "config.json")
        load, weights, others = FOLDERS[kind]
        for name in (kind, *others):
            checked_digest(folder / name, None, REMEDY, "clip")
        found = checked_digest(folder / weights, sha256, REMEDY, "clip")
        with reading(folder, REMEDY):
            towers = load(folder)
        return cls(towers, antialias=antialias, device=device, weights=found)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`, of PIL images of any size and mode."""
        batches = [images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size)]
        return self._unit([self.towers.images(self.pixels(batch)) for batch in batches])

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`. A text that the tokenizer would have to cut raises `EvaluationError`
        naming it."""
        limit = self.towers.limit
        for text in texts:
            if self.towers.token_count(text) > limit:
                raise EvaluationError(f"the prompt {text!r} has more than the {limit} tokens CLIP takes; shorten it")
        batches = [texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size)]
        return self._unit([self.towers.texts(batch) for batch in batches])

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """CLIP's input `[B, 3, crop, crop]`, normalised; shrunk on the device, images of one size together."""
        size, bicubic = self.towers.image_size, transform.InterpolationMode.BICUBIC
        rows: list[torch.Tensor] = [torch.empty(0)] * len(images)
        for places in by_size(images).values():
            found = stacked([images[place] for place in places], self.device).permute(0, 3, 1, 2).float() / 255
            found = transform.resize(found, [size], interpolation=bicubic, antialias=self.antialias)
            for place, row in zip(places, transform.center_crop(found, [size, size]), strict=True):
                rows[place] = row
        return transform.normalize(torch.stack(rows), self.towers.mean, self.towers.std)

    def _unit(self, parts: Sequence[torch.Tensor]) -> np.ndarray:
        """The embeddings in one table, each of length 1; they leave the device together."""
        if not parts:
            return np.zeros((0, self.towers.width), np.float32)
        return torch.nn.functional.normalize(torch.cat(list(parts)).float(), dim=-1).cpu().numpy()

    def describe(self) -> dict:
        """What was measured with: JSON-able, written into the results."""
        return {
            "name": self.towers.name,
            "weights": self.weights,
            "image_size": self.towers.image_size,
            "antialias": self.antialias,
        }
