"""Pictures inside the page: decoded, shrunk, and written again as WebP data URIs.

Nothing of an original file is copied as bytes: what cannot be decoded is not shown, and metadata does not travel.
Pictures of the miniature world (at most 128 px) keep every pixel, in at most 256 colours of their own, and the browser
magnifies them with hard edges. Pillow works outside Python's lock, so threads make the pictures while the page is being
arranged; each file is decoded in the thread that needs it and dropped again, which keeps memory flat in the number of
images.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from PIL import Image

from reports.pixels import difference, heat, shrink

SMALL_EDGE, QUALITY, SMALL_QUALITY = 128, 80, 62  # WebP quality of thumbnails; the many small ones cost the most bytes


@dataclass(frozen=True)
class Picture:
    """A finished picture. `uri` is "" when it could not be made, and `problem` says why."""

    uri: str = ""
    width: int = 0
    height: int = 0
    pixelated: bool = False
    problem: str = ""


class Thumb:
    """A picture in the page, perhaps still being made: reading any field of it waits. `href` leads to the original."""

    def __init__(self, href: str, picture: Future[Picture]) -> None:
        self._href, self._picture = href, picture

    @property
    def href(self) -> str:
        return "" if self.problem == "image file missing" else self._href

    @property
    def uri(self) -> str:
        return self._picture.result().uri

    @property
    def width(self) -> int:
        return self._picture.result().width

    @property
    def height(self) -> int:
        return self._picture.result().height

    @property
    def pixelated(self) -> bool:
        return self._picture.result().pixelated

    @property
    def problem(self) -> str:
        return self._picture.result().problem


def absent(problem: str) -> Thumb:
    """The place of a picture of which there is no file at all."""
    nothing: Future[Picture] = Future()
    nothing.set_result(Picture(problem=problem))
    return Thumb("", nothing)


class Thumbnails:
    """Makes pictures, each once, their edges times `scale`; links lead from the folder `page` to the originals by
    relative path.

    A context manager: leaving it ends the threads.
    """

    def __init__(self, page: Path, scale: float = 1.0) -> None:
        self._page, self._scale = page, scale
        self._made: dict[Hashable, Future[Picture]] = {}
        self._threads = ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="thumbnail")

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown(cancel_futures=True)

    def thumb(self, path: Path, edge: int) -> Thumb:
        """The picture with its longer edge at most `edge` pixels."""
        edge = round(edge * self._scale)
        return self._submit(path, ("thumb", path, edge), lambda: shrink(path, edge))

    def difference(self, path: Path, other: Path, edge: int, gain: float) -> Thumb:
        """Absolute difference of two pictures of one size, times `gain`, black where they agree."""
        edge = round(edge * self._scale)
        return self._submit(path, ("difference", path, other, edge, gain), lambda: difference(path, other, edge, gain))

    def router_maps(self, path: Path, columns: int, rows: int) -> Thumb:
        """A sprite of router maps in colour: dark where the prior speaks, bright where the personal expert does."""
        return self._submit(path, ("router", path), lambda: heat(path, columns, rows))

    def href(self, path: Path) -> str:
        """A relative, percent-encoded link from the page to a file."""
        return quote(Path(os.path.relpath(path, self._page)).as_posix())

    def _submit(self, path: Path, key: Hashable, make: Callable[[], tuple[Image.Image, bool]]) -> Thumb:
        if key not in self._made:
            self._made[key] = self._threads.submit(_encoded, make)
        return Thumb(self.href(path), self._made[key])


def _encoded(make: Callable[[], tuple[Image.Image, bool]]) -> Picture:
    """The data URI of what `make` returns, or the reason why there is none."""
    try:
        image, pixel_art = make()
    except FileNotFoundError:
        return Picture(problem="image file missing")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return Picture(problem="image file unreadable")
    uri = "data:image/webp;base64," + base64.b64encode(_webp(image, pixel_art)).decode("ascii")
    return Picture(uri, *image.size, pixelated=pixel_art)


def _webp(image: Image.Image, pixel_art: bool) -> bytes:
    stream = io.BytesIO()
    if pixel_art:  # the effort of method 2 is a tenth of the full one, for the same size within 1 %
        _few_colours(image).save(stream, "WEBP", lossless=True, quality=50, method=2)
    else:
        quality = SMALL_QUALITY if max(image.size) <= SMALL_EDGE else QUALITY
        image.save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()


def _few_colours(image: Image.Image) -> Image.Image:
    """At most 256 colours: a generated picture of 64 px then takes 3.4 KB instead of 5.5, and is 2 of 255 off."""
    if image.getcolors(256):
        return image
    return image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
