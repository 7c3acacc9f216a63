"""Annotations that lie beside an image: `<stem>.json` and `<stem>.mask.png` (datasets/FORMAT.md, section 3)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preprocessing.config import DatasetConfig
from preprocessing.errors import Rejection
from preprocessing.frame import Annotation, Box, Person


class PersonEntry(BaseModel):
    """One entry of `people`."""

    model_config = ConfigDict(extra="ignore", strict=True)
    word: str | None = Field(default=None, min_length=1)
    mask_value: int = Field(ge=1, le=254)
    identity: str | None = None
    face: list[float] | None = Field(default=None, min_length=4, max_length=4)


class SidecarFile(BaseModel):
    """The whole `<stem>.json`."""

    model_config = ConfigDict(extra="ignore", strict=True)
    caption: str | None = Field(default=None, min_length=1)
    people: list[PersonEntry] = []
    attributes: dict[str, Any] = {}


def parse_annotation(data: bytes | dict[str, Any]) -> Annotation:
    """Check the JSON of one image. Raises Rejection("bad_annotation") that names the field."""
    try:
        values = data if isinstance(data, dict) else json.loads(data, parse_constant=_no_constants, parse_float=_finite)
        parsed = SidecarFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise Rejection("bad_annotation", f"{where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise Rejection("bad_annotation", f"not valid JSON: {error}") from error
    values = [entry.mask_value for entry in parsed.people]
    if len(set(values)) != len(values):
        raise Rejection("bad_annotation", f"people: two of them share a mask_value in {values}")
    people = tuple(
        Person(
            word=entry.word,
            mask_value=entry.mask_value,
            identity=entry.identity,
            face=Box(*entry.face) if entry.face else None,
        )
        for entry in parsed.people
    )
    return Annotation(caption=parsed.caption, people=people, attributes=parsed.attributes)


def check_annotation(config: DatasetConfig, annotation: Annotation, labels: np.ndarray | None) -> None:
    """Whether an image has what the declaration's sidecar annotators need; `labels` in the original's size.

    Raises Rejection: `bad_annotation` for a missing part, `word_mask_mismatch` for a person without a pixel.
    """
    if config.captions.kind == "sidecar" and annotation.caption is None:
        raise Rejection("bad_annotation", "no caption in the JSON file beside the image")
    if config.segmentation.kind != "sidecar":
        return
    if labels is None:
        raise Rejection("bad_annotation", "no .mask.png beside the image")
    present = set(np.unique(labels).tolist())
    for person in annotation.people:
        if person.mask_value not in present:
            raise Rejection("word_mask_mismatch", f"mask value {person.mask_value} ({person.word}) is not in the mask")


def _no_constants(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """JSON has a notation for numbers that a float cannot hold, and none for what they would become."""
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text} is too large")
