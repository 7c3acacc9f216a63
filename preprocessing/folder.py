"""A folder of photographs as a source: which files, which split, whose credit, which bytes.

Every file is hashed so that a changed photograph or annotation is noticed; digests are remembered by size and
modification time, as git's index does, so listing an unchanged folder again reads no image.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from preprocessing.atomic import sha256_bytes, sha256_file, write_json
from preprocessing.config import DatasetConfig, FolderSource, FractionSplit
from preprocessing.credits import Credit, read_credits
from preprocessing.errors import Rejection, SourceError
from preprocessing.frame import Annotation, Contents, Item, Picture
from preprocessing.images import EXTENSIONS, OTHER_EXTENSIONS, decode_image, decode_labels, read_image_file
from preprocessing.listing import list_files
from preprocessing.sidecar import parse_annotation

logger = logging.getLogger(__name__)

MASK_SUFFIX = ".mask.png"
SIDECAR_SUFFIXES = (".json", MASK_SUFFIX)
UNREADABLE = "unreadable"  # digest of a sidecar that could not be read when it was listed
HASHING_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class FolderSourceReader:
    """Reads the images below `root`, with the files beside them where `sidecars` is set."""

    root: Path
    sidecars: bool
    max_pixels: int

    def items(self, config: DatasetConfig, inventory: Path) -> list[Item]:
        """All images sorted by path, hashed, split and credited; a `fraction` leaves copies of one image in one split.

        Raises SourceError.
        """
        source = config.source
        assert isinstance(source, FolderSource)
        names, files = self._names(source)
        if left_out := _left_out(files):
            logger.warning(
                "%s: %d pictures are left out (%s); convert them to jpg, png or webp to have them",
                *(self.root / (source.images or ""), len(left_out), _kinds(left_out)),
            )
        annotations = _by_small_suffix(files) if self.sidecars else {}
        beside = {name: _beside(name, annotations) for name in names}
        digests = self._digests([*names, *{path for paths in beside.values() for path in paths}], inventory)
        first = _first_copies(names, digests) if isinstance(source.split, FractionSplit) else {}
        credits = read_credits(self.root, source.credits) if source.credits else {}
        default = Credit(licence=config.licence, author=config.author)
        return [
            Item(
                number=None,
                name=name,
                split=choose_split(source.split, first.get(name, name), self.root),
                sha256=digests[name],
                licence=(credit := credits.get(image_number(name), default)).licence,
                author=credit.author,
                sidecars=tuple((path, digests[path] or UNREADABLE) for path in beside[name]),
            )
            for name in names
        ]

    def count(self, config: DatasetConfig) -> Contents:
        """How many images each split would have; copies of one image count by their own names. Raises SourceError."""
        source = config.source
        assert isinstance(source, FolderSource)
        names, files = self._names(source)
        return Contents(
            Counter(choose_split(source.split, name, self.root) for name in names), _kinds(_left_out(files))
        )

    def read(self, item: Item) -> Picture:
        """Decode one image and what lies beside it. Raises Rejection.

        Raises SourceError for a file that could be read when it was listed: a disk or a network drive is in trouble,
        which says nothing about the image.
        """
        if item.sha256 is None:
            raise Rejection("unreadable", "not a regular file, or one that may not be read")
        with self._listed(item.name) as path:
            data = read_image_file(path, max_pixels=self.max_pixels)
        image = decode_image(data, max_pixels=self.max_pixels)
        annotation, labels = Annotation(), None
        for name, digest in item.sidecars:
            if digest == UNREADABLE:
                raise Rejection("bad_annotation", f"{name}: not a regular file, or one that may not be read")
            with self._listed(name) as path:
                beside = path.read_bytes()
            if self._is_mask(name):
                labels = decode_labels(beside, image.size)
            else:
                annotation = parse_annotation(beside)
        return Picture(image=image, sha256=sha256_bytes(data), labels=labels, annotation=annotation)

    def digest(self) -> str:
        """Nothing beside the files decides what a folder holds."""
        return ""

    def _names(self, source: FolderSource) -> tuple[list[str], list[str]]:
        """The images, at least one, and all files among which they lie."""
        place = self.root / (source.images or "")
        files = self._files(place)
        names = [name for name in files if _has_suffix(name, EXTENSIONS) and not self._is_mask(name)]
        if not names:
            raise SourceError(f"{place}: no {', '.join(EXTENSIONS)} files in it; {_contents(files)}")
        self._refuse_lost_links(files)
        return names, files

    def _files(self, place: Path) -> list[str]:
        """All visible files below `place` as sorted paths from the root, with slashes."""
        if not self.root.is_dir():
            raise SourceError(
                f"{self.root}: no such folder; set source.root or pass --source-root FOLDER "
                "(in flows: --set preprocess.source_root=FOLDER)"
            )
        if not place.is_dir():
            raise SourceError(f"{place}: no such folder, which source.images names; put the images there")
        return list_files(self.root, place)

    def _is_mask(self, name: str) -> bool:
        return self.sidecars and _has_suffix(name, (MASK_SUFFIX,))

    def _refuse_lost_links(self, files: list[str]) -> None:
        """Raises SourceError for a link that may be to a folder of pictures."""
        for path in (self.root / name for name in files if not _has_suffix(name, (*EXTENSIONS, *SIDECAR_SUFFIXES))):
            if path.is_symlink() and not path.exists():
                raise SourceError(f"{path}: a link that leads nowhere; mount what it points to, or remove it")

    @contextmanager
    def _listed(self, name: str) -> Iterator[Path]:
        """The path of a file that could be hashed when it was listed. An OSError in the block becomes a SourceError."""
        path = self.root / name
        try:
            yield path
        except OSError as error:
            raise SourceError(
                f"{path}: could be read a moment ago, and now cannot ({error.strerror or error}); see to the disk or "
                "network drive. Finished shards are kept; run again to go on"
            ) from error

    def _digests(self, names: Iterable[str], inventory: Path) -> dict[str, str | None]:
        """sha256 of each file, None where it cannot be read; unchanged files come from the inventory."""
        known = _read_inventory(inventory)
        with ThreadPoolExecutor(HASHING_THREADS) as threads:
            entries = dict(threads.map(lambda name: (name, _digest(self.root / name, known.get(name))), names))
        if (found := {name: entry for name, entry in entries.items() if entry}) != known:
            with suppress(OSError):  # only a cache; a finished dataset may be read-only
                write_json(inventory, found)
        return {name: entry[2] if entry else None for name, entry in entries.items()}


def _first_copies(names: list[str], digests: dict[str, str | None]) -> dict[str, str]:
    """For each name the first, in path order, with the same bytes: its split is that of all, or a held-out image would
    also be trained on."""
    first: dict[str | None, str] = {}
    return {name: first.setdefault(digests[name], name) if digests[name] else name for name in names}


def choose_split(rule: Any, name: str, root: Path) -> str:
    """`train` or `heldout` for an image; the same whatever other images are there. Raises SourceError."""
    if isinstance(rule, FractionSplit):
        group = name if rule.group == "image" else str(PurePosixPath(name).parent)
        position = int.from_bytes(hashlib.sha256(os.fsencode(group)).digest()[:8], "big") / 2**64
        return "heldout" if position < rule.heldout else "train"
    number = image_number(name)
    if number is None:
        raise SourceError(f"{root / name}: no number ends its name, which source.split.kind number needs")
    return "heldout" if number >= rule.heldout_from else "train"


def image_number(name: str) -> int | None:
    """The number that ends a file's stem: 69999 for `69000/69999.png`."""
    match = re.search(r"\d+$", PurePosixPath(name).stem)
    return int(match.group()) if match else None


def _has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _by_small_suffix(files: list[str]) -> dict[str, str]:
    """The files that may annotate an image, by their name with the suffix in small letters."""
    return {
        name[: -len(suffix)] + suffix: name
        for name in files
        for suffix in SIDECAR_SUFFIXES
        if _has_suffix(name, (suffix,))
    }


def _beside(name: str, annotations: dict[str, str]) -> list[str]:
    """What lies beside an image."""
    stem = name[: -len(PurePosixPath(name).suffix)]
    return [annotations[stem + suffix] for suffix in SIDECAR_SUFFIXES if stem + suffix in annotations]


def _contents(files: list[str]) -> str:
    """What a folder without images holds instead."""
    return f"it holds {_kinds(files) or 'no files at all'}"


def _left_out(files: list[str]) -> list[str]:
    """The pictures of formats that are not read."""
    return [name for name in files if _has_suffix(name, OTHER_EXTENSIONS)]


def _kinds(files: list[str]) -> str:
    """How many files of which suffix, the five most frequent."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files)
    return ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5))


def _digest(path: Path, known: list[Any] | None) -> list[Any] | None:
    """`[size, modification time in ns, sha256]` of a file; None where it cannot be read."""
    try:
        if not path.is_file():
            return None
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        return known if known and known[:2] == stamp else [*stamp, sha256_file(path)]
    except OSError:
        return None


def _read_inventory(path: Path) -> dict[str, list[Any]]:
    """What was remembered by name, as `_digest` gives it."""
    try:
        entries = json.loads(path.read_text()).items()
        return {name: [size, time, str(sha256)] for name, (size, time, sha256) in entries}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # only a cache: hash everything again
