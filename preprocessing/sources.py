"""Sources list pictures and read them: the renderer of the miniature world, or a folder of files.

Listing happens once, in the main process; reading happens in worker processes, so a source is small and can be pickled.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from preprocessing.config import DatasetConfig, RendererSource
from preprocessing.errors import Rejection, SourceError
from preprocessing.folder import FolderSourceReader
from preprocessing.frame import Annotation, Contents, Frame, Item, Picture, Rejected
from preprocessing.images import SquareCrop
from preprocessing.renderer import RendererReader
from preprocessing.sidecar import check_annotation


class Source(Protocol):
    """Where pictures come from."""

    def items(self, config: DatasetConfig, inventory: Path) -> list[Item]:
        """All pictures in their final order. Raises SourceError. `inventory` is a file that may remember digests."""
        ...

    def count(self, config: DatasetConfig) -> Contents:
        """How many pictures there are, none of which is opened. Raises SourceError."""
        ...

    def read(self, item: Item) -> Picture:
        """One picture. Raises Rejection for what lies with the picture, SourceError for what lies with its place."""
        ...

    def digest(self) -> str:
        """What else the pictures depend on, beside the items: code that draws them."""
        ...


def open_source(config: DatasetConfig, source_root: Path | None = None) -> Source:
    """The source of a declaration; `source_root` overrides a folder's `root`. Raises SourceError."""
    if isinstance(config.source, RendererSource):
        if source_root is not None:
            raise SourceError(f"{config.name}: its images are drawn, so a source root has no meaning; leave it out")
        return RendererReader(
            seed=config.source.seed,
            size=config.source.size,
            identities=tuple(config.source.identities.model_dump(exclude_none=True).items()),
            framing=tuple(config.source.framing.model_dump().items()),
        )
    root = source_root or config.source.root
    if root is None:
        raise SourceError(
            f"{config.name}: source.root is not set; pass --source-root FOLDER "
            "(in flows: --set preprocess.source_root=FOLDER)"
        )
    return FolderSourceReader(
        root=Path(root).expanduser(), sidecars=config.reads_sidecars(), max_pixels=config.max_pixels
    )


def load_frame(source: Source, config: DatasetConfig, item: Item) -> Frame | Rejected:
    """Read a picture and cut its stored square: image, label map and face boxes together.

    Raises SourceError, MemoryError: they say nothing about the picture.
    """
    try:
        picture = source.read(item)
        return _frame(config, item, picture)
    except Rejection as rejection:
        return Rejected(item.name, rejection.reason, rejection.detail)
    except Exception as error:
        error.add_note(f"while reading {item.name}")
        raise


def _frame(config: DatasetConfig, item: Item, picture: Picture) -> Frame:
    width, height = picture.image.size
    if min(width, height) < config.min_side:
        raise Rejection("too_small", f"{width}x{height}: the shorter side is below {config.min_side} pixels")
    check_annotation(config, picture.annotation, picture.labels)
    square = SquareCrop(width, height, config.resolution, config.square)
    labels = None if picture.labels is None else square.labels(picture.labels)
    return Frame(
        item=item,
        sha256=picture.sha256,
        image=square.image(picture.image),
        labels=labels,
        annotation=_moved(picture.annotation, square),
    )


def _moved(annotation: Annotation, square: SquareCrop) -> Annotation:
    """The annotation with its face boxes in pixels of the square."""
    people = tuple(
        replace(person, face=square.box(person.face) if person.face else None) for person in annotation.people
    )
    return replace(annotation, people=people)
