"""The places of the miniature world: each draws a background with its own random layout.

A scene is a phrase for the caption and a function `(canvas, rng)`. People stand with their feet between y = 50 and y
= 62,
so every scene keeps that strip as ground.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from preprocessing.world.canvas import RGB, Canvas, shade

Painter = Callable[[Canvas, random.Random], None]


def _jitter(rng: random.Random, colour: RGB, amount: int = 14) -> RGB:
    return tuple(max(0, min(255, c + rng.randint(-amount, amount))) for c in colour)  # type: ignore[return-value]


def _tree(canvas: Canvas, x: float, y: float, size: float, leaves: RGB) -> None:
    canvas.rectangle(x - size * 0.1, y - size * 0.7, x + size * 0.1, y, (104, 70, 40))
    canvas.ellipse(x, y - size * 1.05, size * 0.42, size * 0.5, shade(leaves, 0.85))
    canvas.ellipse(x - size * 0.08, y - size * 1.12, size * 0.32, size * 0.38, leaves)


def _cloud(canvas: Canvas, x: float, y: float, size: float, colour: RGB = (250, 252, 255)) -> None:
    for dx, dy, r in ((-0.8, 0.1, 0.6), (0.0, -0.15, 0.8), (0.85, 0.1, 0.55)):
        canvas.ellipse(x + dx * size, y + dy * size, r * size, r * size * 0.7, colour)


def beach(canvas: Canvas, rng: random.Random) -> None:
    horizon = rng.uniform(24, 30)
    canvas.gradient(0, horizon, _jitter(rng, (92, 180, 246)), (196, 232, 255))
    canvas.ellipse(rng.uniform(8, 56), rng.uniform(7, 13), 4.5, 4.5, (255, 240, 128))
    canvas.gradient(horizon, horizon + 11, (26, 110, 190), (70, 170, 214))
    canvas.line([(0, horizon + 11), (64, horizon + 11)], 1.2, (240, 250, 255))
    canvas.gradient(horizon + 11.5, 64, _jitter(rng, (244, 224, 162)), (226, 196, 128))
    x = rng.choice((rng.uniform(2, 10), rng.uniform(54, 62)))
    canvas.line([(x, 46), (x + 2, 26)], 1.8, (128, 88, 48))
    for dx, dy in ((-8, 1), (-6, -4), (1, -6), (8, -3), (10, 2)):
        canvas.line([(x + 2, 26), (x + 2 + dx, 26 + dy)], 2.0, (40, 140, 64))


def park(canvas: Canvas, rng: random.Random) -> None:
    horizon = rng.uniform(32, 38)
    canvas.gradient(0, horizon, _jitter(rng, (134, 200, 246)), (214, 238, 252))
    _cloud(canvas, rng.uniform(8, 56), rng.uniform(6, 12), rng.uniform(3, 5))
    canvas.gradient(horizon, 64, _jitter(rng, (116, 196, 86)), (72, 150, 60))
    for _ in range(rng.randint(2, 4)):
        _tree(canvas, rng.uniform(2, 62), horizon + rng.uniform(0, 5), rng.uniform(17, 25), _jitter(rng, (52, 150, 60)))


def snow(canvas: Canvas, rng: random.Random) -> None:
    horizon = rng.uniform(32, 38)
    canvas.gradient(0, horizon, _jitter(rng, (160, 184, 214)), (222, 232, 244))
    for _ in range(rng.randint(2, 3)):
        x, h, w = rng.uniform(4, 60), rng.uniform(16, 26), rng.uniform(15, 22)
        canvas.polygon([(x - w, horizon), (x, horizon - h), (x + w, horizon)], _jitter(rng, (120, 132, 160)))
        canvas.polygon(
            [(x - w * 0.36, horizon - h * 0.64), (x, horizon - h), (x + w * 0.36, horizon - h * 0.64)], (252, 253, 255)
        )
    canvas.gradient(horizon, 64, (250, 252, 255), (222, 232, 246))
    for _ in range(22):
        canvas.ellipse(rng.uniform(0, 64), rng.uniform(0, 60), 0.6, 0.6, (255, 255, 255))


def night_city(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(0, 44, (14, 12, 46), (62, 44, 104))
    canvas.ellipse(rng.uniform(8, 56), rng.uniform(6, 11), 3.6, 3.6, (250, 246, 210))
    x = -2.0
    while x < 64:
        width, top = rng.uniform(8, 13), rng.uniform(10, 28)
        canvas.rectangle(x, top, x + width, 46, _jitter(rng, (40, 44, 82), 10))
        for wy in range(int(top) + 2, 44, 4):
            for wx in range(int(x) + 2, int(x + width) - 1, 3):
                if rng.random() < 0.55:
                    canvas.rectangle(wx, wy, wx + 1.4, wy + 1.9, (255, 220, 110))
        x += width + rng.uniform(0, 1.2)
    canvas.gradient(45, 64, (58, 56, 74), (40, 40, 54))


def desert(canvas: Canvas, rng: random.Random) -> None:
    horizon = rng.uniform(32, 38)
    canvas.gradient(0, horizon + 4, _jitter(rng, (255, 178, 110)), (255, 226, 178))
    canvas.ellipse(rng.uniform(8, 56), rng.uniform(9, 18), 5.5, 5.5, (255, 246, 200))
    canvas.ellipse(rng.uniform(0, 64), horizon + 4, 34, 9, (226, 158, 92))
    canvas.gradient(horizon + 3, 64, _jitter(rng, (234, 172, 104)), (206, 138, 76))
    for _ in range(rng.randint(1, 3)):
        x, y, h = (
            rng.choice((rng.uniform(3, 16), rng.uniform(48, 61))),
            horizon + rng.uniform(6, 12),
            rng.uniform(12, 18),
        )
        canvas.line([(x, y), (x, y - h)], 3.0, (44, 130, 70))
        canvas.line([(x, y - h * 0.45), (x + 4, y - h * 0.45), (x + 4, y - h * 0.8)], 2.0, (44, 130, 70))
        canvas.line([(x, y - h * 0.3), (x - 4, y - h * 0.3), (x - 4, y - h * 0.6)], 2.0, (44, 130, 70))


def living_room(canvas: Canvas, rng: random.Random) -> None:
    wall = _jitter(rng, (222, 186, 160), 22)
    canvas.rectangle(0, 0, 64, 44, wall)
    canvas.rectangle(0, 43, 64, 44.5, shade(wall, 0.7))
    canvas.rectangle(0, 44.5, 64, 64, _jitter(rng, (150, 104, 70)))
    x = rng.uniform(6, 44)
    canvas.rectangle(x, 6, x + 14, 21, (250, 250, 246))
    canvas.rectangle(x + 1.2, 7.2, x + 12.8, 19.8, (150, 206, 246))
    canvas.line([(x + 7, 7), (x + 7, 20)], 1.0, (250, 250, 246))
    sofa, left = _jitter(rng, (176, 66, 66), 30), rng.uniform(0, 34)
    canvas.rectangle(left, 32, left + 30, 49, sofa, radius=3)
    canvas.rectangle(left + 2, 40, left + 28, 50, shade(sofa, 1.2), radius=2)
    lamp = (left + 46) % 60 + 2
    canvas.line([(lamp, 48), (lamp, 26)], 1.0, (70, 60, 60))
    canvas.polygon([(lamp - 4, 28), (lamp - 2, 21), (lamp + 2, 21), (lamp + 4, 28)], (255, 236, 150))


def forest(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(0, 45, (120, 160, 130), (60, 110, 76))
    for depth in (0.6, 0.85):
        for _ in range(6):
            x, w, y = rng.uniform(0, 64), rng.uniform(6, 10), 40 + 6 * depth
            green = shade(_jitter(rng, (34, 104, 62), 12), depth)
            canvas.rectangle(x - 1, y - 5, x + 1, y, shade((90, 60, 40), depth))
            for k in range(3):
                canvas.polygon(
                    [
                        (x - w * (1 - k * 0.25), y - 4 - k * 8),
                        (x, y - 18 - k * 8),
                        (x + w * (1 - k * 0.25), y - 4 - k * 8),
                    ],
                    green,
                )
    canvas.gradient(44, 64, (70, 96, 50), (52, 74, 40))


def moon(canvas: Canvas, rng: random.Random) -> None:
    canvas.rectangle(0, 0, 64, 64, (8, 8, 20))
    for _ in range(40):
        radius = rng.uniform(0.2, 0.6)
        canvas.ellipse(rng.uniform(0, 64), rng.uniform(0, 40), radius, radius, (255, 255, 240))
    x, y = rng.uniform(10, 54), rng.uniform(9, 15)
    canvas.ellipse(x, y, 6.5, 6.5, (52, 120, 220))
    canvas.ellipse(x - 2, y - 1.5, 2.6, 2.0, (80, 176, 96))
    canvas.ellipse(x + 2.4, y + 2, 2.0, 2.4, (80, 176, 96))
    canvas.gradient(40, 64, (178, 178, 186), (126, 126, 138))
    for _ in range(6):
        cx, cy, r = rng.uniform(0, 64), rng.uniform(43, 62), rng.uniform(2, 5)
        canvas.ellipse(cx, cy, r, r * 0.4, (112, 112, 124))
        canvas.ellipse(cx + 0.3, cy + 0.3, r * 0.8, r * 0.28, (148, 148, 158))


def flower_field(canvas: Canvas, rng: random.Random) -> None:
    horizon = rng.uniform(28, 34)
    canvas.gradient(0, horizon + 3, _jitter(rng, (150, 196, 250)), (246, 226, 240))
    canvas.ellipse(rng.uniform(0, 64), horizon + 6, 40, 12, (120, 170, 100))
    canvas.gradient(horizon + 2, 64, (104, 160, 84), (74, 128, 66))
    for row in range(9):
        y = horizon + 4 + row * 3.6
        for k in range(16):
            colour = (150, 92, 204) if (row + k) % 3 else (186, 128, 226)
            canvas.ellipse(k * 4.2 + rng.uniform(-1.2, 1.2), y + rng.uniform(-0.7, 0.7), 1.2 + row * 0.1, 1.4, colour)


def castle(canvas: Canvas, rng: random.Random) -> None:
    canvas.gradient(0, 46, _jitter(rng, (250, 190, 190)), (255, 232, 200))
    x, stone = rng.uniform(18, 46), _jitter(rng, (168, 160, 172))
    canvas.rectangle(x - 15, 22, x + 15, 46, stone)
    for k in range(-3, 4):
        canvas.rectangle(x + k * 4.6 - 1.4, 19, x + k * 4.6 + 1.4, 23, stone)
    for dx in (-15, 15):
        canvas.rectangle(x + dx - 4, 13, x + dx + 4, 46, shade(stone, 0.9))
        canvas.polygon([(x + dx - 5.5, 13), (x + dx, 3), (x + dx + 5.5, 13)], (190, 60, 70))
        canvas.rectangle(x + dx - 1, 18, x + dx + 1, 22, (70, 60, 80))
    canvas.slice(x, 40, 4.5, 9, 180, 360, (90, 60, 44))
    canvas.rectangle(x - 4.5, 39.5, x + 4.5, 46, (90, 60, 44))
    canvas.gradient(45, 64, (132, 186, 100), (90, 146, 74))


SCENES: dict[str, tuple[str, Painter]] = {
    "beach": ("on a beach", beach),
    "park": ("in a park", park),
    "snow": ("in the snow", snow),
    "city": ("in a city at night", night_city),
    "desert": ("in a desert", desert),
    "room": ("in a living room", living_room),
    "forest": ("in a forest", forest),
    "moon": ("on the moon", moon),
    "flowers": ("in a flower field", flower_field),
    "castle": ("in front of a castle", castle),
}
