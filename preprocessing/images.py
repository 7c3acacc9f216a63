"""Reading image files that may be anything, and cutting a square out of an image and its label map together."""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from preprocessing.colours import in_srgb
from preprocessing.errors import Rejection
from preprocessing.frame import Box

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = ("JPEG", "PNG", "WEBP")
OTHER_EXTENSIONS = (  # pictures that are not read
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".tif", ".tiff"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
)
FILE_OVERHEAD = 1 << 24  # bytes of colour profiles, previews and other metadata
PAPER = (255, 255, 255, 255)  # what shows through transparent pixels


def decode_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """An upright sRGB image of any JPEG, PNG or WebP bytes; transparent pixels become white.

    Raises Rejection: `too_large` before decoding more than `max_pixels`, `unreadable` for whatever a decoder dislikes.
    Raises MemoryError, which says nothing about the image.
    """
    if not data:
        raise Rejection("unreadable", "the file is empty")
    try:
        with _without_pillows_limit():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise Rejection("too_large", f"{image.width}x{image.height} is more than {max_pixels} pixels")
            image.load()
            return _rgb(in_srgb(_upright(image)))
    except (Rejection, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on hostile bytes
        raise Rejection("unreadable", _explain(error)) from error


def read_image_file(path: Path, *, max_pixels: int) -> bytes:
    """The bytes of a regular file.

    Raises OSError, also for a pipe or a dangling link, and Rejection `too_large` for more bytes than `max_pixels` can
    need.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    if (size := path.stat().st_size) > 4 * max_pixels + FILE_OVERHEAD:
        raise Rejection("too_large", f"{size} bytes are more than {max_pixels} pixels can need")
    return path.read_bytes()


def decode_labels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A label map uint8 [H, W] of the given (width, height). Raises Rejection("bad_annotation"), MemoryError."""
    try:
        with _without_pillows_limit(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != size:
                raise Rejection("bad_annotation", f"the mask is {image.size}, the upright image is {size}")
            if image.mode not in ("L", "P", "1"):
                raise Rejection(
                    "bad_annotation", f"the mask has mode {image.mode}; a label map is 8-bit grey or palette"
                )
            return np.asarray(image).astype(np.uint8)
    except (Rejection, MemoryError):
        raise
    except Exception as error:
        raise Rejection("bad_annotation", f"the mask cannot be read: {_explain(error)}") from error


@dataclass(frozen=True)
class SquareCrop:
    """A square of a `width` x `height` image, scaled to `side` pixels: the same for image, labels and boxes.

    It is as large as fits and lies in the centre; `top` puts it at the top of tall images, where portraits have heads.
    """

    width: int
    height: int
    side: int
    anchor: Literal["centre", "top"] = "centre"

    @property
    def window(self) -> tuple[int, int, int, int]:
        """The square in pixels of the original."""
        edge = min(self.width, self.height)
        left, top = (self.width - edge) // 2, 0 if self.anchor == "top" else (self.height - edge) // 2
        return left, top, left + edge, top + edge

    def image(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 [side, side, 3]; pixels are untouched when the size already fits."""
        return self._apply(image, Image.Resampling.LANCZOS)

    def labels(self, labels: np.ndarray) -> np.ndarray:
        """Label map [H, W] -> [side, side]; labels are never blended."""
        return self._apply(Image.fromarray(labels), Image.Resampling.NEAREST)

    def box(self, box: Box) -> Box | None:
        """A box of the original in pixels of the square; None when it lies outside."""
        left, top, right, _ = self.window
        scale = self.side / (right - left)
        x0, x1 = (min(max((x - left) * scale, 0), self.side) for x in (box.x0, box.x1))
        y0, y1 = (min(max((y - top) * scale, 0), self.side) for y in (box.y0, box.y1))
        return Box(x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None

    def _apply(self, image: Image.Image, resampling: Image.Resampling) -> np.ndarray:
        if self.window != (0, 0, self.side, self.side):
            image = image.resize((self.side, self.side), resampling, box=self.window)
        return np.asarray(image)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow refuses twice, and warns of, `Image.MAX_IMAGE_PIXELS`; what is decoded inside has a limit of its own."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data says, or as it is where they are junk: its pixels are fine."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # SyntaxError, struct.error, ... as above
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB. 16-bit grey is scaled (Pillow's own conversion clips it), transparency lies on white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, PAPER), layer).convert("RGB")
    return image.convert("RGB")


def _explain(error: Exception) -> str:
    """The decoder's words without object addresses, so that the same file gives the same line."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a JPEG, PNG or WebP image"
    return f"{type(error).__name__}: {error}"
