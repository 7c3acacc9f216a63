"""The program of applications.md, and its picture: `python docs/applications.py` writes docs/applications.png."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from preprocessing.world import World

PAGE = Path(__file__).with_suffix(".md")
ROWS = {  # variable of the page -> what the picture calls it
    "people": "The people",
    "gallery": "Gallery first, nobody given",
    "put_in": "Its third image, the women put in",
    "swaps": "Nobody, the woman, both, another woman",
    "morph": "Morphing",
    "lapse": "Time lapse, girl to woman",
    "story": "A story, two people",
    "edited": "Photograph, made again, the women put in",
    "styled": "Prior, with the man, comic style, with the man",
}
CELL, ZOOM, MARGIN = 64, 2, 150  # pixels
WORLD = World(99, framing={"heldout": "photos"})
WOMEN, MEN, PHOTOGRAPH = (1, 127, 141), (138, 162), 14  # numbers of scenes with one person and nothing before the face


def blocks() -> dict[str, str]:
    """Heading -> the Python under it, in the order of the page."""
    sections = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    code = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {title: "".join(code.findall(text)) for title, text in zip(sections[::2], sections[1::2], strict=True)}


def run() -> dict[str, Any]:
    """The page's program, from the project's folder; returns its variables."""
    names: dict[str, Any] = {
        "women": [cut_out(number) for number in WOMEN],
        "men": [cut_out(number) for number in MEN],
        "photograph": WORLD.scene(PHOTOGRAPH, "heldout").image,
    }
    for title, code in blocks().items():
        exec(compile(code, f"{PAGE.name}, {title}", "exec"), names)
        names["pipe"].set_progress_bar_config(disable=True)
    return {**names, "people": [*names["women"], *names["men"]]}


def cut_out(number: int) -> Image.Image:
    """The only person of a held-out scene, without background."""
    scene = WORLD.scene(number, "heldout")
    alpha = Image.fromarray((np.asarray(scene.mask) == 1).astype(np.uint8) * 255)
    cut = scene.image.copy()
    cut.putalpha(alpha)
    return cut.crop(alpha.getbbox())


def sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """One row for each application, with its name."""
    side = CELL * ZOOM
    canvas = Image.new("RGB", (MARGIN + side * max(map(len, rows.values())), side * len(rows)), "white")
    font = ImageFont.load_default(size=16)
    for y, (label, row) in enumerate(rows.items()):
        ImageDraw.Draw(canvas).multiline_text((8, side * y + 8), label.replace(", ", ",\n"), "black", font)
        for x, image in enumerate(row):
            on_white = Image.new("RGBA", image.size, "white")
            on_white.alpha_composite(image.convert("RGBA"))
            cell = on_white.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(cell, (MARGIN + side * x, side * y))
    return canvas


if __name__ == "__main__":
    made = run()
    picture = sheet({label: made[name] for name, label in ROWS.items()})
    picture.save(PAGE.with_suffix(".png"), optimize=True)
