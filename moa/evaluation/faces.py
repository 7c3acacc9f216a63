"""Face detection and identity embedding, the models behind IP.

`FacenetFaces` is FastComposer's protocol to the letter (evaluation/single_object of mit-han-lab/fastcomposer): MTCNN
with its thresholds, the largest face, a 160 px bilinear crop without margin, InceptionResnetV1 trained on VGGFace2.
`MiniatureFaces` does the same job in the miniature world. Both detect and embed in batches, and an image without a
face is an answer, not an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from moa.evaluation.metrics import PersonBox
from moa.evaluation.pixels import batch_size, by_size, stacked
from moa.evaluation.suite import FaceModel
from moa.evaluation.weights import checked_digest, reading
from moa.mtcnn import FACTOR, SMALLEST_FACE, THRESHOLDS, FaceCascade

VGGFACE2_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"
VGGFACE2_SHA256 = "sha256:281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b"
CROP = 160  # pixels; InceptionResnetV1's input
MTCNN_SETTINGS = {  # FastComposer's, in facenet-pytorch's names
    "image_size": CROP,
    "margin": 0,
    "min_face_size": SMALLEST_FACE,
    "thresholds": list(THRESHOLDS),
    "factor": FACTOR,
    "post_process": True,
    "keep_all": True,
}
# Hair reaches 0.9 face widths to either side and 0.6 heights up, shoulders and arms 1.75 widths; a grown-up is 7.5 to 8
# heads tall. Of the 15 CelebA photographs it covers one whole (the face is 57 % of the width); a box as wide as the
# shoulders up to the hair would cover 10, and leave nothing of the scene to be compared.
REAL_PERSON = PersonBox(head=0.9, side=1.75, above=0.6, below=7.0)
# Miniature people are 2.3 heads tall. Measured on 251 held-out pictures of one person with the faces this model finds:
# the box holds 99 % of the person's pixels (97 % at the 5th percentile) and 24 % of the background.
MINIATURE_PERSON = PersonBox(head=0.8, side=0.8, above=0.2, below=1.2)


@dataclass(frozen=True)
class Face:
    """A detected face: `box` is `(x0, y0, x1, y1)` in pixels, not clipped to the image; `probability` is 0..1."""

    box: tuple[float, float, float, float]
    probability: float

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


class FaceEvaluator(Protocol):
    """What the scoring asks of a face model. `person` says how far the people of its world reach around a face."""

    person: PersonBox

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Faces of each image, largest first; an empty list where there is none. Images may differ in size and mode."""

    def embed(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`, of one face in each image."""

    def describe(self) -> dict:
        """What was measured with: JSON-able, written into the results."""


def load_faces(model: FaceModel, device: str = "cpu") -> FaceEvaluator:
    """The face evaluator that a suite declares. Raises `EvaluatorWeightsError` when its weights are missing or not
    the right ones."""
    if model.kind == "facenet":
        return FacenetFaces.from_weights(Path(model.path), sha256=model.sha256 or VGGFACE2_SHA256, device=device)
    return MiniatureFaces.from_folder(Path(model.path), sha256=model.sha256)


class MtcnnDetector:
    """MTCNN with FastComposer's settings (`moa.mtcnn`); its weights come with facenet-pytorch.

    How many `images` it sees in one pass changes boxes by less than 1e-4 px and face crops not at all, save for a box
    edge that lies within that of a whole pixel.
    """

    def __init__(self, *, device: str = "cpu", images: int | None = None):
        self.device = torch.device(device)
        self.batch_size = images or batch_size(self.device, cpu=8, gpu=64)
        self.cascade = FaceCascade(self.device)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Faces of each image, largest first."""
        faces: list[list[Face]] = [[] for _ in images]
        for batch in self._batches(images):
            found = self.cascade.detect(stacked([images[i] for i in batch], self.device))
            for i, rows in zip(batch, found, strict=True):
                faces[i] = [face for face in (_face(row[:4], row[4]) for row in rows) if _has_pixels(face, images[i])]
        return faces

    def _batches(self, images: Sequence[Image.Image]) -> Iterator[list[int]]:
        """Indices of images of one size."""
        for indices in by_size(images).values():
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]


class FacenetFaces:
    """MTCNN and InceptionResnetV1 of facenet-pytorch, as FastComposer uses them.

    `embedder` maps `[n, 3, 160, 160]` to unit vectors `[n, d]`; `weights` says which it is.
    """

    person = REAL_PERSON

    def __init__(self, embedder: torch.nn.Module, *, device: str = "cpu", weights: str = "random"):
        self.device, self.weights = torch.device(device), weights
        self.detector, self.batch_size = MtcnnDetector(device=device), batch_size(self.device, cpu=8, gpu=64)
        self.embedder = embedder.eval().to(self.device)

    @classmethod
    def from_weights(cls, path: Path, *, sha256: str | None = VGGFACE2_SHA256, device: str = "cpu") -> FacenetFaces:
        """Loads a state dict of InceptionResnetV1 from a local file, after checking its sha256 (None: any). Nothing is
        ever downloaded."""
        from facenet_pytorch import InceptionResnetV1

        remedy = f"download {VGGFACE2_URL} (111,898,327 bytes)"
        found, embedder = checked_digest(path, sha256, remedy, "faces"), InceptionResnetV1()
        with reading(path, remedy):
            state = torch.load(path, map_location="cpu", weights_only=True)
            # the classification head over VGGFace2's 8,631 people takes no part in the embedding
            embedder.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits.")})
        return cls(embedder, device=device, weights=found)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Faces of each image, largest first."""
        return self.detector.detect(images)

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """Unit embeddings, float32 `[n, 512]`, of one face in each image."""
        crops = [torch.from_numpy(face_crop(image, face)) for image, face in zip(images, faces, strict=True)]
        batches = [torch.stack(crops[i : i + self.batch_size]) for i in range(0, len(crops), self.batch_size)]
        parts = [self.embedder(batch.to(self.device)).float() for batch in batches]
        return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 512), np.float32)

    def describe(self) -> dict:
        return {
            "name": "FaceNet (MTCNN, InceptionResnetV1 VGGFace2)",
            "weights": self.weights,
            "detector": MTCNN_SETTINGS,
            "person": asdict(self.person),
        }


class MiniatureFaces:
    """The identity model of the miniature world behind the same interface."""

    person = MINIATURE_PERSON

    def __init__(self, model, *, weights: str):
        self.model, self.weights = model, weights

    @classmethod
    def from_folder(cls, folder: Path, *, sha256: str | None = None) -> MiniatureFaces:
        """Loads the identity model's folder (`zoo/identity`)."""
        from moa.zoo.identity import MiniatureFaces as IdentityModel

        remedy = "the identity model ships in zoo/identity"
        found = checked_digest(folder / "model.safetensors", sha256, remedy, "faces")
        checked_digest(folder / "config.json", None, remedy, "faces")
        with reading(folder, remedy):
            return cls(IdentityModel.from_pretrained(folder), weights=found)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Face]]:
        """Faces of each image, largest first."""
        detected = self.model.detect([image.convert("RGB") for image in images])
        return [[_face(box, probability) for box, probability in faces] for faces in detected]

    def embed(self, images: Sequence[Image.Image], faces: Sequence[Face]) -> np.ndarray:
        """Unit embeddings, float32 `[n, d]`, of one face in each image."""
        return self.model.embed([image.convert("RGB") for image in images], [face.box for face in faces])

    def describe(self) -> dict:
        return {"name": "Miniature identity model", "weights": self.weights, "person": asdict(self.person)}


def _face(box: Sequence[float], probability: float) -> Face:
    x0, y0, x1, y1 = map(float, box)
    return Face((x0, y0, x1, y1), float(probability))


def face_crop(image: Image.Image, face: Face) -> np.ndarray:
    """The embedder's input for a face: float32 `[3, 160, 160]`, (x - 127.5) / 128 of the bilinear resize of the box,
    whose corners are clipped to the image and cut to whole pixels towards zero (facenet_pytorch.extract_face with
    margin 0)."""
    crop = image.convert("RGB").crop(_pixel_box(face, image)).resize((CROP, CROP), Image.Resampling.BILINEAR)
    return (np.asarray(crop, np.float32).transpose(2, 0, 1) - 127.5) / 128.0


def _pixel_box(face: Face, image: Image.Image) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = face.box
    return int(max(x0, 0)), int(max(y0, 0)), int(min(x1, image.width)), int(min(y1, image.height))


def _has_pixels(face: Face, image: Image.Image) -> bool:
    """Whether the box covers at least one pixel of the image (the detector may place a box on its very edge)."""
    x0, y0, x1, y1 = _pixel_box(face, image)
    return x1 > x0 and y1 > y0
