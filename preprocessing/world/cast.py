"""Who is in a picture, where they stand and what they do: one function per framing, people from left to right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from preprocessing.world.identity import Identity
from preprocessing.world.items import ITEMS
from preprocessing.world.people import POSES, Figure

Somebody = Callable[[], Identity]
PORTRAIT_ITEM_SHARE = 0.3
PORTRAIT_ITEMS = tuple(name for name, item in ITEMS.items() if item.hands in ("pose", "face"))  # seen in a close-up


@dataclass(frozen=True)
class Framing:
    """A kind of picture: who is in it, and whether it may be drawn or painted instead of photographed."""

    cast: Callable[[random.Random, Somebody], list[Figure]]
    styled: bool


def scene_cast(rng: random.Random, somebody: Somebody) -> list[Figure]:
    """One to three people at a distance (in 63, 29 and 8 of a hundred pictures), who do and hold things."""
    count = rng.choices((1, 2, 3), weights=(63, 29, 8))[0]
    spans = {1: ((24, 40),), 2: ((16, 21), (43, 48)), 3: ((10, 13), (30, 34), (51, 54))}[count]
    return [_at_a_distance(rng, rng.uniform(*span), somebody(), company=count - 1) for span in spans]


def portrait_cast(rng: random.Random, somebody: Somebody) -> list[Figure]:
    """One or two people close to the camera (in 70 and 30 of a hundred pictures): faces as in FFHQ, nobody acts."""
    count = rng.choices((1, 2), weights=(70, 30))[0]
    spans = {1: ((26, 38),), 2: ((14, 18), (46, 50))}[count]
    return [_close_up(rng, rng.uniform(*span), somebody(), company=count - 1) for span in spans]


SCENE = Framing(cast=scene_cast, styled=True)
PORTRAIT = Framing(cast=portrait_cast, styled=False)
FRAMINGS: dict[str, tuple[Framing, ...]] = {  # of "both" half the pictures are of either kind
    "scenes": (SCENE,),
    "portraits": (PORTRAIT,),
    "both": (SCENE, PORTRAIT),
}


def _at_a_distance(rng: random.Random, x: float, identity: Identity, *, company: int) -> Figure:
    """Somebody doing something; in company people are smaller, and have an item or a pose so that captions stay
    short."""
    height = rng.uniform(*((40, 54), (38, 46), (32, 38))[company])
    item = rng.choice(list(ITEMS)) if rng.random() < 0.6 else None
    hands = ITEMS[item].hands if item else "pose"
    still = hands != "pose" or (company and item)
    pose = "standing" if still else rng.choices(POSES, weights=[3] + [1] * (len(POSES) - 1))[0]
    return Figure(
        identity=identity,
        x=x,
        ground=rng.uniform(56, 62),
        height=height * (0.78 if identity.is_child else 1.0),
        pose=pose,
        item=item,
        hands=hands,
        mirrored=rng.random() < 0.5,
    )


def _close_up(rng: random.Random, x: float, identity: Identity, *, company: int) -> Figure:
    """Somebody standing, cut off below the shoulders to the knees; the head is in the upper half of the picture."""
    height = rng.uniform(*((60, 96), (52, 64))[company])
    item = rng.choice(PORTRAIT_ITEMS) if rng.random() < PORTRAIT_ITEM_SHARE else None
    figure = Figure(
        identity=identity,
        x=x,
        ground=0.0,
        height=height * (0.85 if identity.is_child else 1.0),
        item=item,
        hands=ITEMS[item].hands if item else "pose",
        mirrored=rng.random() < 0.5,
    )
    return figure.moved_to_head(rng.uniform(22, 28))
