"""What the measuring models see in one image, whatever it is scored for: faces, embeddings, a thumbnail.

Everything that needs the pixels or a model is asked here, once per image, and goes through the journal; rows are then
arithmetic on these records. A record depends on the image's bytes and on the models only, so new subjects or prompts
cost no new pass.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moa.evaluation.clip import ClipScorer
from moa.evaluation.faces import Face, FaceEvaluator
from moa.evaluation.generate import CHUNK
from moa.evaluation.journal import Measured

LAYOUT = 8  # pixels per side of the thumbnail that stands for the layout


@dataclass(frozen=True)
class Measurement:
    """One image: `faces` largest first, with `identities`, their unit embeddings, float32 `[d]` each; `clip`, its unit
    embedding, float32 `[d]`; `layout`, its thumbnail, uint8 `[8, 8, 3]`; `digest` of the file; `seconds` it took to
    generate, None where the file does not say."""

    digest: str
    width: int
    height: int
    faces: tuple[Face, ...]
    identities: tuple[np.ndarray, ...]
    clip: np.ndarray
    layout: np.ndarray
    seconds: float | None

    def to_json(self) -> Measured:
        """The record for the journal; arrays keep every bit (base64)."""
        return {
            "digest": self.digest,
            "size": [self.width, self.height],
            "faces": [[*face.box, face.probability] for face in self.faces],
            "identities": [_text(identity) for identity in self.identities],
            "clip": _text(self.clip),
            "layout": _text(self.layout),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, record: Measured) -> Measurement:
        """Inverse of `to_json`."""
        width, height = record["size"]
        return cls(
            record["digest"],
            width,
            height,
            tuple(Face((x0, y0, x1, y1), p) for x0, y0, x1, y1, p in record["faces"]),
            tuple(_array(identity, np.float32) for identity in record["identities"]),
            _array(record["clip"], np.float32),
            _array(record["layout"], np.uint8).reshape(LAYOUT, LAYOUT, 3),
            record["seconds"],
        )


def measure_images(
    images: Sequence[Image.Image], digests: Sequence[str], faces: FaceEvaluator, clip: ClipScorer
) -> list[Measurement]:
    """One pass of each model over a batch of opened images and their files' digests; every face is embedded."""
    detected = faces.detect(images)
    owners = [(image, face) for image, found in zip(images, detected, strict=True) for face in found]
    embedded = iter(faces.embed([image for image, _ in owners], [face for _, face in owners]))
    return [
        Measurement(
            digest,
            image.width,
            image.height,
            tuple(found),
            tuple(next(embedded) for _ in found),
            embedding,
            thumbnail(image),
            _generation_seconds(image),
        )
        for image, digest, found, embedding in zip(images, digests, detected, clip.encode_images(images), strict=True)
    ]


def open_image(path: Path) -> Image.Image | str:
    """The image as RGB, its text chunks in `info`, or the outcome that says why not."""
    if not path.is_file():
        return "missing"
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "unreadable"


def thumbnail(image: Image.Image) -> np.ndarray:
    """The image shrunk to uint8 `[8, 8, 3]` by averaging areas: where is what, without any detail."""
    return np.asarray(image.resize((LAYOUT, LAYOUT), Image.Resampling.BOX))


def _generation_seconds(image: Image.Image) -> float | None:
    try:
        return json.loads(image.info[CHUNK])["seconds"]
    except (KeyError, TypeError, ValueError):
        return None


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _array(text: str, kind: Any) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)
