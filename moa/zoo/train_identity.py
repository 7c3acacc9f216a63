"""Recipe of the miniature face finder and embedder, on pictures in which every identity occurs several times."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from moa.zoo.fit import fit
from moa.zoo.hardware import autocast, device
from moa.zoo.identity import STRIDE, FaceEmbedder, FaceFinder, MiniatureFaces, cut
from moa.zoo.pictures import Pictures, to_unit

TEMPERATURE = 0.1


def degrade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, noise and colour shifts as a small generative model makes them. `[B, 3, H, W]`."""
    count = len(pixels)
    soft = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(count, 1, 1, 1, generator=generator) * 0.8
    level = 0.08 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator) * level
    tint = 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
    return torch.lerp(pixels, soft, share) + noise + tint


def face_targets(pictures: Pictures, chosen: np.ndarray, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre map `[B, c, c]`, regression targets `[B, 4, c, c]` and where they count `[B, c, c]`."""
    heat, geometry = torch.zeros(len(chosen), cells, cells), torch.zeros(len(chosen), 4, cells, cells)
    counts = torch.zeros(len(chosen), cells, cells)
    axis = torch.arange(cells) + 0.5
    for b, k in enumerate(chosen):
        for subject in pictures.meta[k]["subjects"]:
            x0, y0, x1, y1 = (v / STRIDE for v in subject["face"]["box"])
            cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, 0.5), max(y1 - y0, 0.5)
            column, row = min(cells - 1, int(cx)), min(cells - 1, int(cy))
            bump = torch.exp(-((axis[None, :] - cx) ** 2 + (axis[:, None] - cy) ** 2) / (2 * 0.6**2))
            heat[b] = torch.maximum(heat[b], bump)
            heat[b, row, column] = 1.0
            for r in range(max(0, row - 1), min(cells, row + 2)):
                for c in range(max(0, column - 1), min(cells, column + 2)):
                    geometry[b, :, r, c] = torch.tensor([cx - c, cy - r, np.log(w), np.log(h)])
                    counts[b, r, c] = 1.0
    return heat, geometry, counts


def train_finder(pictures: Pictures, folder: Path, *, steps: int, batch: int = 32, seed: int = 0) -> FaceFinder:
    """Soft binary cross-entropy on the centre map, absolute error on the boxes."""
    torch.manual_seed(seed)
    finder = FaceFinder()

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = pictures.draw(batch, generator)
        heat, geometry, counts = face_targets(pictures, chosen, pictures.images.shape[1] // STRIDE)
        heat, geometry, counts = (x.to(device()) for x in (heat, geometry, counts))
        output = finder(degrade(to_unit(pictures.images[chosen]), generator).to(device()))
        centre = F.binary_cross_entropy_with_logits(output[:, 0], heat, weight=1 + 9 * heat)
        box = ((output[:, 1:] - geometry).abs() * counts[:, None]).sum() / (4 * counts.sum())
        return {"loss": centre + 0.5 * box, "centre": centre, "box": box}

    return fit(finder, loss, folder=folder, steps=steps, peak=2e-3, seed=seed, ema=0.998).eval()


def faces_by_identity(pictures: Pictures) -> dict[str, list[tuple[int, int]]]:
    """Where each identity occurs: (picture, subject), identities that occur at least twice; filtered styles hide
    looks and are left out."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for k, meta in enumerate(pictures.meta):
        if meta["attributes"]["style"] in ("photo", "watercolour"):
            for i, subject in enumerate(meta["subjects"]):
                places[subject["identity"]].append((k, i))
    return {identity: found for identity, found in sorted(places.items()) if len(found) > 1}


def crops_of(pictures: Pictures, places: list[tuple[int, int]], generator: torch.Generator | None = None) -> Tensor:
    """Head crops at the true boxes; with a generator the boxes shake a little and the pictures are degraded."""
    pixels = to_unit(pictures.images[[k for k, _ in places]])
    boxes = torch.tensor([pictures.meta[k]["subjects"][i]["face"]["box"] for k, i in places], dtype=torch.float32)
    if generator is not None:
        pixels = degrade(pixels, generator)
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        boxes = boxes + 0.08 * size * torch.randn(boxes.shape, generator=generator)
    return cut(pixels, boxes)


def train_embedder(pictures: Pictures, folder: Path, *, steps: int, batch: int = 64, seed: int = 0) -> FaceEmbedder:
    """Contrastive: two crops of each of `batch` people; a crop must find its partner among all."""
    torch.manual_seed(seed)
    embedder = FaceEmbedder()
    people = list(faces_by_identity(pictures).values())

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = torch.randperm(len(people), generator=generator)[:batch].tolist()
        pairs = [torch.randperm(len(people[p]), generator=generator)[:2].tolist() for p in chosen]
        first = [people[p][a] for p, (a, _) in zip(chosen, pairs, strict=True)]
        second = [people[p][b] for p, (_, b) in zip(chosen, pairs, strict=True)]
        crops = crops_of(pictures, first + second, generator).to(device())
        with autocast():
            vectors = embedder(crops).float()
        logits = vectors[: len(first)] @ vectors[len(first) :].T / TEMPERATURE
        target = torch.arange(len(logits), device=logits.device)
        return {"loss": 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))}

    return fit(embedder, loss, folder=folder, steps=steps, peak=2e-3, seed=seed, ema=0.998).eval()


@torch.no_grad()
def verification_auc(faces: MiniatureFaces, pictures: Pictures, seed: int = 0) -> float:
    """Probability that two heads of one person are nearer than two heads of different people (exact boxes)."""
    people = list(faces_by_identity(pictures).values())
    vectors = faces.embedder(crops_of(pictures, [place for person in people for place in person[:2]]))
    first, second = vectors[0::2], vectors[1::2]
    same = (first * second).sum(dim=1)
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, len(people), (len(people),), generator=generator)
    different = (first * second[(torch.arange(len(people)) + shift) % len(people)]).sum(dim=1)
    return float((same[:, None] > different[None, :]).float().mean())


def finder_recall(faces: MiniatureFaces, pictures: Pictures, count: int = 200) -> tuple[float, float]:
    """Share of true heads found with overlap over one half, and false boxes per picture."""
    hits = total = false = 0
    for k in range(min(count, len(pictures))):
        truth = [subject["face"]["box"] for subject in pictures.meta[k]["subjects"]]
        found = [box for box, _ in faces.detect([Image.fromarray(pictures.images[k])])[0]]
        hit = sum(any(overlap(t, f) > 0.5 for f in found) for t in truth)
        hits, total, false = hits + hit, total + len(truth), false + max(0, len(found) - hit)
    return hits / total, false / min(count, len(pictures))


def overlap(a: tuple[float, ...] | list[float], b: tuple[float, ...] | list[float]) -> float:
    """Intersection over union of two boxes."""
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return w * h / (sum(areas) - w * h)
