"""What an image shows, by a classifier that sees nothing but its pixels: the item that somebody wears or holds, and the
scene. It answers what CLIP cannot be trusted with, since CLIP made the subject's features and counts the background.

Only the miniature world has one (`zoo/attributes`); suites of photographs declare none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from moa.evaluation.pixels import by_size, stacked
from moa.evaluation.suite import AttributeModel, Shows
from moa.evaluation.weights import checked_digest, reading
from moa.zoo.attributes import AttributeClassifier

REMEDY = "the classifier ships in zoo/attributes"


class AttributeJudge:
    """The words that a classifier has for each image."""

    def __init__(self, classifier: AttributeClassifier, *, device: str = "cpu", weights: str = "random"):
        self.classifier, self.weights = classifier.eval().to(device), weights
        self.device = torch.device(device)

    @classmethod
    def from_folder(cls, model: AttributeModel, device: str = "cpu") -> AttributeJudge:
        """Loads a folder as zoo/attributes. Raises `EvaluatorWeightsError` when it is incomplete or not the right
        one."""
        folder = Path(model.path)
        checked_digest(folder / "config.json", None, REMEDY, None)
        found = checked_digest(folder / "model.safetensors", model.sha256, REMEDY, None)
        with reading(folder, REMEDY):
            return cls(AttributeClassifier.from_pretrained(folder), device=device, weights=found)

    def shown(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        """`item` ("" for none) and `scene` of each image, in the words of captions. Images may differ in size."""
        found: list[dict[str, str]] = [{} for _ in images]
        for places in by_size(images).values():
            pixels = stacked([images[place] for place in places], self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            for place, words in zip(places, self.classifier.words(pixels), strict=True):
                found[place] = {name: words[name] for name in Shows.model_fields}
        return found

    def describe(self) -> dict[str, Any]:
        """What was measured with: JSON-able, written into the results."""
        return {"name": "Attribute classifier", "weights": self.weights}
