"""Segmenters: frames and their faces -> person masks.

`sidecar` reads them, `mask2former` finds them, `head_and_shoulders` draws them.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from PIL import Image

from preprocessing.config import HeadAndShouldersSegmentation, Mask2FormerSegmentation, SegmentationConfig
from preprocessing.errors import MissingDependencyError, PreprocessingError
from preprocessing.frame import OTHER_PERSON, Box, Face, Frame, PersonMask

PERSON = "person"


class Segmenter(Protocol):
    """Says which pixels are a person."""

    def segment(self, frames: list[Frame], faces: list[list[Face]]) -> list[list[PersonMask]]:
        """The masks of each frame, one for each person found, none empty."""
        ...


class SidecarSegmenter:
    """The label map beside the image. People whose pixels the square crop has cut off are gone."""

    def segment(self, frames: list[Frame], faces: list[list[Face]]) -> list[list[PersonMask]]:
        return [self._masks(frame) for frame in frames]

    def _masks(self, frame: Frame) -> list[PersonMask]:
        assert frame.labels is not None  # loading has checked it
        persons = {person.mask_value: number for number, person in enumerate(frame.annotation.people)}
        present = [value for value in np.unique(frame.labels).tolist() if value not in (0, OTHER_PERSON)]
        return [PersonMask(frame.labels == value, 1.0, persons.get(value)) for value in present]


class Mask2FormerSegmenter:
    """Mask2Former's panoptic segments of the class named "person". float32; image processing by Pillow."""

    def __init__(self, config: Mask2FormerSegmentation, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        from preprocessing.weights import load_pretrained

        self._config, self._device = config, torch.device(device)
        self._processor = load_pretrained(AutoImageProcessor.from_pretrained, config.model, backend="pil")
        model: Any = load_pretrained(
            Mask2FormerForUniversalSegmentation.from_pretrained, config.model, use_safetensors=True
        )
        self._persons = {number for number, label in model.config.id2label.items() if label.lower() == PERSON}
        if not self._persons:
            labels = ", ".join(list(model.config.id2label.values())[:8])
            raise PreprocessingError(f"{config.model}: has no class named person (classes: {labels}, ...)")
        self._model = model.to(self._device).eval()

    def segment(self, frames: list[Frame], faces: list[list[Face]]) -> list[list[PersonMask]]:
        from preprocessing.weights import in_batches

        return in_batches(self._batch, [Image.fromarray(frame.image) for frame in frames], self._config.batch_size)

    def _batch(self, images: list[Image.Image]) -> list[list[PersonMask]]:
        import torch

        inputs = self._processor(images=images, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        results = self._processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self._config.threshold,
            label_ids_to_fuse=set(),
            target_sizes=[image.size[::-1] for image in images],
        )
        return [self._masks(result) for result in results]

    def _masks(self, result: dict[str, Any]) -> list[PersonMask]:
        """Segments of one image. Compared by id before any cast: the map is -1 everywhere when nothing was found."""
        segments = result["segmentation"].cpu().numpy()
        found = [
            PersonMask(segments == info["id"], float(info["score"]))
            for info in result["segments_info"]
            if info["label_id"] in self._persons
        ]
        return [person for person in found if person.mask.any()]


class HeadAndShouldersSegmenter:
    """A head and a torso drawn around each face box, for portraits where no segmentation model is at hand.

    Proportions of the face box (width w, height h; MTCNN's goes from eyebrows to chin, ear to ear): the head with its
    hair is an ellipse of 1.44 w x 1.6 h, the shoulders rise 0.3 h below the chin, are 3.6 w wide and the torso ends
    2.5 h below the chin. Hats, long hair and arms are lost.
    """

    def segment(self, frames: list[Frame], faces: list[list[Face]]) -> list[list[PersonMask]]:
        return [
            [PersonMask(silhouette(face.box, frame.image.shape[0]), face.probability, face.person) for face in found]
            for frame, found in zip(frames, faces, strict=True)
        ]


def silhouette(face: Box, side: int) -> np.ndarray:
    """Head and shoulders of a face as a mask bool [side, side]."""
    width, height = face.x1 - face.x0, face.y1 - face.y0
    cx, cy = (face.x0 + face.x1) / 2, (face.y0 + face.y1) / 2
    y, x = np.mgrid[:side, :side] + 0.5
    head = _ellipse(x, y, cx, cy - 0.12 * height, 0.72 * width, 0.8 * height)
    neck = (abs(x - cx) < 0.45 * width) & (y >= cy) & (y < face.y1 + height)
    shoulder_line = face.y1 + 1.3 * height
    shoulders = _ellipse(x, y, cx, shoulder_line, 1.8 * width, 1.0 * height)
    torso = (abs(x - cx) < 1.8 * width) & (y >= shoulder_line) & (y < face.y1 + 2.5 * height)
    return head | neck | shoulders | torso


def load_segmenter(config: SegmentationConfig, device: str) -> Segmenter:
    """The segmenter of a declaration, ready to work. Raises MissingWeightsError, MissingDependencyError."""
    if isinstance(config, Mask2FormerSegmentation):
        try:
            return Mask2FormerSegmenter(config, device)
        except ImportError as error:
            raise MissingDependencyError(
                f"segmentation.kind mask2former needs torch, transformers and scipy: {error}"
            ) from error
    return HeadAndShouldersSegmenter() if isinstance(config, HeadAndShouldersSegmentation) else SidecarSegmenter()


def _ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
