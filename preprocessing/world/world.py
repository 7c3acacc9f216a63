"""The miniature world: `World(seed).scene(index, split)` draws a picture, its exact masks, captions and identities.

Everything is a function of (seed, split, index). Contact sheet: `python -m preprocessing.world --out
contact-sheet.png`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from preprocessing.world.canvas import FRAME, Canvas
from preprocessing.world.cast import FRAMINGS
from preprocessing.world.identity import Identity, sample_identity
from preprocessing.world.items import ITEMS
from preprocessing.world.people import Figure, draw_person
from preprocessing.world.scenes import SCENES
from preprocessing.world.styles import STYLES

Split = Literal["train", "heldout"]

POSE_PHRASES = {
    "standing": "",
    "waving": "waving",
    "jumping": "jumping",
    "dancing": "dancing",
    "sitting": "sitting on a bench",
    "skating": "riding a skateboard",
}
MIN_VISIBLE_PIXELS = 50


@dataclass(frozen=True, kw_only=True)
class RenderedScene:
    """One picture of the world.

    image: RGB, `size` x `size`; mask: "L" label map, 0 background, i + 1 = person i (people from left to right);
    caption: what a captioner would say; description: the same with the looks of each person;
    people: `{"word", "mask_value", "identity", "face": [x0, y0, x1, y1], "attributes"}` each;
    attributes: scene, style, description, and under `people` the looks, pose and item of each person; `*_words` are
    the words that the caption has for them.
    """

    name: str
    image: Image.Image
    mask: Image.Image
    caption: str
    description: str
    people: list[dict[str, Any]]
    attributes: dict[str, Any]


class World:
    """A universe of pictures; equal seeds draw equal pictures.

    `identities` says how many people live in a split, so that everybody occurs in several pictures; in a split it does
    not name, nearly everybody is met once. `framing` says per split what is photographed (`preprocessing.world.cast`):
    "scenes" (also in a split it does not name) or "photos".
    """

    def __init__(
        self,
        seed: int = 1,
        size: int = 64,
        identities: Mapping[str, int] | None = None,
        framing: Mapping[str, str] | None = None,
    ) -> None:
        if size < 32:
            raise ValueError(f"World(size={size}): people need at least 32 pixels")
        self.seed, self.size, self.identities = seed, size, dict(identities or {})
        self.framing = {"train": "scenes", "heldout": "scenes"} | dict(framing or {})
        if unknown := set(self.framing.values()) - set(FRAMINGS):
            known = ", ".join(FRAMINGS)
            raise ValueError(f"World(framing={self.framing}): {min(unknown)!r} is unknown; known: {known}")

    def scene(self, index: int, split: Split = "train") -> RenderedScene:
        """The picture number `index` of a split. Raises ValueError for a negative index or an unknown split."""
        if index < 0 or split not in ("train", "heldout"):
            raise ValueError(
                f"scene(index={index}, split={split!r}): index must be >= 0 and split 'train' or 'heldout'"
            )
        digest = hashlib.sha256(f"{self.seed}/{split}/{index}".encode()).digest()
        rng = random.Random(int.from_bytes(digest[:8], "big"))
        while True:
            scene = self._draw(rng, f"{split}-{index:09d}", held_out=split == "heldout")
            if scene is not None:
                return scene

    def _somebody(self, rng: random.Random, held_out: bool) -> Identity:
        population = self.identities.get("heldout" if held_out else "train")
        if population is None:
            return sample_identity(rng, held_out=held_out)
        return sample_identity(random.Random(f"{self.seed}/{held_out}/{rng.randrange(population)}"), held_out=held_out)

    def _draw(self, rng: random.Random, name: str, *, held_out: bool) -> RenderedScene | None:
        """One attempt; None when a person would be hidden behind another."""
        place = rng.choice(list(SCENES))
        framing = FRAMINGS[self.framing["heldout" if held_out else "train"]]
        figures = framing.cast(rng, lambda: self._somebody(rng, held_out))
        styled = framing.styled and len(figures) < 3
        style = rng.choices(list(STYLES), weights=[12, 1, 1, 1, 1])[0] if styled else "photo"
        canvas = Canvas(self.size)
        SCENES[place][1](canvas, rng)
        for number, figure in sorted(enumerate(figures), key=lambda pair: pair[1].ground):
            _draw_figure(canvas, figure, number + 1)
        picture, labels = canvas.finish()
        visible = [int((labels == number + 1).sum()) for number in range(len(figures))]
        if min(visible) < MIN_VISIBLE_PIXELS * (self.size / FRAME) ** 2:
            return None
        looks = [figure.identity.describe().removeprefix("a ") for figure in figures]
        description = _caption(figures, place, style, looks)
        people = [_record(figure) for figure in figures]
        return RenderedScene(
            name=name,
            image=STYLES[style][1](picture),
            mask=Image.fromarray(labels),
            caption=_caption(figures, place, style, [figure.identity.word for figure in figures]),
            description=description,
            people=[_person(figure, number, self.size) for number, figure in enumerate(figures)],
            attributes={
                "scene": place,
                "scene_words": SCENES[place][0],
                "style": style,
                "style_words": STYLES[style][0],
                "people": people,
                "description": description,
            },
        )


def _draw_figure(canvas: Canvas, figure: Figure, label: int) -> None:
    h = figure.height
    if figure.pose == "jumping":
        canvas.ellipse(figure.x, figure.ground, h * 0.2, h * 0.04, (60, 60, 60))
    elif figure.pose == "sitting":
        canvas.rectangle(
            figure.x - h * 0.32, figure.hip + h * 0.03, figure.x + h * 0.32, figure.hip + h * 0.09, (120, 80, 48)
        )
        for side in (-1, 1):
            canvas.rectangle(
                figure.x + side * h * 0.26 - 1,
                figure.hip + h * 0.08,
                figure.x + side * h * 0.26 + 1,
                figure.ground,
                (90, 60, 36),
            )
    elif figure.pose == "skating":
        canvas.rectangle(
            figure.x - h * 0.24, figure.feet, figure.x + h * 0.24, figure.feet + h * 0.035, (214, 60, 120), radius=0.8
        )
        for side in (-1, 1):
            canvas.ellipse(figure.x + side * h * 0.15, figure.feet + h * 0.05, 1.3, 1.3, (30, 30, 36))
    with canvas.labelled(label):
        draw_person(canvas, figure)
    if figure.item:
        ITEMS[figure.item].paint(canvas, figure)


def _phrase(figure: Figure, noun: str) -> str:
    words = [f"a {noun}", POSE_PHRASES[figure.pose], ITEMS[figure.item].words if figure.item else ""]
    return " ".join(word for word in words if word)


def _caption(figures: list[Figure], place: str, style: str, nouns: list[str]) -> str:
    people = " and ".join(_phrase(figure, noun) for figure, noun in zip(figures, nouns, strict=True))
    return " ".join(part for part in (STYLES[style][0], people, SCENES[place][0]) if part)


def _person(figure: Figure, number: int, size: int) -> dict[str, Any]:
    face = [round(v * size / FRAME) for v in figure.face_box()]
    return {
        "word": figure.identity.word,
        "mask_value": number + 1,
        "identity": figure.identity.code,
        "face": face,
        "attributes": asdict(figure.identity),
    }


def _record(figure: Figure) -> dict[str, Any]:
    """Looks, pose and item of one person, and the words of the caption that say so."""
    return {
        **asdict(figure.identity),
        "looks": figure.identity.describe(),
        "pose": figure.pose,
        "pose_words": POSE_PHRASES[figure.pose],
        "item": figure.item,
        "item_words": ITEMS[figure.item].words if figure.item else "",
    }


def contact_sheet(
    world: World, *, columns: int = 8, rows: int = 6, split: Split = "train", zoom: int = 2
) -> Image.Image:
    """The first pictures of a split in a grid, each followed by its label map in colours."""
    cell = world.size * zoom
    sheet = Image.new("RGB", (columns * cell, rows * cell), "white")
    colours = np.array([(235, 235, 235), (220, 70, 70), (70, 110, 220), (70, 180, 90)], np.uint8)
    for k in range(columns * rows // 2):
        scene = world.scene(k, split)
        shown = (scene.image, Image.fromarray(colours[np.asarray(scene.mask)]))
        for part, picture in enumerate(shown):
            place = 2 * k + part
            sheet.paste(
                picture.resize((cell, cell), Image.Resampling.NEAREST),
                (place % columns * cell, place // columns * cell),
            )
    return sheet
