"""Subjects: what a user asks to put into the picture, and the image feature f = E_img(I) of eq. 8.

Training and inference both go through `encoder_pixels` and `image_features`, so a feature means the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from moa.colours import in_srgb
from moa.errors import SubjectError

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
)  # PIL makes 8-bit RGBA of them


@dataclass(frozen=True, eq=False)
class Subject:
    """One person or thing for the picture: the prompt's `word` it stands for, and its looks.

    image      a photograph, or a cut-out (RGBA: what is transparent is not the subject)
    features   [image_dim] instead of an image, e.g. `torch.lerp` of two people's features (subject morphing)
    position   token index in the prompt (start token 0), instead of looking the word up
    prepare    cut the largest person out of a photograph (less than a twentieth is transparent), crop a cut-out to what
               is there; False: show the image encoder all of it, e.g. for a thing or an animal

    Give exactly one of image and features; `MoAPipeline.encode_subjects` makes features from images. Raises
    `SubjectError` otherwise, and for a word that is no text or a position that is no whole number.
    """

    word: str
    image: Image.Image | None = None
    features: Tensor | None = None
    position: int | None = None
    prepare: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.word, str):
            raise SubjectError(f"the word of a subject is a {type(self.word).__name__}: give Subject(word, image)")
        if (self.image is None) == (self.features is None):
            raise SubjectError(f"subject {self.word!r} needs either an image or features, and not both")
        if not (self.position is None or _is_whole(self.position)):
            raise SubjectError(
                f"the position of subject {self.word!r} is {self.position!r}, a {type(self.position).__name__}: give "
                "the index of its token in the prompt, a whole number, or leave it out"
            )


def _is_whole(value: object) -> bool:
    """Whether it is an integer, NumPy's and a tensor's of one element included; a truth value is none."""
    try:
        return not isinstance(value, bool) and index(value) is not None  # type: ignore[arg-type]
    except TypeError:
        return False


def encoder_pixels(images: Sequence[Image.Image], image_processor: CLIPImageProcessor) -> Tensor:
    """What the image encoder sees of each subject: [n, 3, h, w], normalised.

    Transparent parts become the encoder's mean colour, which is 0 after normalisation; the image is padded with it to a
    square (nothing is cropped away) and resized. Raises `SubjectError` for an image without any visible pixel.
    """
    neutral = tuple(round(255 * value) for value in image_processor.image_mean)
    squares = [_square(_rgba(image, number), neutral) for number, image in enumerate(images)]
    return image_processor(squares, return_tensors="pt").pixel_values


def processor_folder(encoder_folder: Path) -> Path:
    """Where the image processor of an encoder is: in the same folder, or beside it in `feature_extractor/`."""
    beside = encoder_folder.parent / "feature_extractor"
    within = (encoder_folder / "preprocessor_config.json").is_file()
    return beside if not within and beside.is_dir() else encoder_folder


def image_features(encoder: CLIPVisionModelWithProjection, pixels: Tensor) -> Tensor:
    """f of eq. 8 for [n, 3, h, w] pixels: the encoder's projected image embedding [n, projection_dim], unnormalised."""
    return encoder(pixels).image_embeds


def check_image(image: Image.Image, name: str) -> None:
    """Raises `SubjectError`, which calls the image `name`, when it is no PIL image, empty, of a mode that has no 8-bit
    colours (16-bit grey would be cut off at white), or cannot be decoded: damaged, or closed before it was read."""
    if not isinstance(image, Image.Image):
        raise SubjectError(f"{name} is a {type(image).__name__}: give a PIL image (Image.open), or features")
    if min(image.size) == 0:
        raise SubjectError(f"{name} is empty ({image.width} x {image.height} pixels): give one with pixels")
    if image.mode not in MODES:
        raise SubjectError(f"{name} has mode {image.mode}: convert it to 8-bit RGB, RGBA or L first")
    try:
        image.load()
        image.crop((0, 0, 1, 1)).convert("RGBA")  # fails where what it says of its transparency is not of its mode
    except Exception as error:  # OSError, SyntaxError, EOFError, ValueError, ...: what a decoder meets in junk
        reason = "its file is closed" if isinstance(error, AssertionError) else error  # Pillow asserts that it is open
        raise SubjectError(
            f"{name} cannot be decoded ({reason}): load() it while its file is open, or save or download it again"
        ) from error


def check_features(features: Tensor, image_dim: int, word: str) -> Tensor:
    """One subject's features as [image_dim], fp32, CPU. Raises `SubjectError` when they have no such values, their
    shape is wrong, or they are not finite."""
    try:
        features = torch.as_tensor(features, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise SubjectError(f"the features of subject {word!r} are no tensor ({error}): give [{image_dim}]") from error
    if tuple(features.shape) not in {(image_dim,), (1, image_dim)}:
        raise SubjectError(
            f"the features of subject {word!r} have shape {tuple(features.shape)}, this model needs [{image_dim}]: "
            "make them with this pipeline's encode_subjects"
        )
    if not torch.isfinite(features).all():
        raise SubjectError(f"the features of subject {word!r} contain NaN or infinity: encode the image again")
    return features.reshape(image_dim)


def upright(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """The image in `mode`, turned as its EXIF data say, in the colours of sRGB, and without either's data; as it is
    stored where they are junk."""
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # SyntaxError, struct.error, ...: what a parser meets in junk
        turned = image
    plain = in_srgb(turned).convert(mode)
    plain.info.clear()
    return plain


def _rgba(image: Image.Image, number: int) -> Image.Image:
    check_image(image, f"image {number} of the subjects")
    image = upright(image, "RGBA")
    if not np.asarray(image)[..., 3].any():
        raise SubjectError(
            f"image {number} of the subjects is fully transparent: nothing of the subject is left to see"
        )
    return image


def _square(image: Image.Image, neutral: tuple[int, ...]) -> Image.Image:
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), (*neutral, 255))
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB")
