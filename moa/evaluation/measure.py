"""What the measuring models see in one image, whatever it is scored for: faces, embeddings, what it shows, a thumbnail.

Everything that needs the pixels or a model is asked here, once per image, and goes through the journal; rows are then
arithmetic on these records. A record depends on the image's bytes and on the models only, so new subjects or prompts
cost no new pass. Kept in memory are embeddings, never pixels.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moa.data import file_digest
from moa.evaluation import pixels
from moa.evaluation.attributes import AttributeJudge
from moa.evaluation.clip import ClipScorer, load_clip
from moa.evaluation.faces import Face, FaceEvaluator, load_faces
from moa.evaluation.files import json_digest
from moa.evaluation.generate import CHUNK
from moa.evaluation.journal import Journal, Measured
from moa.evaluation.memory import MemoryBound
from moa.evaluation.suite import Evaluators

Progress = Callable[[int, int, str], None]
LAYOUT = 8  # pixels per side of the thumbnail that stands for the layout
READERS = min(8, os.cpu_count() or 1)  # threads that open images


@dataclass(frozen=True)
class Measurement:
    """One image: `faces` largest first, with `identities`, their unit embeddings, float32 `[d]` each; `clip`, its unit
    embedding, float32 `[d]`; `layout`, its thumbnail, uint8 `[8, 8, 3]`; `shown`, the words of the item and the scene,
    None without a classifier; `digest` of the file; `seconds` it took to generate, None where the file does not say.
    """

    digest: str
    width: int
    height: int
    faces: tuple[Face, ...]
    identities: tuple[np.ndarray, ...]
    clip: np.ndarray
    layout: np.ndarray
    shown: Mapping[str, str] | None
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
            "shown": self.shown,
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
            record["shown"],
            record["seconds"],
        )


@dataclass(frozen=True)
class MeasuringModels:
    """What an image is measured by, on which device; `attributes` is None in suites that declare no classifier."""

    faces: FaceEvaluator
    clip: ClipScorer
    attributes: AttributeJudge | None = None
    device: str = "cpu"

    @classmethod
    def load(cls, declared: Evaluators, device: str = "cpu") -> MeasuringModels:
        """The models that a suite declares. Raises `EvaluatorWeightsError` naming what is missing or not the right
        file."""
        judge = AttributeJudge.from_folder(declared.attributes, device) if declared.attributes else None
        return cls(load_faces(declared.faces, device), load_clip(declared.clip, device), judge, device)

    def describe(self) -> dict[str, Any]:
        """What was measured with: JSON-able, written into the results."""
        attributes = self.attributes.describe() if self.attributes else None
        return {"faces": self.faces.describe(), "clip": self.clip.describe(), "attributes": attributes}

    def __call__(self, images: Sequence[tuple[str, Image.Image]]) -> list[Measurement]:
        """One pass of each model over the digests and pixels of opened files; every face is embedded."""
        pictures = [image for _, image in images]
        detected = self.faces.detect(pictures)
        owners = [(image, face) for image, found in zip(pictures, detected, strict=True) for face in found]
        embedded = iter(self.faces.embed([image for image, _ in owners], [face for _, face in owners]))
        shown = self.attributes.shown(pictures) if self.attributes else [None] * len(pictures)
        return [
            Measurement(
                digest,
                image.width,
                image.height,
                tuple(found),
                tuple(next(embedded) for _ in found),
                embedding,
                thumbnail(image),
                words,
                _generation_seconds(image),
            )
            for (digest, image), found, embedding, words in zip(
                images, detected, self.clip.encode_images(pictures), shown, strict=True
            )
        ]


class Measurer:
    """Measures the images of one evaluation folder with one set of models, on one device.

    Processes that share the work give themselves different `part` numbers; the one without a part comes last.
    """

    def __init__(
        self, folder: Path, models: MeasuringModels, *, part: int | None = None, batch_size: int | None = None
    ):
        self.folder, self.models = folder, models
        self.digest = json_digest(models.describe())
        self.journal = Journal(folder / "measurements.jsonl", part)
        self.batch_size = batch_size or measured_together(models.device)
        self.fitting = MemoryBound()

    def __call__(self, images: Sequence[str], *, progress: Progress | None = None) -> dict[str, Measurement | str]:
        """What can be said of each image (path below the folder), or the outcome that says why nothing can: `missing`,
        `unreadable`. `progress(done, total, image)` follows each batch; images the journal knows are not decoded."""
        measured: dict[str, Measurement | str] = {}
        with self.journal:
            for batch in self._read(images):
                measured |= self._measure(batch)
                if progress:
                    progress(len(measured), len(images), next(reversed(batch)))
        return {image: measured[image] for image in images}

    def _read(self, images: Sequence[str]) -> Iterator[dict[str, Measurement | str | _Opened]]:
        """The batches in order, each read by threads while the one before is measured."""
        with ThreadPoolExecutor(READERS) as pool:
            waiting = None
            for start in range(0, len(images), self.batch_size):
                batch = images[start : start + self.batch_size]
                following = {image: pool.submit(self._look, image) for image in batch}
                if waiting:
                    yield {image: future.result() for image, future in waiting.items()}
                waiting = following
            if waiting:
                yield {image: future.result() for image, future in waiting.items()}

    def _look(self, image: str) -> Measurement | str | _Opened:
        """What the journal knows of an image, else the opened image, else the outcome that says why not."""
        file = self.folder / image
        digest = file_digest(file) if file.is_file() else ""
        key = json_digest([digest, self.digest])
        known = self.journal.get(key)
        if known is not None:
            return Measurement.from_json(known)
        opened = open_image(file)
        return opened if isinstance(opened, str) else _Opened(digest, key, opened)

    def _measure(self, batch: Mapping[str, Measurement | str | _Opened]) -> dict[str, Measurement | str]:
        measured = {image: found for image, found in batch.items() if not isinstance(found, _Opened)}
        opened = [(image, found) for image, found in batch.items() if isinstance(found, _Opened)]
        for part, found in self.fitting(self._pass, opened):
            for (image, file), measurement in zip(part, found, strict=True):
                self.journal.add(file.key, measurement.to_json())
                measured[image] = measurement
        return measured

    def _pass(self, opened: Sequence[tuple[str, _Opened]]) -> list[Measurement]:
        return self.models([(file.digest, file.image) for _, file in opened])


def measured_together(device: str) -> int:
    """Images in one batch on a device; the next is read meanwhile."""
    return pixels.batch_size(torch.device(device), cpu=16, gpu=64)


@dataclass(frozen=True)
class _Opened:
    """A file that the journal does not know: its digest, its key in the journal, its pixels."""

    digest: str
    key: str
    image: Image.Image


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
