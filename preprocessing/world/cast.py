"""Who is in a picture, where they stand and what they do: one function per framing, people from left to right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from preprocessing.world.identity import Identity
from preprocessing.world.items import ITEMS
from preprocessing.world.people import POSES, Figure

Somebody = Callable[[], Identity]
PHOTO_ITEM_SHARE = 0.5


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


def photo_cast(rng: random.Random, somebody: Somebody) -> list[Figure]:
    """One or two people (in 60 and 40 of a hundred pictures) who stand before the camera, every second with something
    worn or held, as in FFHQ."""
    count = rng.choices((1, 2), weights=(60, 40))[0]
    spans = {1: ((24, 40),), 2: ((15, 20), (44, 49))}[count]
    return [_before_the_camera(rng, rng.uniform(*span), somebody(), company=count - 1) for span in spans]


FRAMINGS: dict[str, Framing] = {
    "scenes": Framing(cast=scene_cast, styled=True),
    "photos": Framing(cast=photo_cast, styled=False),
}


def _at_a_distance(rng: random.Random, x: float, identity: Identity, *, company: int) -> Figure:
    """Somebody doing something; in company people are smaller, and have an item or a pose so that captions stay
    short."""
    height = rng.uniform(*((40, 54), (38, 46), (32, 38))[company])
    item = rng.choice(list(ITEMS)) if rng.random() < 0.6 else None
    still = (item and ITEMS[item].hands != "pose") or (company and item)
    pose = "standing" if still else rng.choices(POSES, weights=[3] + [1] * (len(POSES) - 1))[0]
    return _figure(rng, identity, x, height, (56, 62), item, pose)


def _before_the_camera(rng: random.Random, x: float, identity: Identity, *, company: int) -> Figure:
    """Somebody standing, somewhat nearer than in a scene: the feet may be out of the picture."""
    height = rng.uniform(*((44, 62), (40, 50))[company])
    item = rng.choice(list(ITEMS)) if rng.random() < PHOTO_ITEM_SHARE else None
    return _figure(rng, identity, x, height, (58, 66), item, "standing")


def _figure(
    rng: random.Random,
    identity: Identity,
    x: float,
    height: float,
    ground: tuple[float, float],
    item: str | None,
    pose: str,
) -> Figure:
    """The figure, its feet somewhere in `ground`, its free hand on either side; children are smaller."""
    return Figure(
        identity=identity,
        x=x,
        ground=rng.uniform(*ground),
        height=height * (0.78 if identity.is_child else 1.0),
        pose=pose,
        item=item,
        hands=ITEMS[item].hands if item else "pose",
        mirrored=rng.random() < 0.5,
    )
