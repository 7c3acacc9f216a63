"""Face finders: frames -> faces, largest first. `sidecar` reads them, `mtcnn` looks for them, `none` does not."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from PIL import Image

from preprocessing.config import FacesConfig, MtcnnFaces, SidecarFaces
from preprocessing.errors import MissingDependencyError, MissingWeightsError
from preprocessing.frame import Box, Face, Frame

BATCH = 16


class FaceFinder(Protocol):
    """Says where faces are."""

    def find(self, frames: list[Frame]) -> list[list[Face]]:
        """The faces of each frame, largest first, boxes within the frame."""
        ...


class NoFaceFinder:
    """Finds nothing."""

    def find(self, frames: list[Frame]) -> list[list[Face]]:
        return [[] for _ in frames]


class SidecarFaceFinder:
    """The face boxes of the people in the annotation."""

    def find(self, frames: list[Frame]) -> list[list[Face]]:
        return [
            _largest_first(
                [
                    Face(person.face, 1.0, number)
                    for number, person in enumerate(frame.annotation.people)
                    if person.face is not None
                ]
            )
            for frame in frames
        ]


class MtcnnFaceFinder:
    """MTCNN of facenet-pytorch (Zhang et al. 2016), weights from its package.

    All frames have one size, as its batches demand; `keep_all`, because the single-face path fails on a batch that
    holds an image without a face.
    """

    def __init__(self, config: MtcnnFaces, device: str) -> None:
        from facenet_pytorch import MTCNN

        self._config = config
        try:
            self._detector = MTCNN(keep_all=True, min_face_size=config.min_face, post_process=False, device=device)
        except FileNotFoundError as error:
            raise MissingWeightsError(
                f"{error.filename}: facenet-pytorch was installed without its weights; reinstall facenet-pytorch==2.5.3"
            ) from error

    def find(self, frames: list[Frame]) -> list[list[Face]]:
        from preprocessing.weights import in_batches

        return in_batches(self._batch, [frame.image for frame in frames], BATCH)

    def _batch(self, images: list[np.ndarray]) -> list[list[Face]]:
        boxes, probabilities = self._detector.detect([Image.fromarray(image) for image in images])
        side = images[0].shape[0]
        return [self._faces(*found, side) for found in zip(boxes, probabilities, strict=True)]

    def _faces(self, boxes: np.ndarray | None, probabilities: np.ndarray, side: int) -> list[Face]:
        """One image's findings; `boxes` is None, or an array whose type may be object, where nothing was found."""
        if boxes is None:
            return []
        faces = [
            Face(Box(*(min(max(float(v), 0.0), float(side)) for v in box)), float(probability))
            for box, probability in zip(boxes, probabilities, strict=True)
            if probability >= self._config.min_probability
        ]
        return _largest_first([face for face in faces if face.box.area >= 1])


def load_face_finder(config: FacesConfig, device: str) -> FaceFinder:
    """The face finder of a declaration, ready to work. Raises MissingDependencyError, MissingWeightsError."""
    if isinstance(config, MtcnnFaces):
        try:
            return MtcnnFaceFinder(config, device)
        except ImportError as error:
            raise MissingDependencyError(
                f"faces.kind mtcnn needs facenet-pytorch (pip install facenet-pytorch==2.5.3): {error}"
            ) from error
    return SidecarFaceFinder() if isinstance(config, SidecarFaces) else NoFaceFinder()


def _largest_first(faces: list[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: -face.box.area)
