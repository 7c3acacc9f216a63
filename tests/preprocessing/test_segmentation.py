"""Segmenters: Mask2Former on a tiny random checkpoint, the drawn silhouette, the sidecar's label map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocessing.config import Mask2FormerSegmentation
from preprocessing.errors import MissingWeightsError, PreprocessingError
from preprocessing.frame import Annotation, Box, Face, Frame, Item, Person
from preprocessing.segmentation import Mask2FormerSegmenter, SidecarSegmenter, load_segmenter, silhouette
from tests.moa.absent_gpu import AbsentGPU
from tests.preprocessing.folders import picture
from tests.tiny_models import say_person, tiny_mask2former


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Mask2Former with the classes sky, person, tree."""
    return str(tiny_mask2former(tmp_path_factory.mktemp("mask2former"), certain=False))


def frame(side: int = 64, shade: int = 0, labels: np.ndarray | None = None, people: tuple[Person, ...] = ()) -> Frame:
    item = Item(number=0, name="x.png", split="train", sha256=None, licence="", author="")
    image = picture((side, side), shade)
    return Frame(item=item, sha256="", image=image, labels=labels, annotation=Annotation(people=people))


def segmenter(
    checkpoint: str, threshold: float = 0.0, batch_size: int = 8, device: str = "cpu"
) -> Mask2FormerSegmenter:
    config = Mask2FormerSegmentation(kind="mask2former", model=checkpoint, threshold=threshold, batch_size=batch_size)
    loaded = load_segmenter(config, device)
    assert isinstance(loaded, Mask2FormerSegmenter)
    return loaded


def all_say_person(found: Mask2FormerSegmenter) -> Mask2FormerSegmenter:
    say_person(found._model)
    return found


def test_the_real_model_runs_and_nothing_found_is_nothing(checkpoint: str) -> None:
    """At threshold 1 the library's map is -1 everywhere: that must not become a person with label 255."""
    assert segmenter(checkpoint, threshold=1.0).segment([frame(), frame()], [[], []]) == [[], []]


def test_masks_are_the_same_on_a_gpu(checkpoint: str) -> None:
    """One that is not there: tensors on two devices are an error."""
    expected = all_say_person(segmenter(checkpoint)).segment([frame()], [[]])
    with AbsentGPU():
        found = all_say_person(segmenter(checkpoint, device="cuda")).segment([frame()], [[]])
    assert [len(masks) for masks in found] == [len(masks) for masks in expected] and expected[0]
    assert all((a.mask == b.mask).mean() > 0.999 for a, b in zip(found[0], expected[0], strict=True))


def test_only_the_class_named_person_is_kept(checkpoint: str) -> None:
    found = segmenter(checkpoint)
    segments = torch.tensor([[1, 1, 2], [3, 3, 0]])
    infos = [
        {"id": 1, "label_id": 1, "score": 0.9, "was_fused": False},
        {"id": 2, "label_id": 0, "score": 0.9, "was_fused": False},
        {"id": 3, "label_id": 1, "score": 0.8, "was_fused": False},
        {"id": 9, "label_id": 1, "score": 0.8, "was_fused": False},  # lost all its pixels to others
    ]
    masks = found._masks({"segmentation": segments, "segments_info": infos})
    assert [mask.score for mask in masks] == [0.9, 0.8]
    assert masks[0].mask.tolist() == [[True, True, False], [False] * 3]
    assert found._masks({"segmentation": torch.full((2, 3), -1.0), "segments_info": []}) == []


def test_masks_fit_the_frame_and_do_not_depend_on_the_batch(checkpoint: str) -> None:
    """All queries are made to say person, so that the random model finds some."""
    frames = [frame(48, shade) for shade in (0, 100, 200)]
    results = []
    for batch_size in (3, 1):
        found = all_say_person(segmenter(checkpoint, batch_size=batch_size))
        results.append(found.segment(frames, [[], [], []]))
    assert sum(map(len, results[0])) > 0
    for together, alone in zip(*results, strict=True):
        assert [mask.mask.shape for mask in together] == [(48, 48)] * len(together)
        assert all(mask.mask.dtype == bool and mask.mask.any() and mask.score > 0.9 for mask in together)
        assert len(together) == len(alone)
        assert all((a.mask == b.mask).mean() > 0.999 for a, b in zip(together, alone, strict=True))
        assert np.sum([mask.mask for mask in together], axis=0).max(initial=0) <= 1  # panoptic: disjoint


def test_a_model_without_persons_is_refused(checkpoint: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((Path(checkpoint) / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "sky", "1": "car", "2": "tree"}}))
    with pytest.raises(PreprocessingError, match=r"no class named person \(classes: sky, car, tree"):
        segmenter(str(tmp_path))


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="nowhere: cannot be loaded"):
        load_segmenter(Mask2FormerSegmentation(kind="mask2former", model=str(tmp_path / "nowhere")), "cpu")


def test_the_silhouette_covers_the_face_and_widens_below() -> None:
    face = Box(40, 20, 60, 46)
    mask = silhouette(face, 128)
    assert mask[20:46, 40:60].mean() > 0.97
    assert mask[100].sum() > 2 * mask[33].sum()
    assert not mask[:9].any()
    assert not mask[115:].any()
    assert mask[33, 42:58].all()
    assert np.array_equal(mask[:, 40:60], mask[:, 40:60][:, ::-1])  # symmetric about the face


def test_the_silhouette_is_drawn_for_each_face() -> None:
    from preprocessing.segmentation import HeadAndShouldersSegmenter

    faces = [Face(Box(10, 10, 20, 22), 0.9, 1), Face(Box(40, 10, 48, 20), 0.8)]
    first, second = HeadAndShouldersSegmenter().segment([frame(), frame()], [faces, []])
    assert [(mask.score, mask.person) for mask in first] == [(0.9, 1), (0.8, None)]
    assert second == []


def test_sidecar_labels_name_their_people_and_skip_others() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:9], labels[20:30], labels[40:] = 7, 255, 3
    people = tuple(Person(word="man", mask_value=value, identity=None, face=None) for value in (3, 5, 7))
    [masks] = SidecarSegmenter().segment([frame(labels=labels, people=people)], [[]])
    assert [(mask.person, int(mask.mask.sum())) for mask in masks] == [(0, 24 * 64), (2, 9 * 64)]
