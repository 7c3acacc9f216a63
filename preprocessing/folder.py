"""A folder of photographs as a source: which files, which split, whose credit, which bytes.

Every file is hashed so that a changed photograph or annotation is noticed; digests are remembered by size and
modification time, as git's index does, so listing an unchanged folder again reads no image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from preprocessing.atomic import sha256_bytes, sha256_file, write_json
from preprocessing.config import DatasetConfig, FolderSource, FractionSplit
from preprocessing.credits import Credit, read_credits
from preprocessing.errors import Rejection, SourceError
from preprocessing.frame import Annotation, Item, Picture
from preprocessing.images import EXTENSIONS, decode_image, decode_labels, read_image_file
from preprocessing.sidecar import parse_annotation

MASK_SUFFIX = ".mask.png"
UNREADABLE = "unreadable"  # digest of a sidecar that could not be read when it was listed
HASHING_THREADS = 8


@dataclass(frozen=True, kw_only=True)
class FolderSourceReader:
    """Reads the images below `root`, with the files beside them where `sidecars` is set."""

    root: Path
    sidecars: bool
    max_pixels: int

    def items(self, config: DatasetConfig, inventory: Path) -> list[Item]:
        """All images sorted by path, hashed, split and credited. Raises SourceError."""
        source = config.source
        assert isinstance(source, FolderSource)
        place = self.root / (source.images or "")
        files = self._files(place)
        names = [name for name in files if _is_image(name)]
        if not names:
            raise SourceError(f"{place}: no {', '.join(EXTENSIONS)} files in it; {_contents(files)}")
        beside = {name: self._beside(name, set(files)) for name in names} if self.sidecars else {}
        digests = self._digests([*names, *{path for paths in beside.values() for path in paths}], inventory)
        credits = read_credits(self.root, source.credits) if source.credits else {}
        default = Credit(licence=config.licence, author=config.author)
        return [
            Item(
                number=None,
                name=name,
                split=choose_split(source.split, name, self.root),
                sha256=digests[name],
                licence=(credit := credits.get(image_number(name), default)).licence,
                author=credit.author,
                sidecars=tuple((path, digests[path] or UNREADABLE) for path in beside.get(name, ())),
            )
            for name in names
        ]

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
            if name.endswith(MASK_SUFFIX):
                labels = decode_labels(beside, image.size)
            else:
                annotation = parse_annotation(beside)
        return Picture(image=image, sha256=sha256_bytes(data), labels=labels, annotation=annotation)

    def digest(self) -> str:
        """Nothing beside the files decides what a folder holds."""
        return ""

    def _files(self, place: Path) -> list[str]:
        """All visible files below `place` as sorted paths from the root, with slashes."""
        if not self.root.is_dir():
            raise SourceError(f"{self.root}: no such folder; set source.root or pass --source-root FOLDER")
        if not place.is_dir():
            raise SourceError(f"{place}: no such folder, which source.images names; put the images there")
        found = []
        for folder, subfolders, files in os.walk(place):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            relative = Path(folder).relative_to(self.root)
            found += [(relative / name).as_posix() for name in files if not name.startswith(".")]
        return sorted(found)

    def _beside(self, name: str, files: set[str]) -> list[str]:
        stem = name[: -len(PurePosixPath(name).suffix)]
        return [path for path in (f"{stem}.json", f"{stem}{MASK_SUFFIX}") if path in files]

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
            write_json(inventory, found)
        return {name: entry[2] if entry else None for name, entry in entries.items()}


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


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.endswith(MASK_SUFFIX)


def _contents(files: list[str]) -> str:
    """What a folder without images holds instead."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in files)
    return "it holds " + (", ".join(f"{n} x {kind}" for kind, n in kinds.most_common(5)) or "no files at all")


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
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # only a cache: hash everything again
