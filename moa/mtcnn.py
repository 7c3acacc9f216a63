"""MTCNN, the face finder (Zhang et al. 2016): the networks and the answers of facenet-pytorch, a batch at a time.

facenet-pytorch cuts every candidate (a hundred in a photograph) out by itself and shrinks it with a kernel of its own.
Here one summed-area table of the images (Crow 1984) gives the mean of any rectangle by four numbers, so that a level of
the image pyramid, and the crops of all candidates, are four gathers. Sums are of whole numbers, so they are exact;
boxes are facenet-pytorch's within about 1e-4 px, probabilities within 1e-6 (LOG.md).
"""

from __future__ import annotations

import numpy as np
import torch
from facenet_pytorch import MTCNN
from facenet_pytorch.models.utils.detect_face import batched_nms_numpy, bbreg, generateBoundingBox, rerec
from torch import Tensor, nn
from torchvision.ops import batched_nms

SMALLEST_FACE = 20  # pixels
THRESHOLDS = (0.6, 0.7, 0.7)  # probabilities that the proposal, the refining and the output network ask for
FACTOR = 0.709  # from one level of the pyramid to the next
WINDOW = 12  # pixels a side; what the proposal network looks at
CANDIDATES = 512  # crops in one pass


class FaceCascade:
    """Three networks, each of which sees the candidates that the one before it left."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        networks = MTCNN(device=self.device).eval()  # weights of its package
        self.proposal, self.refinement, self.output = networks.pnet, networks.rnet, networks.onet

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[np.ndarray]:
        """The faces of images of one size, uint8 [B, H, W, 3] RGB on `device`: for each float32 [n, 5], x0, y0, x1, y1
        in pixels, not clipped to the image, and the probability 0..1; the largest first. Images with a side below
        `SMALLEST_FACE` have none."""
        sums = summed_area_table(images)
        boxes, owners = self._proposals(sums)
        for stage in (self._refined, self._final):
            boxes, owners = _visible(boxes, owners, sums)
            if len(boxes):
                boxes, owners = stage(sums, boxes, owners)
        found, whose = boxes.cpu().numpy(), owners.cpu().numpy()
        return [_largest_first(found[whose == image]) for image in range(len(images))]

    def _proposals(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Squares [n, 5] that may hold a face, and the image [n] of each."""
        height, width = sums.shape[1] - 1, sums.shape[2] - 1
        boxes, owners = [sums.new_zeros(0, 9, dtype=torch.float32)], [sums.new_zeros(0, dtype=torch.int64)]
        scale = WINDOW / SMALLEST_FACE
        while min(height, width) * scale >= WINDOW:
            level = shrunk(sums, int(height * scale + 1), int(width * scale + 1))
            shifts, probabilities = self.proposal(level)
            found, whose = generateBoundingBox(shifts, probabilities[:, 1], scale, THRESHOLDS[0])
            kept = batched_nms(found[:, :4], found[:, 4], whose, 0.5)
            boxes.append(found[kept])
            owners.append(whose[kept])
            scale *= FACTOR
        every, of = torch.cat(boxes), torch.cat(owners)
        kept = batched_nms(every[:, :4], every[:, 4], of, 0.7)
        every, of = every[kept], of[kept]
        sides = (every[:, 2:4] - every[:, :2]).repeat(1, 2)
        return rerec(torch.cat([every[:, :4] + every[:, 5:] * sides, every[:, 4:5]], dim=1)), of

    def _refined(self, sums: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        shifts, probabilities = _judged(self.refinement, 24, sums, boxes, owners)
        boxes, owners, shifts = _surer(boxes, owners, shifts, probabilities[:, 1], THRESHOLDS[1])
        kept = batched_nms(boxes[:, :4], boxes[:, 4], owners, 0.7)
        return rerec(bbreg(boxes[kept], shifts[kept])), owners[kept]

    def _final(self, sums: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        shifts, _, probabilities = _judged(self.output, 48, sums, boxes, owners)
        boxes, owners, shifts = _surer(boxes, owners, shifts, probabilities[:, 1], THRESHOLDS[2])
        boxes = bbreg(boxes, shifts)
        kept = batched_nms_numpy(boxes[:, :4], boxes[:, 4], owners, 0.7, "Min")
        return boxes[kept], owners[kept]


def summed_area_table(images: Tensor) -> Tensor:
    """Of uint8 [B, H, W, C] the int32 [B, H + 1, W + 1, C] whose entry (y, x) is the sum of all pixels above and left.

    It may overflow, and wraps around: the difference of entries, the sum of a rectangle of up to 2^31 / 255 pixels, is
    right all the same.
    """
    batch, height, width, channels = images.shape
    table = torch.zeros(batch, height + 1, width + 1, channels, dtype=torch.int32, device=images.device)
    rows = images.cumsum(2, dtype=torch.int32)
    torch.cumsum(rows, 1, dtype=torch.int32, out=table[:, 1:, 1:])
    return table


def area_means(sums: Tensor, owners: Tensor, corners: Tensor, height: int, width: int) -> Tensor:
    """Rectangles of images shrunk, or enlarged, to height x width, each pixel the mean of the pixels it covers (whole
    ones, as PyTorch's `interpolate(mode="area")` has it): float32 [n, C, height, width], 0..255.

    sums    a `summed_area_table` of B images
    owners  int64 [n], the image of each rectangle
    corners int64 [n, 4]: left, top, right, bottom in whole pixels, right and bottom exclusive, within the image
    """
    left, right = _edges(corners[:, 0], corners[:, 2], width)
    top, bottom = _edges(corners[:, 1], corners[:, 3], height)
    _, rows, columns, channels = sums.shape
    entries = sums.view(-1, channels)

    def entry(y: Tensor, x: Tensor) -> Tensor:
        places = ((owners[:, None] * rows + y) * columns)[:, :, None] + x[:, None]
        return entries.index_select(0, places.flatten())

    total = entry(bottom, right) - entry(top, right) - entry(bottom, left) + entry(top, left)
    pixels = (bottom - top)[:, :, None] * (right - left)[:, None]
    return (total.view(*pixels.shape, channels) / pixels[..., None]).permute(0, 3, 1, 2)


def shrunk(sums: Tensor, height: int, width: int) -> Tensor:
    """All images at height x width, as the networks want them: float32 [B, C, height, width], -1..1."""
    whole = torch.tensor([0, 0, sums.shape[2] - 1, sums.shape[1] - 1], device=sums.device)
    owners = torch.arange(len(sums), device=sums.device)
    return _standardised(area_means(sums, owners, whole.expand(len(sums), 4), height, width))


def _pixel_corners(boxes: Tensor, sums: Tensor) -> Tensor:
    """Boxes clipped to their image and cut to whole pixels: int64 [n, 4], as `area_means` takes them."""
    limits = torch.tensor([sums.shape[2] - 1, sums.shape[1] - 1], device=boxes.device)
    corners = boxes[:, :4].trunc().long()
    return torch.cat([corners[:, :2].clamp(min=1) - 1, corners[:, 2:].minimum(limits)], dim=1)


def _visible(boxes: Tensor, owners: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Without the boxes that have no pixel in their image, for which facenet-pytorch raises."""
    corners = _pixel_corners(boxes, sums)
    inside = (corners[:, 2:] > corners[:, :2]).all(dim=1)
    return boxes[inside], owners[inside]


def _judged(network: nn.Module, side: int, sums: Tensor, boxes: Tensor, owners: Tensor) -> list[Tensor]:
    """The network's outputs for the boxes, cut out at side x side pixels."""
    corners = _pixel_corners(boxes, sums)
    parts = [
        network(_standardised(area_means(sums, whose, where, side, side)))
        for whose, where in zip(owners.split(CANDIDATES), corners.split(CANDIDATES), strict=True)
    ]
    return [torch.cat(each) for each in zip(*parts, strict=True)]


def _surer(
    boxes: Tensor, owners: Tensor, shifts: Tensor, probability: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    sure = probability > threshold
    return torch.cat([boxes[sure, :4], probability[sure, None]], dim=1), owners[sure], shifts[sure]


def _edges(low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First pixel and the one after the last, [n, count] each, of `count` parts of low .. high - 1; parts share the
    pixels that both touch."""
    part, size = torch.arange(count, device=low.device), (high - low)[:, None]
    return low[:, None] + part * size // count, low[:, None] - (-(part + 1) * size // count)


def _standardised(pixels: Tensor) -> Tensor:
    return (pixels - 127.5) / 128


def _largest_first(faces: np.ndarray) -> np.ndarray:
    areas = (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])
    return faces[np.argsort(areas)[::-1]]
