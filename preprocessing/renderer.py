"""The miniature world as a source: pictures with exact captions, masks, faces and identities, drawn in the workers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from preprocessing.atomic import sha256_bytes, sha256_file, sha256_json
from preprocessing.config import DatasetConfig, RendererSource
from preprocessing.frame import Contents, Item, Picture
from preprocessing.sidecar import parse_annotation

if TYPE_CHECKING:
    from preprocessing.world import World


@dataclass(frozen=True, kw_only=True)
class RendererReader:
    """Draws the scenes of `World(seed, size, identities, framing)`."""

    seed: int
    size: int
    identities: tuple[tuple[str, int], ...]  # people per split; tuples, because worlds are kept by their arguments
    framing: tuple[tuple[str, str], ...]  # of each split

    def items(self, config: DatasetConfig, inventory: Path) -> list[Item]:
        """Training scenes first, then the held-out ones; nothing is drawn yet, so `inventory` is not used."""
        assert isinstance(config.source, RendererSource)
        counts = config.source.counts
        scenes = [("train", i) for i in range(counts.train)] + [("heldout", i) for i in range(counts.heldout)]
        return [
            Item(
                number=number,
                name=f"{split}-{index:09d}",
                split=split,
                sha256=None,
                licence=config.licence,
                author=config.author,
            )
            for number, (split, index) in enumerate(scenes)
        ]

    def count(self, config: DatasetConfig) -> Contents:
        """How many scenes each split has."""
        assert isinstance(config.source, RendererSource)
        return Contents(config.source.counts.model_dump())

    def read(self, item: Item) -> Picture:
        """Draw one scene; its digest is that of its pixels."""
        world = _world(self.seed, self.size, self.identities, self.framing)
        scene = world.scene(int(item.name.rpartition("-")[2]), item.split)  # type: ignore[arg-type]
        attributes = {**scene.attributes, "description": scene.description}
        image = scene.image.convert("RGB")
        return Picture(
            image=image,
            sha256=sha256_bytes(image.tobytes()),
            labels=np.asarray(scene.mask),
            annotation=parse_annotation({"caption": scene.caption, "people": scene.people, "attributes": attributes}),
        )

    def digest(self) -> str:
        """Digest of the drawing code: other brushes draw other pictures."""
        folder = Path(__file__).parent / "world"
        return sha256_json({path.name: sha256_file(path) for path in sorted(folder.glob("*.py"))})


@lru_cache(maxsize=1)
def _world(
    seed: int, size: int, identities: tuple[tuple[str, int], ...], framing: tuple[tuple[str, str], ...]
) -> World:
    from preprocessing.world import World

    return World(seed=seed, size=size, identities=dict(identities), framing=dict(framing))
