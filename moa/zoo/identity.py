"""Face finder and face embedder of the miniature world: what MTCNN and FaceNet are for photographs.

`MiniatureFaces.from_pretrained("zoo/identity")` finds heads in 64x64 pictures and embeds them as unit
vectors whose cosine tells whether two heads are of the same person. Its recipe is `moa.zoo.train_identity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from moa.zoo.folder import read_model, write_model
from moa.zoo.pictures import to_unit

Box = tuple[float, float, float, float]
STRIDE = 4
CROP = 32
MARGIN = 1.5  # of the face box: hair and beard belong to a person's looks


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FaceFinder(nn.Module):
    """Heads as centres: picture `[B, 3, H, W]` in -1..1 to `[B, 5, H/4, W/4]`: logit of a centre, offset (x, y) in
    cells, log size (w, h) in cells."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, stride=2, padding=2),
            Residual(width // 2),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            *(Residual(width) for _ in range(3)),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, 5, 3, padding=1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)


class FaceEmbedder(nn.Module):
    """Head crops `[B, 3, 32, 32]` in -1..1 to unit vectors `[B, 64]`."""

    def __init__(self, width: int = 32, dimensions: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Residual(width),
            nn.Conv2d(width, width * 2, 3, stride=2, padding=1),
            Residual(width * 2),
            nn.Conv2d(width * 2, width * 3, 3, stride=2, padding=1),
            Residual(width * 3),
            nn.GroupNorm(8, width * 3),
            nn.SiLU(),
            nn.Conv2d(width * 3, 32, 1),
            nn.Flatten(),
            nn.Linear(32 * (CROP // 4) ** 2, dimensions),
        )

    def forward(self, crops: Tensor) -> Tensor:
        return F.normalize(self.net(crops), dim=-1)


class MiniatureFaces(nn.Module):
    """The finder and the embedder together."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = FaceFinder()
        self.embedder = FaceEmbedder()

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> MiniatureFaces:
        """Load what `save_pretrained` wrote. Raises MissingInputError naming the file that is not there."""
        faces, (tensors, _) = cls(), read_model(folder)
        faces.load_state_dict(tensors)
        return faces.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `model.safetensors` (fp16) and `config.json`."""
        write_model(self, folder, picture_size=64, crop=CROP, margin=MARGIN, stride=STRIDE)

    @torch.no_grad()
    def detect(self, images: Sequence[Image.Image], threshold: float = 0.35) -> list[list[tuple[Box, float]]]:
        """For each picture the boxes `(x0, y0, x1, y1)` in its own pixels with probabilities, largest first; an empty
        list where there is no face."""
        found = []
        for image in images:
            picture = to_unit(np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))[None])
            across, down = image.width / 64, image.height / 64
            boxes = decode(self.finder(picture)[0], threshold)
            found.append([((x0 * across, y0 * down, x1 * across, y1 * down), p) for (x0, y0, x1, y1), p in boxes])
        return found

    @torch.no_grad()
    def embed(self, images: Sequence[Image.Image], boxes: Sequence[Box]) -> np.ndarray:
        """Unit vectors `[n, 64]` of one head in each picture."""
        if not images:
            return np.zeros((0, 64), np.float32)
        crops = [
            cut(to_unit(np.asarray(image.convert("RGB"))[None]), torch.tensor([box], dtype=torch.float32))
            for image, box in zip(images, boxes, strict=True)
        ]
        return self.embedder(torch.cat(crops)).numpy()


def cut(pictures: Tensor, boxes: Tensor) -> Tensor:
    """One square head crop `[B, 3, 32, 32]` around each box `[B, 4]` of pictures `[B, 3, H, W]`, with MARGIN."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True) * MARGIN / 2
    numbers = torch.arange(len(boxes), dtype=torch.float32)[:, None]
    regions = torch.cat((numbers, centre - half, centre + half), dim=1)
    return roi_align(pictures, regions, (CROP, CROP), sampling_ratio=2, aligned=True)


def decode(output: Tensor, threshold: float) -> list[tuple[Box, float]]:
    """Local maxima of the centre map `[5, h, w]` above `threshold` as boxes in pixels, largest first."""
    score = output[0].sigmoid()
    peak = F.max_pool2d(score[None], 3, stride=1, padding=1)[0]
    rows, columns = torch.nonzero((score == peak) & (score >= threshold), as_tuple=True)
    boxes = []
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        dx, dy, log_w, log_h = output[1:, row, column].tolist()
        cx, cy = (column + dx) * STRIDE, (row + dy) * STRIDE
        w, h = np.exp(log_w) * STRIDE / 2, np.exp(log_h) * STRIDE / 2
        boxes.append(((cx - w, cy - h, cx + w, cy + h), float(score[row, column])))
    return sorted(boxes, key=lambda pair: -(pair[0][2] - pair[0][0]) * (pair[0][3] - pair[0][1]))
