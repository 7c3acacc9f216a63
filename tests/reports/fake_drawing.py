"""Cartoons for fake evaluations, 64 x 64 pixels: a scene by prompt and seed, a person by subject.

Each method draws as its real counterpart fails or succeeds: the prior has a person of its own, the ablation without
MoA layers loses the scene, the one without spacetime encoding half the identity, another base draws in grey.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter, ImageOps

SIZE, ZOOM = 64, 4
SKINS = ["#f6d7bd", "#e8b58f", "#c98d62", "#8f5a3a", "#5d3a26"]
HAIRS = ["#2b211d", "#6b4226", "#c9982f", "#b4532a", "#d9d5cf", "#3b3f6b"]
COATS = ["#d8433b", "#2f7fd0", "#2f9e5b", "#e0a21b", "#8a4fc4", "#e87fb0", "#23a7a2"]
SCENES = {
    "beach": ("#8fd3f4", "#f2dfa7", "#2f9fc4"),
    "snow": ("#c9d8ea", "#ffffff", "#8fa9c4"),
    "hat": ("#9fe0ff", "#74c365", "#2f8f4a"),
    "sketch": ("#f3efe4", "#e2dccb", "#b9b1a0"),
    "reference": ("#7f7f7f", "#7f7f7f", "#7f7f7f"),
    "sofa": ("#f0d9c4", "#b98a62", "#7a4f7f"),
    "city": ("#20264a", "#3c4160", "#f2c94c"),
}
PLAIN = ("#b9b4ac", "#a39e95", "#8f8a82")


def unit(*parts: object) -> float:
    """A number in 0..1 that depends on nothing but the parts."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def draw(method: str, subject: str, word: str, prompt: str, seed: int) -> Image.Image:
    """One person in the scene of the prompt."""
    if method == "prior":
        subject = ""  # the prior's picture is the same for all subjects
    return _picture(method, (subject,), (word,), prompt, seed).copy()


def draw_pair(method: str, first: str, second: str, words: tuple[str, str], prompt: str, seed: int) -> Image.Image:
    """Two people in the scene of the prompt; without MoA layers both become the first."""
    people = ("", "") if method == "prior" else (first, first if method == "no-moa" else second)
    return _picture(method, people, words, prompt, seed).copy()


@lru_cache(maxsize=4096)
def _picture(method: str, people: tuple[str, ...], words: tuple[str, ...], prompt: str, seed: int) -> Image.Image:
    edge = SIZE * ZOOM
    image = Image.new("RGB", (edge, edge))
    pen = ImageDraw.Draw(image)
    lost = method == "no-moa"
    _scene(pen, PLAIN if lost else SCENES.get(prompt, SCENES["beach"]), prompt if not lost else "", seed, edge)
    for number, (subject, word) in enumerate(zip(people, words, strict=True)):
        spread = 0 if len(people) == 1 else (-0.2, 0.2)[number]
        x = edge * (0.5 + spread + 0.1 * (unit("x", prompt, seed) - 0.5))
        blend = 0.55 if method == "no-spacetime" else 0.2 if method == "champion" else 0.0
        _person(pen, x, edge, _looks(subject, (word, prompt, seed, number), blend), prompt)
    if prompt == "sketch":
        image = ImageOps.autocontrast(ImageOps.grayscale(image).filter(ImageFilter.CONTOUR)).convert("RGB")
    if method.startswith("ink"):
        image = ImageOps.posterize(ImageOps.grayscale(image).convert("RGB"), 2)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _scene(pen: ImageDraw.ImageDraw, colours: tuple[str, str, str], prompt: str, seed: int, edge: int) -> None:
    sky, ground, accent = colours
    horizon = int(edge * (0.6 + 0.12 * unit("horizon", prompt, seed)))
    pen.rectangle((0, 0, edge, edge), fill=sky)
    pen.rectangle((0, horizon, edge, edge), fill=ground)
    if prompt in ("beach", "snow", "hat"):
        sun = edge * (0.15 + 0.7 * unit("sun", prompt, seed))
        pen.ellipse((sun - 18, 18, sun + 18, 54), fill="#ffe27a")
    if prompt == "beach":
        pen.rectangle((0, horizon - 26, edge, horizon), fill=accent)
    if prompt in ("snow", "hat", "city"):
        for number in range(5):
            x = edge * (number + unit("tree", prompt, seed, number)) / 5
            tall = 50 + 50 * unit("tall", prompt, seed, number)
            if prompt == "city":
                pen.rectangle((x - 22, horizon - tall, x + 22, horizon), fill="#11142c")
                pen.rectangle((x - 8, horizon - tall + 14, x + 8, horizon - tall + 30), fill=accent)
            else:
                pen.polygon(((x - 24, horizon), (x + 24, horizon), (x, horizon - tall)), fill=accent)
    if prompt == "sofa":
        pen.rounded_rectangle((20, horizon - 60, edge - 20, horizon + 30), 24, fill=accent)


def _looks(subject: str, otherwise: tuple[object, ...], blend: float) -> dict[str, str | bool]:
    """Colours and style of a person; `blend` of them come from somebody else."""

    def who(what: str) -> tuple[object, ...]:
        return (subject,) if subject and unit("blend", what, *otherwise) >= blend else otherwise

    return {
        "skin": SKINS[int(unit("skin", *who("skin")) * 4.99)],
        "hair": HAIRS[int(unit("hair", *who("hair")) * 5.99)],
        "coat": COATS[int(unit("coat", *who("coat")) * 6.99)],
        "long": unit("long", *who("long")) > 0.5,
        "glasses": unit("glasses", *who("glasses")) > 0.6,
    }


def _person(pen: ImageDraw.ImageDraw, x: float, edge: int, looks: dict[str, str | bool], prompt: str) -> None:
    top = edge * 0.28
    pen.ellipse((x - 42, top - 14, x + 42, top + 78), fill=str(looks["hair"]))
    if looks["long"]:
        pen.rectangle((x - 42, top + 34, x + 42, top + 110), fill=str(looks["hair"]))
    pen.rounded_rectangle((x - 46, top + 84, x + 46, edge - 12), 26, fill=str(looks["coat"]))
    pen.rectangle((x - 12, top + 66, x + 12, top + 92), fill=str(looks["skin"]))
    pen.ellipse((x - 32, top, x + 32, top + 78), fill=str(looks["skin"]))
    for side in (-1, 1):
        pen.ellipse((x + side * 13 - 4, top + 32, x + side * 13 + 4, top + 41), fill="#1b1b22")
        if looks["glasses"]:
            pen.ellipse((x + side * 13 - 11, top + 25, x + side * 13 + 11, top + 48), outline="#1b1b22", width=4)
    pen.arc((x - 13, top + 42, x + 13, top + 62), 20, 160, fill="#8d3b32", width=4)
    if prompt == "hat":
        pen.rectangle((x - 48, top - 4, x + 48, top + 8), fill="#22252c")
        pen.rectangle((x - 30, top - 46, x + 30, top + 2), fill="#22252c")


def router_sprite(layers: int, steps: int, tile: int, seed: int) -> Image.Image:
    """A sprite of prior shares: the person gets darker with the steps, deep layers are coarser."""
    sprite = Image.new("L", (steps * tile, layers * tile))
    for layer in range(layers):
        for step in range(steps):
            share = 0.85 - 0.6 * (step + 1) / steps * (0.5 + 0.5 * unit("layer", layer, seed))
            map_ = Image.new("L", (64, 64), int(255 * (0.86 + 0.1 * unit("back", layer, step))))
            pen = ImageDraw.Draw(map_)
            pen.ellipse((22, 16, 42, 40), fill=int(255 * share))
            pen.rectangle((20, 38, 44, 62), fill=int(255 * share))
            coarse = map_.resize((8 if layer % 3 == 1 else 16,) * 2, Image.Resampling.BOX)
            sprite.paste(coarse.resize((tile, tile), Image.Resampling.NEAREST), (step * tile, layer * tile))
    return sprite
