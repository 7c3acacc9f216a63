"""Measuring models whose answers can be computed by hand, methods, and a suite to go with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from moa.evaluation.faces import REAL_PERSON, Face
from moa.evaluation.generate import Method
from moa.evaluation.measure import MeasuringModels
from moa.evaluation.suite import Suite

BOX = (4.0, 4.0, 12.0, 14.0)
PRIOR = Method("prior", "Prior only", "prior", "sha256:base")
MOA = Method("moa", "MoA", "moa", "sha256:moa", compared_with="prior")
CHAMPION = Method("champion", "Champion", "champion", "sha256:champion", compared_with="prior")
NO_MOA = Method("no-moa", "Without MoA", "ablation", "sha256:no-moa", compared_with="prior", role="no_moa")
NO_SPACETIME = Method(
    "no-spacetime", "Without spacetime", "ablation", "sha256:no-st", compared_with="prior", role="no_spacetime"
)


class ColourFaces:
    """Every image that is not black has one face, at `BOX`; its embedding is the direction of the mean colour there."""

    person = REAL_PERSON

    def __init__(self) -> None:
        self.embedded = 0

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        return [[Face(BOX, 0.9)] if np.asarray(image.convert("RGB")).any() else [] for image in images]

    def embed(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        self.embedded += len(images)
        cropped = (image.convert("RGB").crop(BOX) for image in images)
        return np.array([colour_direction(crop) for crop in cropped], np.float32).reshape(-1, 3)

    def describe(self) -> dict[str, Any]:
        return {"name": "colour"}


class ColourClip:
    """An image is the direction of its mean colour, a text that of its sha256's first three bytes."""

    def __init__(self) -> None:
        self.images = self.texts = 0

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.images += len(images)
        return np.array([colour_direction(image) for image in images], np.float32).reshape(-1, 3)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += len(texts)
        return np.array([text_direction(text) for text in texts], np.float32)

    def describe(self) -> dict[str, Any]:
        return {"name": "colour"}


class ColourJudge:
    """A bright image shows a red hat, a dark one nothing; every image shows the beach."""

    def shown(self, images: Sequence[Image.Image]) -> list[dict[str, str]]:
        bright = [np.asarray(image.convert("L")).mean() > 127 for image in images]
        return [{"item": "with a hat" if hat else "", "scene": "on the beach"} for hat in bright]

    def describe(self) -> dict[str, Any]:
        return {"name": "colour"}


def colour_models(faces: Any = None, clip: Any = None, attributes: Any = None) -> MeasuringModels:
    """Measuring models that need no weights; each may be replaced."""
    return MeasuringModels(faces or ColourFaces(), clip or ColourClip(), attributes)


def colour_direction(image: Image.Image) -> np.ndarray:
    mean = np.asarray(image.convert("RGB"), np.float64).mean(axis=(0, 1))
    return mean / max(np.linalg.norm(mean), 1e-9)


def text_direction(text: str) -> np.ndarray:
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:3], np.uint8).astype(np.float64) + 1
    return digest / np.linalg.norm(digest)


def declaration(**changes: Any) -> dict[str, Any]:
    """A suite of two shard subjects, two prompts and two seeds at 32 pixels; keyword arguments replace fields."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "title": "Tiny",
        "licence": "none",
        "subjects": {"kind": "shards", "split": "train", "count": 2},
        "prompts": [
            {"id": "hat", "category": "accessory", "text": "a {word} with a hat"},
            {"id": "beach", "category": "context", "text": "a {word} on the beach"},
        ],
        "seeds": [0, 1],
        "images": {"size": 32, "steps": 2, "guidance": 2.0},
        "evaluators": {"faces": {"kind": "miniature", "path": "faces"}, "clip": {"path": "clip"}},
        "published": [{"method": "Theirs", "ip": 0.5, "pc": 0.2, "source": "a paper"}],
    }
    return {**fields, **changes}


def tiny_suite(**changes: Any) -> Suite:
    return Suite.model_validate(declaration(**changes))
