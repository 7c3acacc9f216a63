"""A supersampled drawing surface that keeps a colour picture and an exact label map side by side.

Coordinates are pixels of the final 64x64 frame (floats, origin top left), whatever the final size is; everything is
drawn
four times larger and averaged down, which gives smooth edges. While `label` is set, every shape also marks the label
map;
shapes drawn with `label = 0` erase it, which is how an object in front of a person takes its place out of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageDraw

FRAME = 64.0
SUPERSAMPLE = 4

RGB = tuple[int, int, int]
Point = tuple[float, float]


def shade(colour: RGB, factor: float) -> RGB:
    """`colour` made darker (factor < 1) or lighter (factor > 1)."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(c + (255 - c) * (factor - 1)) for c in colour)  # type: ignore[return-value]


class Canvas:
    """Draws shapes in frame coordinates on a picture and its label map."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.scale = size * SUPERSAMPLE / FRAME
        shape = (size * SUPERSAMPLE, size * SUPERSAMPLE)
        self.picture = Image.new("RGB", shape)
        self.labels = Image.new("L", shape, 0)
        self._pen = ImageDraw.Draw(self.picture)
        self._marker = ImageDraw.Draw(self.labels)
        self.label = 0

    @contextmanager
    def labelled(self, label: int) -> Iterator[None]:
        """Within this block shapes belong to `label` (0: to the background or an object)."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def ellipse(self, cx: float, cy: float, rx: float, ry: float, fill: RGB) -> None:
        box = [v * self.scale for v in (cx - rx, cy - ry, cx + rx, cy + ry)]
        self._pen.ellipse(box, fill=fill)
        self._marker.ellipse(box, fill=self.label)

    def slice(self, cx: float, cy: float, rx: float, ry: float, start: float, end: float, fill: RGB) -> None:
        """Part of an ellipse between two angles in degrees, clockwise from three o'clock."""
        box = [v * self.scale for v in (cx - rx, cy - ry, cx + rx, cy + ry)]
        self._pen.pieslice(box, start, end, fill=fill)
        self._marker.pieslice(box, start, end, fill=self.label)

    def polygon(self, points: Sequence[Point], fill: RGB) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self._pen.polygon(scaled, fill=fill)
        self._marker.polygon(scaled, fill=self.label)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, radius: float = 0.0) -> None:
        box = [v * self.scale for v in (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))]
        self._pen.rounded_rectangle(box, radius * self.scale, fill=fill)
        self._marker.rounded_rectangle(box, radius * self.scale, fill=self.label)

    def line(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """A stroke with round ends."""
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        stroke = max(1, round(width * self.scale))
        for pen, colour in ((self._pen, fill), (self._marker, self.label)):
            pen.line(scaled, fill=colour, width=stroke, joint="curve")
            for x, y in (scaled[0], scaled[-1]):
                pen.ellipse([x - stroke / 2, y - stroke / 2, x + stroke / 2, y + stroke / 2], fill=colour)

    def ring(self, cx: float, cy: float, radius: float, width: float, colour: RGB) -> None:
        steps = [2 * math.pi * k / 24 for k in range(25)]
        self.line([(cx + radius * math.cos(a), cy + radius * math.sin(a)) for a in steps], width, colour)

    def gradient(self, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
        """A vertical colour ramp over the whole width."""
        first, last = round(y0 * self.scale), round(y1 * self.scale)
        for row in range(first, last):
            t = (row - first) / max(1, last - first - 1)
            colour = tuple(int(a + (b - a) * t) for a, b in zip(top, bottom, strict=True))
            self._pen.line([(0, row), (self.picture.width, row)], fill=colour)

    def finish(self) -> tuple[Image.Image, np.ndarray]:
        """The averaged picture, and the label map `uint8 [size, size]` by majority vote of the subpixels."""
        picture = self.picture.resize((self.size, self.size), Image.Resampling.BOX)
        fine = np.asarray(self.labels).reshape(self.size, SUPERSAMPLE, self.size, SUPERSAMPLE)
        labels = np.unique(fine)
        votes = np.stack([(fine == value).sum(axis=(1, 3)) for value in labels])
        return picture, labels[votes.argmax(axis=0)].astype(np.uint8)
