"""The face cascade against facenet-pytorch, whose networks it runs, and its sums against plain ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image, ImageOps
from torch.nn import functional as F

import moa.mtcnn
from moa.mtcnn import FACTOR, SMALLEST_FACE, THRESHOLDS, FaceCascade, area_means, shrunk, summed_area_table
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.photographs import CELEBA, needs_photographs

EASY = (0.1, 1e-4, 1e-4)  # so that drawn pictures have "faces", and many


def _pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Blots of several sizes: uint8 [count, height, width, 3]."""
    layers = [F.interpolate(torch.rand(count, 3, s, s), (height, width), mode="bicubic") for s in (4, 9, 20)]
    return (sum(layers) / 3 * 255).clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _compared(images: torch.Tensor, thresholds: tuple[float, ...]) -> int:
    """Asserts that both find the same, and says how many faces that are."""
    boxes, probabilities = MTCNN(keep_all=True, thresholds=list(thresholds)).detect(images)
    found = FaceCascade().detect(images)
    for ours, box, probability in zip(found, boxes, probabilities, strict=True):
        if box is None:
            assert len(ours) == 0
            continue
        theirs = np.column_stack([np.asarray(box, float), np.asarray(probability, float)])
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        order = [np.lexsort(rows[:, :4].round(1).T) for rows in (ours, theirs)]  # equal areas come in either order
        np.testing.assert_allclose(ours[order[0], :4], theirs[order[1], :4], atol=1e-3, rtol=0)
        np.testing.assert_allclose(ours[order[0], 4], theirs[order[1], 4], atol=1e-5, rtol=0)
        areas = (ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1])
        assert (np.diff(areas) <= 0).all()
    return sum(map(len, found))


def test_it_asks_for_what_facenet_pytorch_asks_for():
    theirs = MTCNN()
    assert (list(THRESHOLDS), FACTOR, SMALLEST_FACE) == (theirs.thresholds, theirs.factor, theirs.min_face_size)


@pytest.mark.parametrize("size", [(120, 90), (64, 200)])
def test_finds_what_facenet_pytorch_finds(size, monkeypatch):
    monkeypatch.setattr(moa.mtcnn, "THRESHOLDS", EASY)
    assert _compared(_pictures(3, *size), EASY) > 3


@needs_photographs
def test_finds_the_same_faces_in_photographs():
    photographs = [Image.open(path).convert("RGB") for path in sorted(CELEBA.glob("*/*.jpg"))[10:14]]
    square = torch.from_numpy(np.stack([np.asarray(ImageOps.fit(image, (320, 320))) for image in photographs]))
    assert _compared(square, moa.mtcnn.THRESHOLDS) >= 4
    assert _compared(torch.tensor(np.asarray(photographs[2]))[None], moa.mtcnn.THRESHOLDS) == 2


def test_crops_are_judged_in_parts_as_in_one(monkeypatch):
    monkeypatch.setattr(moa.mtcnn, "THRESHOLDS", EASY)
    images = _pictures(2, 100, 100)
    whole = FaceCascade().detect(images)
    monkeypatch.setattr(moa.mtcnn, "CANDIDATES", 7)
    for one, other in zip(whole, FaceCascade().detect(images), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_pictures_too_small_or_empty_show_nobody():
    for shape in ((1, 19, 400, 3), (2, 1, 1, 3), (1, 64, 48, 3)):
        found = FaceCascade().detect(torch.zeros(shape, dtype=torch.uint8))
        assert [faces.shape for faces in found] == [(0, 5)] * shape[0]


def test_a_picture_of_the_smallest_size_is_looked_at(monkeypatch):
    monkeypatch.setattr(moa.mtcnn, "THRESHOLDS", (0.0, 0.0, 0.0))
    for side, looked_at in ((19, False), (20, True)):
        boxes, _ = FaceCascade()._proposals(summed_area_table(_pictures(1, side, 60)))
        assert (len(boxes) > 0) is looked_at


def test_boxes_outside_of_their_picture_are_left_out():
    sums = summed_area_table(torch.zeros(1, 30, 40, 3, dtype=torch.uint8))
    boxes = torch.tensor([[-20.0, 2, -5, 17], [45, 2, 60, 17], [5, -9, 20, 0.5], [-4, -4, 11, 11], [30, 20, 45, 35]])
    kept, owners = moa.mtcnn._visible(boxes, torch.zeros(5, dtype=torch.int64), sums)
    assert torch.equal(kept, boxes[3:]) and len(owners) == 2
    assert moa.mtcnn._pixel_corners(kept, sums).tolist() == [[0, 0, 11, 11], [29, 19, 40, 30]]


def test_means_of_rectangles_are_those_of_interpolation():
    images = torch.randint(0, 256, (3, 37, 53, 3), dtype=torch.uint8)
    exact = images.permute(0, 3, 1, 2).double()
    sums = summed_area_table(images)
    assert torch.equal(sums[:, -1, -1], images.long().sum((1, 2)).int()) and not sums[:, 0].any()
    for size in ((37, 53), (12, 13), (40, 90), (1, 1)):
        expected = (F.interpolate(exact, size=size, mode="area") - 127.5) / 128
        torch.testing.assert_close(shrunk(sums, *size).double(), expected, atol=1e-6, rtol=0)
    owners = torch.tensor([2, 0, 2])
    corners = torch.tensor([[3, 5, 40, 36], [0, 0, 53, 37], [50, 10, 51, 12]])
    means = area_means(sums, owners, corners, 24, 24)
    for mean, owner, (x0, y0, x1, y1) in zip(means, owners, corners.tolist(), strict=True):
        expected = F.interpolate(exact[owner, None, :, y0:y1, x0:x1], size=(24, 24), mode="area")[0]
        torch.testing.assert_close(mean.double(), expected, atol=1e-4, rtol=0)


def test_a_table_that_overflows_gives_the_right_means():
    images = torch.full((1, 3000, 3000, 1), 255, dtype=torch.uint8)  # 2.3e9 in all, an int32 holds 2.1e9
    images[:, :2000] = 254
    sums = summed_area_table(images)
    assert sums[0, -1, -1, 0] < 0
    corners = torch.tensor([[2500, 1990, 3000, 3000], [0, 1000, 3000, 2000]])
    means = area_means(sums, torch.zeros(2, dtype=torch.int64), corners, 1, 1)
    assert means.flatten().tolist() == pytest.approx([255 - 10 / 1010, 254], abs=1e-4)


def test_a_gpu_gets_all_of_it(monkeypatch):
    """One that is not there: tensors on two devices are an error."""
    monkeypatch.setattr(moa.mtcnn, "THRESHOLDS", EASY)
    images = _pictures(2, 60, 60)
    here = FaceCascade().detect(images)
    with AbsentGPU():
        there = FaceCascade("cuda:0").detect(images.to("cuda:0"))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
