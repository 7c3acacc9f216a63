"""Draws one person: big-headed, so that hair, skin, glasses and beard can be told apart at 64 pixels.

All lengths are parts of the person's height; `Figure` fixes the geometry once, the drawing functions only read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocessing.world import hair
from preprocessing.world.canvas import Canvas, Point, shade
from preprocessing.world.identity import BUILDS, CLOTHES, HAIR_COLOURS, SKINS, TROUSERS, Identity

POSES = ("standing", "waving", "jumping", "dancing", "sitting", "skating")
SHOES = (52, 40, 40)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Where and how a person stands: centre x, ground y (feet), height, in frame pixels."""

    identity: Identity
    x: float
    ground: float
    height: float
    pose: str = "standing"
    item: str | None = None
    hands: str = "pose"  # "pose", or what the item asks for: "held" beside the body, "face" before it, "raised" both
    mirrored: bool = False

    @property
    def side(self) -> int:
        """+1: the free hand is on the right of the picture, -1: on the left."""
        return -1 if self.mirrored else 1

    @property
    def lift(self) -> float:
        return {"jumping": 0.16, "sitting": 0.04, "skating": 0.05}.get(self.pose, 0.0) * self.height

    @property
    def feet(self) -> float:
        return self.ground - self.lift

    @property
    def width(self) -> float:
        return BUILDS[self.identity.build] * self.height * 0.13

    @property
    def hip(self) -> float:
        return self.feet - self.height * (0.15 if self.pose == "sitting" else 0.21)

    @property
    def shoulder(self) -> float:
        return self.hip - self.height * 0.29

    @property
    def radius(self) -> float:
        """Of the head; children have larger heads for their height."""
        return self.height * (0.225 if self.identity.is_child else 0.2)

    @property
    def head(self) -> Point:
        return self.x, self.shoulder - self.radius * 0.78

    def face_box(self) -> list[int]:
        """`[x0, y0, x1, y1]` around the head without hair volume, in frame pixels, clipped to the frame."""
        (cx, cy), r = self.head, self.radius
        x0, y0, x1, y1 = cx - r * 1.05, cy - r * 1.1, cx + r * 1.05, cy + r * 1.05
        return [max(0, round(x0)), max(0, round(y0)), min(64, round(x1)), min(64, round(y1))]

    def hand(self, side: int) -> Point:
        """Where the hand on that side of the picture (+1 right, -1 left) is in this pose."""
        reach, free = self.width + self.height * 0.1, side == self.side
        if self.hands == "held" and free:
            return self.x + side * (reach + 1.0), self.shoulder + self.height * 0.1
        if self.hands == "face" and free:
            return self.x + side * self.radius * 0.62, self.head[1] + self.radius * 0.86
        raised = self.x + side * reach, self.shoulder - self.height * 0.18
        down = self.x + side * (self.width + self.height * 0.07), self.hip + self.height * 0.01
        wide = self.x + side * (reach + self.height * 0.04), self.shoulder + self.height * 0.06
        if self.hands == "raised" or self.pose == "jumping" or (self.pose in ("waving", "dancing") and free):
            return raised
        return wide if self.pose in ("skating", "dancing") else down


def draw_person(canvas: Canvas, figure: Figure) -> None:
    """Draw the person in the order back to front; the caller sets the label."""
    identity = figure.identity
    colour = HAIR_COLOURS[identity.hair_colour]
    hair.draw_back(canvas, identity.hair_style, figure.head, figure.radius, colour)
    _legs(canvas, figure)
    _body(canvas, figure)
    for side in (-1, 1):
        _arm(canvas, figure, side)
    _head(canvas, figure)
    _beard(canvas, figure)
    hair.draw_front(canvas, identity.hair_style, figure.head, figure.radius, colour)
    _glasses(canvas, figure)


def _legs(canvas: Canvas, figure: Figure) -> None:
    h, identity = figure.height, figure.identity
    colour = SKINS[identity.skin] if identity.wears_dress else TROUSERS[identity.trousers]
    spread = {"jumping": 0.11, "dancing": 0.12, "skating": 0.1}.get(figure.pose, 0.055) * h
    for side in (-1, 1):
        foot = figure.x + side * spread, figure.feet - h * 0.02
        hip = figure.x + side * h * 0.045, figure.hip - h * 0.02
        bent = [hip, foot]
        if figure.pose == "sitting":
            knee = figure.x + side * h * 0.1, figure.hip + h * 0.02
            bent = [hip, knee, (knee[0], foot[1])]
        elif figure.pose == "jumping":
            bent = [hip, (figure.x + side * h * 0.13, figure.hip + h * 0.09), foot]
        canvas.line(bent, h * 0.075, colour)
        canvas.ellipse(bent[-1][0] + side * h * 0.015, figure.feet - h * 0.015, h * 0.055, h * 0.033, SHOES)


def _body(canvas: Canvas, figure: Figure) -> None:
    x, w, h, identity = figure.x, figure.width, figure.height, figure.identity
    cloth = CLOTHES[identity.top]
    top, bottom = figure.shoulder - h * 0.02, figure.hip + h * (0.05 if identity.wears_dress else 0.0)
    flare = 1.55 if identity.wears_dress else 1.0
    canvas.polygon([(x - w * 0.85, top), (x + w * 0.85, top), (x + w * flare, bottom), (x - w * flare, bottom)], cloth)
    canvas.ellipse(x, top + h * 0.01, w * 0.85, h * 0.04, cloth)
    if identity.build == "round":
        canvas.ellipse(x, (top + bottom) / 2 + h * 0.04, w * 1.42, h * 0.17, cloth)
    if identity.pattern == "striped":
        stripe = shade(cloth, 0.5) if sum(cloth) > 330 else shade(cloth, 1.75)
        for k in (0.25, 0.55, 0.85):
            y = top + (bottom - top) * k
            half = w * (0.85 + (flare - 0.85) * k)
            canvas.rectangle(x - half, y - h * 0.022, x + half, y + h * 0.022, stripe)


def _arm(canvas: Canvas, figure: Figure, side: int) -> None:
    h, identity = figure.height, figure.identity
    shoulder = figure.x + side * figure.width * 0.82, figure.shoulder + h * 0.025
    hand = figure.hand(side)
    elbow = (shoulder[0] + hand[0]) / 2 + side * h * 0.025, (shoulder[1] + hand[1]) / 2 + h * 0.02
    canvas.line([shoulder, elbow, hand], h * 0.068, shade(CLOTHES[identity.top], 0.84))
    canvas.ellipse(hand[0], hand[1], h * 0.042, h * 0.042, SKINS[identity.skin])


def _head(canvas: Canvas, figure: Figure) -> None:
    (x, y), r, identity = figure.head, figure.radius, figure.identity
    skin = SKINS[identity.skin]
    for side in (-1, 1):
        canvas.ellipse(x + side * r * 0.96, y + r * 0.12, r * 0.16, r * 0.22, shade(skin, 0.9))
    canvas.ellipse(x, y, r, r * 1.02, skin)
    brow = shade(HAIR_COLOURS[identity.hair_colour], 0.8)
    for side in (-1, 1):
        ex, ey = x + side * r * 0.4, y + r * 0.1
        canvas.ellipse(ex, ey, r * 0.17, r * 0.21, (252, 252, 252))
        canvas.ellipse(ex, ey + r * 0.02, r * 0.12, r * 0.16, (28, 22, 30))
        canvas.line([(ex - r * 0.16, ey - r * 0.34), (ex + r * 0.16, ey - r * 0.34)], r * 0.09, brow)
        canvas.ellipse(x + side * r * 0.58, y + r * 0.42, r * 0.17, r * 0.11, _blush(skin))
    canvas.line([(x - r * 0.24, y + r * 0.55), (x, y + r * 0.63), (x + r * 0.24, y + r * 0.55)], r * 0.1, (150, 44, 52))


def _blush(skin: tuple[int, int, int]) -> tuple[int, int, int]:
    return min(255, skin[0] + 12), int(skin[1] * 0.84), int(skin[2] * 0.84)


def _beard(canvas: Canvas, figure: Figure) -> None:
    (x, y), r, identity = figure.head, figure.radius, figure.identity
    if identity.beard == "none":
        return
    colour = shade(HAIR_COLOURS[identity.hair_colour], 0.9)
    canvas.ellipse(x - r * 0.2, y + r * 0.42, r * 0.26, r * 0.12, colour)
    canvas.ellipse(x + r * 0.2, y + r * 0.42, r * 0.26, r * 0.12, colour)
    if identity.beard != "moustache":
        length = 0.5 if identity.beard == "short" else 1.0
        canvas.slice(x, y + r * 0.42, r * 0.84, r * (0.62 + 0.4 * (length - 0.5)), 0, 180, colour)
        if identity.beard == "long":
            canvas.polygon([(x - r * 0.66, y + r * 0.7), (x + r * 0.66, y + r * 0.7), (x, y + r * 1.75)], colour)
        canvas.ellipse(x, y + r * 0.56, r * 0.2, r * 0.07, (150, 44, 52))


def _glasses(canvas: Canvas, figure: Figure) -> None:
    (x, y), r, kind = figure.head, figure.radius, figure.identity.glasses
    if kind == "none":
        return
    frame = (24, 24, 30)
    for side in (-1, 1):
        ex, ey = x + side * r * 0.4, y + r * 0.1
        if kind == "sunglasses":
            canvas.rectangle(ex - r * 0.34, ey - r * 0.22, ex + r * 0.34, ey + r * 0.26, frame, radius=r * 0.14)
        else:
            canvas.ring(ex, ey, r * 0.31, r * 0.1, frame)
        canvas.line([(x + side * r * 0.7, ey), (x + side * r * 0.95, ey - r * 0.05)], r * 0.09, frame)
    canvas.line([(x - r * 0.1, y + r * 0.06), (x + r * 0.1, y + r * 0.06)], r * 0.1, frame)
