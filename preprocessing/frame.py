"""The records that travel through preprocessing: from a source's item to a frame, its faces and its person masks.

Arrays: R is the dataset's resolution; images uint8 [R, R, 3] RGB, label maps uint8 [R, R], masks bool [R, R]. Boxes are
`(x0, y0, x1, y1)` in pixels of the frame, end exclusive.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from preprocessing.errors import RejectionReason

OTHER_PERSON = 255  # label of a person who is no subject


class Box(NamedTuple):
    """`[x0, x1) x [y0, y1)` in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        return max(self.x1 - self.x0, 0) * max(self.y1 - self.y0, 0)


@dataclass(frozen=True)
class Contents:
    """What a source holds: pictures of each split, and how many pictures it leaves out, by their suffixes."""

    splits: Mapping[str, int]
    left_out: str = ""

    def __str__(self) -> str:
        listed = ", ".join(f"{number} {split}" for split, number in sorted(self.splits.items(), reverse=True))
        others = f"; left out: {self.left_out}" if self.left_out else ""
        return f"{sum(self.splits.values())} ({listed}){others}"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One picture of a source, not read yet.

    number: of a drawn picture; None: a file, whose name (path from the root, with slashes) never changes with its
    neighbours; sha256: None without a readable file; sidecars: (file name, digest) pairs.
    """

    number: int | None
    name: str
    split: str
    sha256: str | None
    licence: str
    author: str
    sidecars: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """The key of its sample in the shards: the number of a drawn picture, 16 hexadecimal digits for a file."""
        return f"{self.number:09d}" if self.number is not None else f"{self.name_hash:016x}"

    @property
    def name_hash(self) -> int:
        """64 bits that only the name decides."""
        return int.from_bytes(hashlib.sha256(os.fsencode(self.name)).digest()[:8], "big")


@dataclass(frozen=True, kw_only=True)
class Person:
    """One person of a sidecar annotation."""

    word: str | None
    mask_value: int
    identity: str | None
    face: Box | None


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What is known about an image before any model looks at it."""

    caption: str | None = None
    people: tuple[Person, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An upright RGB image as its source has it; labels uint8 [H, W] of the same size, boxes in its pixels."""

    image: Image.Image
    sha256: str
    labels: np.ndarray | None
    annotation: Annotation


@dataclass(frozen=True, kw_only=True)
class Frame:
    """An image in its stored form with what its source knows about it."""

    item: Item
    sha256: str
    image: np.ndarray
    labels: np.ndarray | None
    annotation: Annotation


@dataclass(frozen=True)
class Face:
    """A face; `person` is the index into the annotation's people where the source says whose it is."""

    box: Box
    probability: float
    person: int | None = None


@dataclass(frozen=True)
class PersonMask:
    """One person's pixels; `person` is the index into the annotation's people where the source says who it is."""

    mask: np.ndarray
    score: float
    person: int | None = None


@dataclass(frozen=True)
class Rejected:
    """A dropped image: a line of rejected.jsonl."""

    name: str
    reason: RejectionReason
    detail: str
