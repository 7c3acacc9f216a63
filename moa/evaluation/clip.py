"""CLIP image and text embeddings, the model behind PC.

Reads any `transformers` CLIPModel folder: openai/clip-vit-large-patch14 for the published protocol, zoo/clip in the
miniature world. The image path is FastComposer's (evaluation/clip_eval.py): the picture as a float tensor in 0..1,
bicubic resize of the shorter side, centre crop, CLIP normalisation. That resize ran without antialiasing in the
torchvision of 2023 and runs with it since 0.17; both are offered, because the 224 px input differs by 2.5 of 255 on
average, and the choice is written into the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transform

from moa.errors import EvaluationError
from moa.evaluation.faces import checked_digest
from moa.evaluation.suite import ClipModel

NEEDED = ("model.safetensors", "config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_clip(model: ClipModel, device: str = "cpu") -> ClipScorer:
    """The CLIP that a suite declares. Raises `EvaluatorWeightsError` when its folder is incomplete or not the right
    one."""
    return ClipScorer.from_folder(Path(model.path), sha256=model.sha256, antialias=model.antialias, device=device)


class ClipScorer:
    """Unit embeddings of images and texts; `batch_size` bounds memory and changes results by float rounding only."""

    def __init__(
        self,
        model,
        tokenizer,
        processor,
        *,
        antialias: bool = True,
        device: str = "cpu",
        batch_size: int = 16,
        weights: str = "random",
    ):
        self.device, self.batch_size, self.weights, self.antialias = (
            torch.device(device),
            batch_size,
            weights,
            antialias,
        )
        self.model, self.tokenizer = model.eval().to(self.device), tokenizer
        self.size, self.crop = int(processor.size["shortest_edge"]), int(processor.crop_size["height"])
        self.mean, self.std = list(processor.image_mean), list(processor.image_std)

    @classmethod
    def from_folder(
        cls, folder: Path, *, sha256: str | None = None, antialias: bool = True, device: str = "cpu"
    ) -> ClipScorer:
        """Loads a local CLIPModel folder; `sha256` is what its model.safetensors must be. Nothing is ever
        downloaded."""
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        remedy = "`hf download openai/clip-vit-large-patch14 --local-dir DIR` fetches the published protocol's"
        for name in NEEDED[1:]:
            checked_digest(folder / name, None, remedy, "--clip")
        found = checked_digest(folder / NEEDED[0], sha256, remedy, "--clip")
        return cls(
            CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32),
            AutoTokenizer.from_pretrained(folder, local_files_only=True),
            CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
            antialias=antialias, device=device, weights=found,
        )  # fmt: skip

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`, of PIL images of any size and mode."""
        parts = []
        for start in range(0, len(images), self.batch_size):
            pixels = torch.stack([self._pixels(image) for image in images[start : start + self.batch_size]]).to(
                self.device
            )
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            parts.append(_unit(self.model.visual_projection(pooled)))
        return np.concatenate(parts) if parts else np.zeros((0, self.model.config.projection_dim), np.float32)

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`. A text that the tokenizer would have to cut raises `EvaluationError`
        naming it."""
        limit = min(self.model.config.text_config.max_position_embeddings, self.tokenizer.model_max_length)
        for text in texts:
            tokens = len(self.tokenizer(text).input_ids)
            if tokens > limit:
                raise EvaluationError(
                    f"the prompt {text!r} has {tokens} tokens, CLIP takes {limit}; shorten it in the suite"
                )
        parts = []
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            tokens = self.tokenizer(batch, padding="max_length", max_length=limit, return_tensors="pt").to(self.device)
            pooled = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            parts.append(_unit(self.model.text_projection(pooled)))
        return np.concatenate(parts) if parts else np.zeros((0, self.model.config.projection_dim), np.float32)

    def _pixels(self, image: Image.Image) -> torch.Tensor:
        """CLIP's input `[3, crop, crop]`, normalised."""
        pixels = transform.pil_to_tensor(image.convert("RGB")).float() / 255
        pixels = transform.resize(
            pixels, [self.size], interpolation=transform.InterpolationMode.BICUBIC, antialias=self.antialias
        )
        return transform.normalize(transform.center_crop(pixels, [self.crop, self.crop]), self.mean, self.std)

    def describe(self) -> dict:
        """What was measured with: JSON-able, written into the results."""
        return {
            "name": Path(self.model.config.name_or_path or "CLIP").name,
            "weights": self.weights,
            "image_size": self.crop,
            "antialias": self.antialias,
        }


def _unit(embeddings: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
