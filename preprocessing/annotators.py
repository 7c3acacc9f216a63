"""The annotators of a declaration: what says of each frame its caption, its faces and its people's masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from preprocessing.captions import Captioner, load_captioner
from preprocessing.config import Blip2Captions, DatasetConfig, Mask2FormerSegmentation, MtcnnFaces
from preprocessing.faces import FaceFinder, load_face_finder
from preprocessing.frame import Face, Frame, PersonMask, Rejected
from preprocessing.samples import Annotated
from preprocessing.segmentation import Segmenter, load_segmenter

Described = tuple[str, list[Face], list[PersonMask]]  # a frame's caption, faces and masks
Describe = Callable[[list[Frame]], list[Described]]


def computes(config: DatasetConfig) -> bool:
    """Whether any annotator computes on a device; the others read or draw."""
    parts = (config.captions, config.segmentation, config.faces)
    return any(isinstance(part, Blip2Captions | Mask2FormerSegmentation | MtcnnFaces) for part in parts)


@dataclass(frozen=True, kw_only=True)
class Annotators:
    """The models of a declaration, ready to work."""

    captioner: Captioner
    face_finder: FaceFinder
    segmenter: Segmenter

    @classmethod
    def load(cls, config: DatasetConfig, device: str) -> Annotators:
        """Load those of a declaration that names folders of models (`located`). Raises MissingWeightsError,
        MissingDependencyError."""
        return cls(
            captioner=load_captioner(config.captions, device),
            face_finder=load_face_finder(config.faces, device),
            segmenter=load_segmenter(config.segmentation, device),
        )

    def describe(self, frames: list[Frame]) -> list[Described]:
        """What they say of each frame."""
        captions = self.captioner.caption(frames)
        faces = self.face_finder.find(frames)
        masks = self.segmenter.segment(frames, faces)
        return list(zip(captions, faces, masks, strict=True))


def annotated(describe: Describe, loaded: list[Frame | Rejected]) -> list[Annotated | Rejected]:
    """The frames among `loaded`, described; what was dropped passes through."""
    described = iter(describe([frame for frame in loaded if isinstance(frame, Frame)]))
    return [result if isinstance(result, Rejected) else _annotated(result, *next(described)) for result in loaded]


def _annotated(frame: Frame, caption: str, faces: list[Face], masks: list[PersonMask]) -> Annotated:
    return Annotated(frame=frame, caption=caption, faces=faces, masks=masks)
