"""Pictures inside the page: decoded, shrunk, and written again as WebP data URIs.

Nothing of an original file is copied as bytes: what cannot be decoded is not shown, and metadata does not travel.
Pictures of the miniature world (at most 128 px) stay as they are, lossless, and the browser magnifies them with hard
edges.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

PIXEL_ART = 128  # sources up to this edge are embedded lossless and magnified with hard edges
NEUTRAL = (127, 127, 127)  # what the image encoder sees behind a subject


@dataclass(frozen=True)
class Thumb:
    """A picture in the page. `uri` is "" when the file is missing or unreadable, and `problem` says which."""

    uri: str
    width: int
    height: int
    href: str
    pixelated: bool = False
    problem: str = ""


class Thumbnails:
    """Makes thumbnails, each once; links lead from the folder `page` to the originals by relative path."""

    def __init__(self, page: Path) -> None:
        self._page = page
        self._made: dict[tuple[Path, int], Thumb] = {}

    @property
    def bytes(self) -> int:
        """Size of all data URIs made so far; a picture shown twice is counted once."""
        return sum(len(thumb.uri) for thumb in self._made.values())

    def thumb(self, path: Path, edge: int) -> Thumb:
        """The picture with its longer edge at most `edge` pixels."""
        key = (path, edge)
        if key not in self._made:
            self._made[key] = self._make(path, edge)
        return self._made[key]

    def href(self, path: Path) -> str:
        """A relative, percent-encoded link from the page to a file."""
        return quote(Path(os.path.relpath(path, self._page)).as_posix())

    def _make(self, path: Path, edge: int) -> Thumb:
        try:
            with Image.open(path) as opened:
                opened.draft("RGB", (edge, edge))
                image = flatten(opened)
        except FileNotFoundError:
            return Thumb("", 0, 0, "", problem="image file missing")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return Thumb("", 0, 0, self.href(path), problem="image file unreadable")
        small = max(image.size) <= PIXEL_ART
        if not small:
            image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "WEBP", lossless=small, quality=100 if small else 80, method=4)
        uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
        return Thumb(uri, *image.size, href=self.href(path), pixelated=small)


def flatten(image: Image.Image) -> Image.Image:
    """RGB, with transparent pixels on the neutral background the image encoder sees."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    background = Image.new("RGBA", rgba.size, (*NEUTRAL, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")
