"""Things people hold or wear: no part of an identity, so they are drawn with label 0 and exact masks leave them out."""

from __future__ import annotations

from collections.abc import Callable

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


# name: (words in the caption, painter, needs the free hand)
ITEMS: dict[str, tuple[str, Painter, bool]] = {
    "balloon": ("holding a red balloon", balloon, True),
    "umbrella": ("holding an umbrella", umbrella, True),
    "flower": ("holding a flower", flower, True),
    "ice cream": ("eating an ice cream", ice_cream, True),
    "guitar": ("playing a guitar", guitar, True),
    "book": ("reading a book", book, True),
    "top hat": ("wearing a top hat", top_hat, False),
    "crown": ("wearing a crown", crown, False),
    "santa hat": ("wearing a santa hat", santa_hat, False),
    "scarf": ("wearing a scarf", scarf, False),
}
HELD = frozenset(name for name, (_, _, held) in ITEMS.items() if held)
