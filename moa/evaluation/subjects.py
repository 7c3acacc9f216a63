"""The people of a suite: reads their reference photographs from shards or from a folder.

Three views of one person are kept apart: `reference` is what the model is given (a crop without background where the
data set has one), `photo` is the whole picture, in which the face evaluator finds the face to compare with, and `other`
is a second photograph, whose similarity to the first is the most that a perfect image could reach.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from moa.data import NO_SUBJECT, Sample, ShardDataset, unchanging
from moa.errors import PersonNotFoundError, SuiteError
from moa.evaluation.faces import FaceEvaluator
from moa.evaluation.files import file_name
from moa.evaluation.metrics import identity_preservation
from moa.evaluation.preparer import load_preparer
from moa.evaluation.suite import ShardSubjects, SubjectItem, Suite
from moa.preparation import SubjectPreparer, is_photograph, prepared
from moa.subjects import upright

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
IMAGES = "--images FOLDER (in a flow: --set evaluate.images=FOLDER)"
BEHIND = (128, 128, 128)  # what a face finder and a reader see where a cut-out is transparent
MAX_PIXELS = 64_000_000  # larger photographs are taken for decompression bombs


@dataclass(frozen=True)
class SuiteSubject:
    """One person: `reference` RGB or RGBA and `photo` RGB, any size; `source` is the sample's key or the file below
    the root; `other` another photograph of the same person, None where the data set has none.

    Where the photograph cannot be had, `problem` says why, and there is neither reference nor photo: no image is made
    of such a person, and the others are scored.
    """

    id: str
    word: str
    reference: Image.Image | None
    photo: Image.Image | None
    source: str
    other: Image.Image | None = None
    problem: str | None = None

    @property
    def usable(self) -> bool:
        return self.problem is None

    @cached_property
    def digest(self) -> str | None:
        """`sha256:<hex>` over the class word and the pixels of `reference` and `photo`: what images and scores depend
        on. None without a photograph."""
        return _digest(self.word, self.reference, self.photo) if self.reference and self.photo else None

    @cached_property
    def other_digest(self) -> str | None:
        """`sha256:<hex>` over the pixels of `other`, on which the upper bound alone depends."""
        return _digest("", self.other) if self.other else None


def _digest(word: str, *images: Image.Image) -> str:
    digest = hashlib.sha256(word.encode())
    for image in images:
        digest.update(f"{image.mode}{image.size}".encode())
        digest.update(image.tobytes())
    return f"sha256:{digest.hexdigest()}"


def resolve_subjects(
    suite: Suite, *, shards: Path | None = None, images: Path | None = None, segmenter: Path | None = None
) -> list[SuiteSubject]:
    """The suite's people with their photographs, in the suite's order.

    `shards` is the shard folder (kind `shards`), whose people are cut out already. `images` overrides the declared root
    (kind `folder`), `segmenter` is the Mask2Former that cuts people out of its photographs (`load_preparer`). A
    photograph in it that is missing or unreadable is its person's `problem`. Raises `SuiteError` naming the suite and
    the field when the folder is not there, the shards show too few people or two class words differ in capital letters
    alone, `PreparerWeightsError`, and the typed errors of `moa.data` for bad shards.
    """
    people = _people(suite, shards, images, segmenter)
    words: dict[str, str] = {}
    for word in (person.word for person in people):
        if (other := words.setdefault(word.lower(), word)) != word:
            raise SuiteError(
                f"suite {suite.name}: the class words {other!r} and {word!r} differ in capital letters alone, which "
                "some disks do not tell apart: write them in one way"
            )
    return people


def _people(suite: Suite, shards: Path | None, images: Path | None, segmenter: Path | None) -> list[SuiteSubject]:
    if isinstance(suite.subjects, ShardSubjects):
        if shards is None:
            raise SuiteError(f"suite {suite.name}: subjects come from shards; say which with --shards FOLDER")
        with unchanging(shards, logger.warning):
            return _from_shards(suite, suite.subjects, shards)
    root = images or (Path(suite.subjects.root) if suite.subjects.root else None)
    if root is None:
        raise SuiteError(f"suite {suite.name}: subjects.root is not declared; name the folder with {IMAGES}")
    if not root.is_dir():
        raise SuiteError(f"suite {suite.name}: subjects.root: {root} is no folder; name the right one with {IMAGES}")
    preparer = load_preparer(segmenter)
    return [_from_folder(item, root, preparer) for item in suite.subjects.items]


def _from_shards(suite: Suite, declared: ShardSubjects, folder: Path) -> list[SuiteSubject]:
    """The first `count` identities that stand alone: with a second person in the picture, whose face is it?

    A later sample of the same identity is their other photograph; the split is read until each has one. People without
    an identity are met once by definition.
    """
    dataset = ShardDataset(folder, declared.split)
    found: dict[str, SuiteSubject] = {}
    awaited: set[str] = set()
    for i in range(len(dataset)):
        if len(found) == declared.count and not awaited:
            break
        sample = dataset[i]
        if not _stands_alone(sample, declared.where):
            continue
        person = sample.meta["subjects"][0]
        who = person.get("identity") or sample.key
        photo = Image.fromarray(sample.image)
        if who in awaited:
            found[who] = replace(found[who], other=photo)
            awaited.remove(who)
        elif who not in found and len(found) < declared.count:
            name = file_name(who, taken={subject.id.lower() for subject in found.values()})
            found[who] = SuiteSubject(name, person["word"], sample.subjects[0], photo, sample.key)
            awaited |= {who} if person.get("identity") else set()
    if len(found) < declared.count:
        whom = f" with {declared.where}" if declared.where else ""
        raise SuiteError(
            f"suite {suite.name}: subjects.count is {declared.count}, but split {declared.split!r} of {folder} shows "
            f"only {len(found)} people alone in their picture{whom}; lower the count or preprocess more images"
        )
    return list(found.values())


def _stands_alone(sample: Sample, where: dict[str, str | None]) -> bool:
    """Whether the sample shows one person only, and it or the person has the wanted attributes."""
    if len(sample.subjects) != 1 or NO_SUBJECT in sample.mask:
        return False
    attributes: dict[str, Any] = sample.meta.get("attributes") or {}
    known = attributes | (attributes.get("people") or [{}])[0]
    return all(
        known.get(name) is None if value is None else str(known.get(name)) == value for name, value in where.items()
    )


def _from_folder(item: SubjectItem, root: Path, preparer: SubjectPreparer) -> SuiteSubject:
    """One person of a folder of photographs, or their problem. A second photograph that cannot be read is none."""
    paths = find_photos(root / item.image)[:2]
    source = paths[0].relative_to(root).as_posix() if paths else item.image
    opened = [open_photo(path) for path in paths] or ["holds no photograph"]
    if isinstance(opened[0], str):
        problem = f"subjects.items.{item.id}.image: {source} {opened[0]}"
        return SuiteSubject(item.id, item.word, None, None, source, problem=problem)
    other = next((_opaque(photo) for photo in opened[1:] if not isinstance(photo, str)), None)
    reference = _cut_out(opened[0], item.id, preparer)
    return SuiteSubject(item.id, item.word, reference, _opaque(opened[0]), source, other)


def _cut_out(photo: Image.Image, subject: str, preparer: SubjectPreparer) -> Image.Image:
    """What the model is given of a photograph; all of it when nobody is found, and then the scores say so."""
    try:
        return prepared(photo, preparer, subject)
    except PersonNotFoundError:
        return photo


def _opaque(photo: Image.Image) -> Image.Image:
    """As RGB, a cut-out before `BEHIND`."""
    if photo.mode == "RGB":
        return photo
    return Image.alpha_composite(Image.new("RGBA", photo.size, BEHIND), photo).convert("RGB")


def choose_pairs(suite: Suite, subjects: Sequence[SuiteSubject]) -> list[tuple[SuiteSubject, SuiteSubject]]:
    """The `pairs.count` pairs of a suite, each in the order of its subjects; none when it declares no pairs.

    Everybody is in nearly equally many pairs; `count` n (n - 1) / 2 is all of them. Raises `SuiteError` when
    there are fewer.
    """
    count = suite.pairs.count if suite.pairs else 0
    everybody = list(_round_robin(len(subjects)))
    if count > len(everybody):
        raise SuiteError(
            f"suite {suite.name}: pairs.count is {count}, but {len(subjects)} people make only {len(everybody)} pairs"
        )
    return [(subjects[first], subjects[second]) for first, second in everybody[:count]]


def _round_robin(people: int) -> Iterator[tuple[int, int]]:
    """All pairs of 0..people-1 in rounds in which everybody is met once, by the circle method: one stays, the others
    move on a place. With an odd number, who would meet the empty place sits out."""
    ring = list(range(people + people % 2))
    for _ in range(len(ring) - 1):
        for place in range(len(ring) // 2):
            first, second = sorted((ring[place], ring[-1 - place]))
            if second < people:
                yield first, second
        ring = [ring[0], ring[-1], *ring[1:-1]]


def upper_bound(
    subjects: Sequence[SuiteSubject], references: Mapping[str, np.ndarray | None], faces: FaceEvaluator
) -> pd.DataFrame | None:
    """The most that perfect images could reach: a row `subject`, `ip` for each person who has another photograph.

    `references` are the unit embeddings of the first photographs' faces; who has none is left out. An other photograph
    without a face counts 0, as a generated image does. None when nobody is left.
    """
    rows = []
    for subject in subjects:
        reference = references[subject.id]
        if subject.other is None or reference is None:
            continue
        found = faces.detect([subject.other])[0]
        face = faces.embed([subject.other], found[:1])[0] if found else None
        rows.append({"subject": subject.id, "ip": identity_preservation(face, reference)})
    return pd.DataFrame(rows) if rows else None


def find_photos(path: Path) -> list[Path]:
    """`path` alone when it is a file; the photographs by name when it is a folder, without hidden files (macOS leaves
    `._a.jpg` beside `a.jpg` on other disks); else none."""
    if path.is_file():
        return [path]
    found = (p for p in path.glob("[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(found) if path.is_dir() else []


def open_photo(path: Path) -> Image.Image | str:
    """The photograph as RGB, or a cut-out as RGBA, upright, in its own size; or what is wrong with it: it cannot be
    decoded, or is far too large."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"has {image.width}x{image.height} pixels; scale it down first"
            return upright(image, "RGB" if is_photograph(image) else "RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"cannot be read as an image ({type(error).__name__})"
