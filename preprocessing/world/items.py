"""Things people hold or wear: no part of an identity, so they are drawn with label 0 and exact masks leave them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from preprocessing.world.canvas import Canvas
from preprocessing.world.people import Figure

Painter = Callable[[Canvas, Figure], None]


def balloon(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.hand(figure.side)
    bx, by = x + figure.side * 2.5, y - 17
    canvas.line([(x, y), (bx, by + 5)], 0.7, (240, 240, 240))
    canvas.ellipse(bx, by, 4.6, 5.4, (228, 30, 44))
    canvas.ellipse(bx - 1.5, by - 1.8, 1.1, 1.5, (255, 150, 150))


def umbrella(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.hand(figure.side)
    top = figure.head[1] - figure.radius * 1.5
    canvas.line([(x, y + 2), (x, top)], 0.9, (90, 70, 60))
    canvas.slice(x, top + 4, 12, 9, 180, 360, (40, 84, 220))
    canvas.slice(x, top + 4, 4.2, 9, 180, 360, (120, 160, 255))


def flower(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.hand(figure.side)
    canvas.line([(x, y + 1), (x, y - 7)], 1.0, (40, 140, 60))
    for dx, dy in ((-2, 0), (2, 0), (0, -2), (0, 2)):
        canvas.ellipse(x + dx, y - 9 + dy, 1.9, 1.9, (255, 120, 180))
    canvas.ellipse(x, y - 9, 1.5, 1.5, (255, 220, 70))


def ice_cream(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.hand(figure.side)
    canvas.polygon([(x - 2.4, y - 3), (x + 2.4, y - 3), (x, y + 3.2)], (224, 160, 84))
    canvas.ellipse(x, y - 4.6, 3.1, 3.0, (255, 190, 210))
    canvas.ellipse(x, y - 7.6, 2.3, 2.2, (150, 92, 60))


def guitar(canvas: Canvas, figure: Figure) -> None:
    x, y, s = figure.x, (figure.shoulder + figure.hip) / 2 + 1, figure.side
    canvas.line([(x, y), (x + s * 12, y - 9)], 1.6, (90, 54, 30))
    canvas.ellipse(x - s * 2.4, y + 1.6, 4.6, 4.0, (206, 120, 44))
    canvas.ellipse(x + s * 1.2, y - 0.8, 3.4, 3.0, (206, 120, 44))
    canvas.ellipse(x - s * 1.6, y + 1.0, 1.4, 1.4, (70, 40, 24))


def book(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.x, figure.shoulder + figure.height * 0.1
    canvas.polygon([(x - 6.5, y - 4), (x, y - 2.8), (x, y + 4.4), (x - 6.5, y + 3.2)], (40, 120, 90))
    canvas.polygon([(x + 6.5, y - 4), (x, y - 2.8), (x, y + 4.4), (x + 6.5, y + 3.2)], (52, 150, 112))
    canvas.line([(x, y - 2.8), (x, y + 4.4)], 0.7, (250, 246, 230))


def top_hat(canvas: Canvas, figure: Figure) -> None:
    (x, y), r = figure.head, figure.radius
    canvas.rectangle(x - r * 0.74, y - r * 1.95, x + r * 0.74, y - r * 0.72, (36, 34, 44))
    canvas.rectangle(x - r * 0.74, y - r * 1.06, x + r * 0.74, y - r * 0.8, (200, 40, 50))
    canvas.rectangle(x - r * 1.3, y - r * 0.82, x + r * 1.3, y - r * 0.58, (36, 34, 44), radius=r * 0.1)


def crown(canvas: Canvas, figure: Figure) -> None:
    (x, y), r = figure.head, figure.radius
    top, base = y - r * 1.6, y - r * 0.7
    points = [(x - r * 0.85, base), (x - r * 0.95, top), (x - r * 0.45, top + r * 0.4), (x, top - r * 0.12)]
    points += [(x + r * 0.45, top + r * 0.4), (x + r * 0.95, top), (x + r * 0.85, base)]
    canvas.polygon(points, (255, 206, 40))
    for dx, gem in ((-0.45, (220, 40, 60)), (0.0, (40, 110, 230)), (0.45, (220, 40, 60))):
        canvas.ellipse(x + dx * r, base - r * 0.22, r * 0.14, r * 0.14, gem)


def santa_hat(canvas: Canvas, figure: Figure) -> None:
    (x, y), r, s = figure.head, figure.radius, figure.side
    canvas.polygon(
        [
            (x - r * 1.0, y - r * 0.6),
            (x + r * 1.0, y - r * 0.6),
            (x + s * r * 1.15, y - r * 1.55),
            (x - s * r * 0.1, y - r * 1.65),
        ],
        (216, 30, 40),
    )
    canvas.rectangle(x - r * 1.1, y - r * 0.86, x + r * 1.1, y - r * 0.5, (252, 252, 252), radius=r * 0.16)
    canvas.ellipse(x + s * r * 1.2, y - r * 1.4, r * 0.28, r * 0.28, (252, 252, 252))


def scarf(canvas: Canvas, figure: Figure) -> None:
    x, y, w, s = figure.x, figure.shoulder + figure.height * 0.005, figure.width, figure.side
    canvas.rectangle(
        x - w * 0.95, y - figure.height * 0.045, x + w * 0.95, y + figure.height * 0.045, (250, 90, 20), radius=1.2
    )
    canvas.rectangle(x - s * w * 0.2, y, x - s * w * 0.85, y + figure.height * 0.2, (250, 90, 20), radius=0.6)
    for k in (0.09, 0.15):
        canvas.rectangle(
            x - s * w * 0.2, y + figure.height * k, x - s * w * 0.85, y + figure.height * (k + 0.025), (255, 236, 120)
        )


def wizard_hat(canvas: Canvas, figure: Figure) -> None:
    (x, y), r, s = figure.head, figure.radius, figure.side
    canvas.polygon(
        [(x - r * 0.95, y - r * 0.66), (x + r * 0.95, y - r * 0.66), (x + s * r * 0.3, y - r * 2.1)], (92, 48, 168)
    )
    canvas.ellipse(x, y - r * 0.66, r * 1.35, r * 0.2, (112, 64, 196))
    for dx, dy in ((-0.3, -0.95), (0.36, -1.0), (0.16, -1.5)):
        canvas.ellipse(x + dx * r, y + dy * r, r * 0.13, r * 0.13, (255, 226, 90))


def headphones(canvas: Canvas, figure: Figure) -> None:
    (x, y), r = figure.head, figure.radius
    band = [(x + r * 1.12 * math.cos(a), y - r * 1.2 * math.sin(a)) for a in (0.25 + k * 0.2 for k in range(14))]
    canvas.line(band, r * 0.2, (60, 220, 190))
    for side in (-1, 1):
        canvas.ellipse(x + side * r * 1.08, y + r * 0.1, r * 0.34, r * 0.46, (32, 36, 46))
        canvas.ellipse(x + side * r * 1.14, y + r * 0.1, r * 0.18, r * 0.28, (60, 220, 190))


def face_mask(canvas: Canvas, figure: Figure) -> None:
    (x, y), r = figure.head, figure.radius
    for side in (-1, 1):
        canvas.line([(x + side * r * 0.6, y + r * 0.4), (x + side * r * 0.98, y + r * 0.12)], r * 0.09, (236, 246, 250))
    canvas.polygon(
        [
            (x - r * 0.72, y + r * 0.3),
            (x, y + r * 0.2),
            (x + r * 0.72, y + r * 0.3),
            (x + r * 0.5, y + r * 0.92),
            (x, y + r * 1.06),
            (x - r * 0.5, y + r * 0.92),
        ],
        (126, 200, 232),
    )
    canvas.line([(x - r * 0.5, y + r * 0.6), (x + r * 0.5, y + r * 0.6)], r * 0.08, (236, 246, 250))


def astronaut_helmet(canvas: Canvas, figure: Figure) -> None:
    (x, y), r = figure.head, figure.radius
    canvas.ring(x, y, r * 1.26, r * 0.42, (240, 242, 248))
    canvas.line([(x - r * 1.0, y + r * 1.16), (x + r * 1.0, y + r * 1.16)], r * 0.36, (206, 210, 222))
    canvas.ellipse(x + r * 1.16, y - r * 0.1, r * 0.16, r * 0.3, (226, 60, 50))
    canvas.line([(x - r * 0.86, y - r * 0.42), (x - r * 0.56, y - r * 0.8)], r * 0.14, (255, 255, 255))


def fan(canvas: Canvas, figure: Figure) -> None:
    r, (hx, hy) = figure.radius, figure.hand(figure.side)
    x, y = hx - figure.side * r * 0.4, hy + r * 0.2
    canvas.slice(x, y, r * 1.3, r * 1.16, 184, 356, (206, 34, 66))
    canvas.slice(x, y, r * 0.95, r * 0.82, 184, 356, (250, 196, 90))
    for a in (0.6, 1.15, 1.7, 2.25, 2.7):
        canvas.line([(x, y), (x + r * 1.24 * math.cos(a), y - r * 1.1 * math.sin(a))], r * 0.08, (110, 20, 40))


def cup(canvas: Canvas, figure: Figure) -> None:
    x, y = figure.hand(figure.side)
    s = figure.radius * 0.46
    x -= figure.side * s * 0.9
    canvas.ring(x + figure.side * s * 1.0, y - s * 0.3, s * 0.5, s * 0.3, (250, 250, 250))
    canvas.rectangle(x - s, y - s * 1.1, x + s, y + s * 0.8, (250, 250, 250), radius=s * 0.3)
    canvas.rectangle(x - s, y - s * 0.5, x + s, y - s * 0.05, (40, 120, 210))


def balls(canvas: Canvas, figure: Figure) -> None:
    top = figure.head[1] - figure.radius * 1.75
    colours = ((240, 60, 60), (250, 210, 50), (70, 200, 90), (70, 130, 250))
    for k, colour in enumerate(colours):
        a = math.pi * (0.1 + 0.8 * k / 3)
        canvas.ellipse(figure.x + 11 * math.cos(a), top + 6 - 7 * math.sin(a), 2.3, 2.3, colour)


def barbell(canvas: Canvas, figure: Figure) -> None:
    (left, y), (right, _) = figure.hand(-1), figure.hand(1)
    canvas.line([(left - 4, y), (right + 4, y)], 1.3, (200, 204, 214))
    for x, side in ((left - 3, -1), (right + 3, 1)):
        canvas.rectangle(x - 1.2, y - 5.2, x + 1.2, y + 5.2, (44, 46, 56), radius=0.8)
        canvas.rectangle(x + side * 2 - 0.9, y - 3.6, x + side * 2 + 0.9, y + 3.6, (206, 60, 60), radius=0.6)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """words: its part of the caption; hands: what it does to the arms (see `Figure.hands`), "pose" leaves the pose
    free."""

    words: str
    paint: Painter
    hands: str = "pose"


ITEMS: dict[str, Thing] = {
    "balloon": Thing(words="holding a red balloon", paint=balloon, hands="held"),
    "umbrella": Thing(words="holding an umbrella", paint=umbrella, hands="held"),
    "flower": Thing(words="holding a flower", paint=flower, hands="held"),
    "ice cream": Thing(words="eating an ice cream", paint=ice_cream, hands="held"),
    "guitar": Thing(words="playing a guitar", paint=guitar, hands="held"),
    "book": Thing(words="reading a book", paint=book, hands="held"),
    "cup": Thing(words="drinking from a cup", paint=cup, hands="face"),
    "fan": Thing(words="hiding behind a fan", paint=fan, hands="face"),
    "balls": Thing(words="juggling balls", paint=balls, hands="raised"),
    "barbell": Thing(words="lifting a barbell", paint=barbell, hands="raised"),
    "top hat": Thing(words="wearing a top hat", paint=top_hat),
    "crown": Thing(words="wearing a crown", paint=crown),
    "santa hat": Thing(words="wearing a santa hat", paint=santa_hat),
    "wizard hat": Thing(words="wearing a wizard hat", paint=wizard_hat),
    "scarf": Thing(words="wearing a scarf", paint=scarf),
    "headphones": Thing(words="wearing headphones", paint=headphones),
    "face mask": Thing(words="wearing a face mask", paint=face_mask),
    "astronaut helmet": Thing(words="wearing an astronaut helmet", paint=astronaut_helmet),
}
