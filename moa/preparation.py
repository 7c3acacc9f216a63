"""From a photograph to what the image encoder was trained on: the main person, cut out, in a square.

    pipe("a man on a beach", [Subject("man", Image.open("me.jpg"))])      prepared by `PortraitPreparer`
    pipe.preparer = SegmentationPreparer("models/mask2former")            a real segmentation model instead
    Subject("man", Image.open("cut-out.png"))                             a cut-out is brought into the same square
    Subject("man", image, prepare=False)                                  the image as it is

The cut-out is made as `preprocessing` makes a sample's `subject<i>.webp` (datasets/FORMAT.md, section 2): a square
around the person's mask with a margin, everything that is not the person transparent black. Of several people the
largest is taken: the largest face, or the largest mask. Give a crop of the photograph, or a cut-out, to choose another.
Cut-outs of other programs mostly keep the whole frame of the photograph, where the person is small: `framed`.

Arrays: images uint8 [h, w, 3] RGB, masks bool [h, w]; boxes are (x0, y0, x1, y1) in pixels, end exclusive.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from moa.errors import PersonNotFoundError, PreparerWeightsError
from moa.mtcnn import FaceCascade
from moa.subjects import upright

CROP_SIZE = 224  # pixels of a cut-out's side, and
CROP_MARGIN = 0.1  # space on each side, as a share of the mask's longer side: as in the training data
TOLERANCE = 0.05  # of the side, in size and place; training varies its crops by twice as much
CLEAR = 0.05  # of its area is transparent in a cut-out; less are a photograph's round corners, or its soft edge
FAINT = 16  # alpha up to a sixteenth of the largest is not seen: haze of matting models, ringing of a resized edge
WORKING_SIDE = 1024  # larger photographs are reduced before anybody looks for people


class SubjectPreparer(Protocol):
    """Turns photographs into cut-outs."""

    def prepare(self, photograph: Image.Image, name: str) -> Image.Image:
        """The main person of a photograph as a square RGBA image; `name` is how errors call the photograph.

        Raises `PersonNotFoundError` when there is none.
        """
        ...


class PortraitPreparer:
    """The largest face by MTCNN and a head with shoulders drawn around it. Nothing to download, crude edges.

    MTCNN's weights come with facenet-pytorch. Hats, long hair and arms are lost, some background stays.
    """

    def __init__(self, min_probability: float = 0.95) -> None:
        self.min_probability = min_probability

    def prepare(self, photograph: Image.Image, name: str) -> Image.Image:
        image = _upright(photograph)
        faces = self._faces(image)
        if not faces:
            raise PersonNotFoundError(
                f"no face was found in the photograph of {name} ({photograph.width} x {photograph.height} pixels): "
                "give one that shows the face, a cut-out with a transparent background, or prepare=False to use the "
                "image as it is"
            )
        largest = max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return cut_out(image, head_and_shoulders(largest, image.shape[:2]))

    @cached_property
    def _cascade(self) -> FaceCascade:
        return FaceCascade()

    def _faces(self, image: np.ndarray) -> list[tuple[float, float, float, float]]:
        """Boxes of the faces, clipped to the image."""
        height, width = image.shape[:2]
        (found,) = self._cascade.detect(torch.tensor(image)[None])
        sure = (row[:4] for row in found.tolist() if row[4] >= self.min_probability)
        clipped = [(max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)) for x0, y0, x1, y1 in sure]
        return [box for box in clipped if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]


class SegmentationPreparer:
    """The largest person that a Mask2Former sees, as in the training data; `folder` holds its weights and processor.

    Made for facebook/mask2former-swin-base-coco-panoptic (weights CC BY-NC 4.0). Nothing is downloaded, and only
    safetensors are read. Raises `PreparerWeightsError` when the folder is not such a model.
    """

    def __init__(self, folder: str | Path, threshold: float = 0.8, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
            model: Any = Mask2FormerForUniversalSegmentation.from_pretrained(
                folder, use_safetensors=True, local_files_only=True
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise PreparerWeightsError(
                f"{folder} cannot be loaded as a Mask2Former ({str(error).strip().splitlines()[0]}): fetch one with "
                "`hf download facebook/mask2former-swin-base-coco-panoptic --local-dir FOLDER` and name that folder"
            ) from error
        self._people = {number for number, label in model.config.id2label.items() if label.lower() == "person"}
        if not self._people:
            raise PreparerWeightsError(f"{folder} knows no class named person: use a model trained on COCO")
        self._model, self._threshold = model.to(device).eval(), threshold

    @torch.no_grad()
    def prepare(self, photograph: Image.Image, name: str) -> Image.Image:
        image = _upright(photograph)
        inputs = self._processor(images=[Image.fromarray(image)], return_tensors="pt").to(self._model.device)
        (found,) = self._processor.post_process_panoptic_segmentation(
            self._model(**inputs), threshold=self._threshold, label_ids_to_fuse=set(), target_sizes=[image.shape[:2]]
        )
        segments = found["segmentation"].cpu().numpy()
        people = [s["id"] for s in found["segments_info"] if s["label_id"] in self._people]
        masks = [mask for mask in (segments == number for number in people) if mask.any()]
        if not masks:
            raise PersonNotFoundError(
                f"no person was found in the photograph of {name} ({photograph.width} x {photograph.height} pixels): "
                "give another one, a cut-out with a transparent background, or prepare=False to use the image as it is"
            )
        return cut_out(image, max(masks, key=np.count_nonzero))


def prepared(image: Image.Image, preparer: SubjectPreparer, name: str) -> Image.Image:
    """The main person of a photograph, cut out by `preparer`, or of a cut-out, `framed`; `name` is how errors call it.

    Raises `PersonNotFoundError`.
    """
    return preparer.prepare(image, name) if is_photograph(image) else framed(image)


def is_photograph(image: Image.Image) -> bool:
    """True for an image whose background is still there: less than `CLEAR` of it is more transparent than not."""
    if not image.has_transparency_data:
        return True
    return bool((np.asarray(image.convert("RGBA"))[..., 3] < 128).mean() < CLEAR)


def head_and_shoulders(face: tuple[float, float, float, float], size: tuple[int, ...]) -> np.ndarray:
    """A head and a torso around a face box, as a mask bool of `size` (height, width).

    In face boxes (MTCNN's goes from eyebrows to chin, ear to ear): the head with its hair is an ellipse of 1.44 x 1.6,
    the shoulders rise 0.3 below the chin and are 3.6 wide, the torso ends 2.5 below the chin.
    """
    (x0, y0, x1, y1), (rows, columns) = face, size
    wide, tall, middle = x1 - x0, y1 - y0, (x0 + x1) / 2
    y, x = np.ogrid[:rows, :columns]
    y, x = y + 0.5, x + 0.5
    shoulders = y1 + 1.3 * tall

    def ellipse(centre: float, half_width: float, half_height: float) -> np.ndarray:
        return ((x - middle) / half_width) ** 2 + ((y - centre) / half_height) ** 2 <= 1

    head = ellipse((y0 + y1) / 2 - 0.12 * tall, 0.72 * wide, 0.8 * tall)
    neck = (abs(x - middle) < 0.45 * wide) & (y >= (y0 + y1) / 2) & (y < y1 + tall)
    torso = (abs(x - middle) < 1.8 * wide) & (y >= shoulders) & (y < y1 + 2.5 * tall)
    return head | neck | ellipse(shoulders, 1.8 * wide, tall) | torso


def cut_out(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """The pixels of a mask, which is not empty: RGBA, `CROP_SIZE` square, the mask's box and `CROP_MARGIN` about it."""
    person = np.dstack([image, np.full(mask.shape, 255, np.uint8)]) * mask[..., None]
    return _square(person, _box(mask))


def framed(image: Image.Image) -> Image.Image:
    """A cut-out as large in its square as `cut_out` makes people, RGBA; its edges stay as soft as they are.

    One that is so already, within `TOLERANCE`, is returned itself: a sample's `subject<i>.webp` stays as training saw
    it. So is one of which nothing can be seen.
    """
    cut = _upright(image, "RGBA")
    seen = cut[..., 3] > cut[..., 3].max() // FAINT
    if not seen.any() or _is_framed(seen):
        return image
    return _square(cut, _box(seen))


def _is_framed(seen: np.ndarray) -> bool:
    rows, columns = seen.shape
    left, top, right, bottom = _box(seen)
    share = max(right - left, bottom - top) / columns
    off_centre = max(abs(left + right - columns), abs(top + bottom - rows)) / 2 / columns
    return rows == columns and abs(share - 1 / (1 + 2 * CROP_MARGIN)) <= TOLERANCE and off_centre <= TOLERANCE


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _square(cut: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    """A box of uint8 [h, w, 4] and `CROP_MARGIN` about it, which may reach beyond the image: `CROP_SIZE` square."""
    x0, y0, x1, y1 = box
    side = round(max(x1 - x0, y1 - y0) * (1 + 2 * CROP_MARGIN))
    left, top = (x0 + x1 - side) // 2, (y0 + y1 - side) // 2
    square = Image.fromarray(cut).crop((left, top, left + side, top + side))
    small = np.asarray(square.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.LANCZOS))
    return Image.fromarray(small * (small[..., 3:] > 0))


def _upright(photograph: Image.Image, mode: str = "RGB") -> np.ndarray:
    """Upright in `mode`, at most `WORKING_SIDE` pixels long."""
    image = upright(photograph, mode)
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
