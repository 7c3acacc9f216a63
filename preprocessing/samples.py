"""From an annotated frame to a sample: the member files of one image in a shard (datasets/FORMAT.md, section 2)."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from preprocessing.binding import BoundCaption, bind, match_faces
from preprocessing.config import DatasetConfig
from preprocessing.errors import Rejection
from preprocessing.frame import Box, Face, Frame, PersonMask, Rejected
from preprocessing.subjects import label_map, mask_box, subject_crop

JPEG_QUALITY = 95
WEBP_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A frame with everything the annotators said about it."""

    frame: Frame
    caption: str
    faces: list[Face]
    masks: list[PersonMask]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Member files by suffix, sorted; `metadata` is the content of the json member.

    side: pixels of the square image; brightness: its mean value, 0..255.
    """

    key: str
    members: tuple[tuple[str, bytes], ...]
    metadata: dict[str, Any]
    side: int
    brightness: float


def build_sample(config: DatasetConfig, annotated: Annotated) -> Sample | Rejected:
    """Bind the caption, cut the subjects, encode the members."""
    frame = annotated.frame
    try:
        return _build(config, annotated)
    except Rejection as rejection:
        return Rejected(frame.item.name, rejection.reason, rejection.detail)
    except Exception as error:
        error.add_note(f"while writing {frame.item.name}")
        raise


def _build(config: DatasetConfig, annotated: Annotated) -> Sample:
    frame = annotated.frame
    if config.segmentation.kind == "head_and_shoulders" and not annotated.faces:
        raise Rejection("no_face", "no face was found, and masks are drawn below faces")
    bound = bind(config, annotated.caption, annotated.masks, frame.annotation)
    faces = match_faces(bound.masks, annotated.faces)
    if config.require_face and None in faces:
        raise Rejection("no_face", f"no face for the subject {bound.words[faces.index(None)].text!r}")
    labels = label_map([m.mask for m in bound.masks], [m.mask for m in bound.others], config.resolution)
    visible = [labels == index + 1 for index in range(len(bound.masks))]
    for mask, word in zip(visible, bound.words, strict=True):
        if not mask.any():
            raise Rejection("word_mask_mismatch", f"{word.text!r} is wholly covered by others")
    metadata = _metadata(config, frame, bound, visible, faces)
    members = _encode(config, frame.image, labels, visible, metadata)
    return Sample(
        key=frame.item.key,
        members=members,
        metadata=metadata,
        side=config.resolution,
        brightness=float(frame.image.mean()),
    )


def _metadata(
    config: DatasetConfig, frame: Frame, bound: BoundCaption, visible: list[np.ndarray], faces: list[Face | None]
) -> dict[str, Any]:
    people = frame.annotation.people
    owners = [mask.person for mask in bound.masks]
    subjects = [
        {
            "index": index,
            "word": word.text,
            "start": word.start,
            "end": word.end,
            "box": mask_box(mask),
            "area": round(float(mask.mean()), 6),
            "face": face and {"box": _pixels(face.box), "probability": round(face.probability, 4)},
            "identity": None if owner is None else people[owner].identity,
        }
        for index, (word, mask, face, owner) in enumerate(zip(bound.words, visible, faces, owners, strict=True))
    ]
    item = frame.item
    return {
        "key": item.key,
        "caption": bound.caption,
        "caption_source": config.captions.kind,
        "caption_repaired": bound.repaired,
        "subjects": subjects,
        "attributes": _attributes(frame, owners),
        "source": {"name": item.name, "sha256": frame.sha256, "licence": item.licence, "author": item.author},
    }


def _attributes(frame: Frame, owners: list[int | None]) -> dict[str, Any]:
    """The source's attributes; where they list people, the list follows the subjects."""
    attributes = dict(frame.annotation.attributes)
    listed = attributes.get("people")
    if isinstance(listed, list) and len(listed) == len(frame.annotation.people):
        attributes["people"] = [None if owner is None else listed[owner] for owner in owners]
    return attributes


def _pixels(box: Box) -> list[int]:
    """The whole pixels that a box touches."""
    return [math.floor(box.x0), math.floor(box.y0), math.ceil(box.x1), math.ceil(box.y1)]


def _encode(
    config: DatasetConfig, image: np.ndarray, labels: np.ndarray, visible: list[np.ndarray], metadata: dict[str, Any]
) -> tuple[tuple[str, bytes], ...]:
    """All member files, sorted by suffix. Lossless crops beside lossless images, lossy ones beside JPEG."""
    lossless = config.image_format == "png"
    picture = Image.fromarray(image)
    members = {
        "json": json.dumps(metadata, sort_keys=True, allow_nan=False).encode(),
        "mask.png": _bytes(Image.fromarray(labels), "PNG"),
        f"image.{config.image_format}": _bytes(picture, "PNG")
        if lossless
        else _bytes(picture, "JPEG", quality=JPEG_QUALITY, subsampling=0),
    }
    for index, mask in enumerate(visible):
        crop = subject_crop(image, mask, size=config.crop_size, margin=config.crop_margin)
        members[f"subject{index}.webp"] = _bytes(crop, "WEBP", lossless=lossless, exact=True, quality=WEBP_QUALITY)
    return tuple(sorted(members.items()))


def _bytes(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
