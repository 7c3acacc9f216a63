"""The people of a suite: reads their reference photographs from shards or from a folder.

Two views of one person are kept apart: `reference` is what the model is given (a crop without background where the
data set has one), `photo` is the whole picture, in which the face evaluator finds the face to compare with.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from moa.data import ShardDataset
from moa.errors import SuiteError
from moa.evaluation.suite import FolderSubjects, ShardSubjects, SubjectItem, Suite

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_PIXELS = 64_000_000  # larger photographs are taken for decompression bombs


@dataclass(frozen=True)
class SuiteSubject:
    """One person: `reference` RGB or RGBA and `photo` RGB, any size; `source` is the sample's key or the file below
    the root."""

    id: str
    word: str
    reference: Image.Image
    photo: Image.Image
    source: str

    @property
    def digest(self) -> str:
        """`sha256:<hex>` over the pixels of both views and the class word."""
        digest = hashlib.sha256(self.word.encode())
        for image in (self.reference, self.photo):
            digest.update(f"{image.mode}{image.size}".encode())
            digest.update(image.tobytes())
        return f"sha256:{digest.hexdigest()}"


def resolve_subjects(suite: Suite, *, shards: Path | None = None, images: Path | None = None) -> list[SuiteSubject]:
    """The suite's people with their photographs, in the suite's order.

    `shards` is the shard folder (kind `shards`), `images` overrides the declared root (kind `folder`). Raises
    `SuiteError` naming the suite, the field and the file when a person cannot be had, and the typed errors of
    `moa.data` for bad shards.
    """
    if isinstance(suite.subjects, ShardSubjects):
        if shards is None:
            raise SuiteError(f"suite {suite.name}: subjects come from shards; say which with --shards FOLDER")
        return _from_shards(suite, suite.subjects, shards)
    return [resolve_item(suite.name, suite.subjects, item, images) for item in suite.subjects.items]


def _from_shards(suite: Suite, declared: ShardSubjects, folder: Path) -> list[SuiteSubject]:
    """The first `count` identities that stand alone: with a second person in the picture, whose face is it?"""
    dataset = ShardDataset(folder, declared.split)
    found: dict[str, SuiteSubject] = {}
    for i in range(len(dataset)):
        sample = dataset[i]
        if len(sample.subjects) != 1 or 255 in sample.mask:
            continue
        person = sample.meta["subjects"][0]
        name = re.sub(r"[^A-Za-z0-9_.\-]", "-", person.get("identity") or sample.key).lstrip(".-")
        photo = Image.fromarray(sample.image)
        found.setdefault(name, SuiteSubject(name, person["word"], sample.subjects[0], photo, sample.key))
        if len(found) == declared.count:
            return list(found.values())
    raise SuiteError(
        f"suite {suite.name}: subjects.count is {declared.count}, but split {declared.split!r} of {folder} shows only "
        f"{len(found)} people alone in their picture; lower the count or preprocess more images"
    )


def resolve_item(name: str, declared: FolderSubjects, item: SubjectItem, images: Path | None) -> SuiteSubject:
    """One person of the suite `name`; `images` overrides the declared root. Raises `SuiteError`."""
    root = images or (Path(declared.root) if declared.root else None)
    if root is None:
        raise SuiteError(f"suite {name}: subjects.root is not declared; name the folder with --images FOLDER")
    field = f"suite {name}: subjects.items.{item.id}.image"
    path = find_photo(root / item.image)
    if path is None:
        raise SuiteError(f"{field}: {root / item.image} holds no photograph; is it the right folder (--images)?")
    photo = open_photo(path, field)
    return SuiteSubject(item.id, item.word, photo, photo, path.relative_to(root).as_posix())


def find_photo(path: Path) -> Path | None:
    """`path` itself when it is a file; the first photograph by name when it is a folder; else None."""
    if path.is_file():
        return path
    photos = sorted(p for p in path.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    return photos[0] if photos else None


def open_photo(path: Path, field: str) -> Image.Image:
    """The photograph as RGB. Raises `SuiteError` naming `field` and the file when it cannot be decoded or is far too
    large.

    Neither EXIF rotation nor resizing is applied: the published protocol scores the stored pixels.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise SuiteError(f"{field}: {path} has {image.width}x{image.height} pixels; scale it down first")
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SuiteError(f"{field}: {path} cannot be read as an image ({error})") from error
