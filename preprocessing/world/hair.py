"""Hair styles: what lies behind the head and what lies over it. Lengths are parts of the head radius."""

from __future__ import annotations

from preprocessing.world.canvas import RGB, Canvas, Point, shade


def draw_back(canvas: Canvas, style: str, head: Point, r: float, colour: RGB) -> None:
    """The part of the hair behind the body and the head."""
    x, y = head
    dark = shade(colour, 0.86)
    if style == "long":
        canvas.rectangle(x - r * 1.18, y - r * 0.5, x + r * 1.18, y + r * 1.75, dark, radius=r * 0.5)
        canvas.ellipse(x, y - r * 0.15, r * 1.18, r * 1.12, dark)
    elif style == "bob":
        canvas.rectangle(x - r * 1.22, y - r * 0.5, x + r * 1.22, y + r * 0.82, dark, radius=r * 0.45)
        canvas.ellipse(x, y - r * 0.2, r * 1.22, r * 1.08, dark)
    elif style == "afro":
        canvas.ellipse(x, y - r * 0.28, r * 1.55, r * 1.5, dark)
    elif style == "bun":
        canvas.ellipse(x, y - r * 1.28, r * 0.52, r * 0.5, dark)
    elif style == "ponytail":
        canvas.ellipse(x + r * 1.28, y - r * 0.35, r * 0.42, r * 0.4, dark)
        canvas.polygon([(x + r * 1.0, y - r * 0.4), (x + r * 1.7, y - r * 0.3), (x + r * 1.45, y + r * 1.3)], dark)
    elif style == "pigtails":
        for side in (-1, 1):
            canvas.ellipse(x + side * r * 1.38, y - r * 0.1, r * 0.46, r * 0.62, dark)


def draw_front(canvas: Canvas, style: str, head: Point, r: float, colour: RGB) -> None:
    """The part over the forehead."""
    x, y = head
    if style == "bald":
        canvas.ellipse(x - r * 0.3, y - r * 0.62, r * 0.2, r * 0.12, (255, 244, 230))
    elif style == "spiky":
        _cap(canvas, x, y, r, colour)
        for k in range(-3, 4):
            base = x + k * r * 0.3
            canvas.polygon(
                [(base - r * 0.26, y - r * 0.66), (base + k * r * 0.08, y - r * 1.55), (base + r * 0.26, y - r * 0.66)],
                colour,
            )
    elif style == "curly":
        for k in range(-3, 4):
            canvas.ellipse(x + k * r * 0.34, y - r * (0.98 - 0.07 * k * k), r * 0.33, r * 0.33, colour)
        _cap(canvas, x, y, r * 0.98, colour)
    elif style == "mohawk":
        canvas.polygon(
            [
                (x - r * 0.3, y - r * 0.5),
                (x - r * 0.34, y - r * 1.6),
                (x + r * 0.34, y - r * 1.6),
                (x + r * 0.3, y - r * 0.5),
            ],
            colour,
        )
    elif style in ("long", "bob", "pigtails"):
        _cap(canvas, x, y, r * 1.08, colour)
        for side in (-1, 1):
            canvas.ellipse(x + side * r * 0.92, y - r * 0.1, r * 0.22, r * 0.6, colour)
    else:
        _cap(canvas, x, y, r * 1.05, colour)


def _cap(canvas: Canvas, x: float, y: float, r: float, colour: RGB) -> None:
    """A cap of hair with a side parting."""
    canvas.slice(x, y - r * 0.06, r * 1.02, r * 1.02, 188, 352, colour)
    canvas.ellipse(x - r * 0.34, y - r * 0.5, r * 0.55, r * 0.26, colour)
    canvas.ellipse(x + r * 0.5, y - r * 0.46, r * 0.4, r * 0.22, colour)
