"""Several devices annotate as one does: the same bytes, in the same order, with the same errors."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from preprocessing.annotators import computes
from preprocessing.config import load_dataset
from preprocessing.crew import Annotate, _able_to_travel, annotating
from preprocessing.devices import check_devices, devices_here, keep_to, share_of_threads
from preprocessing.errors import MissingWeightsError, PreprocessingError
from preprocessing.frame import Annotation, Frame, Item, Rejected
from preprocessing.run import preprocess
from preprocessing.samples import Annotated
from tests.preprocessing.folders import add_photo, declaration, files_of, photo_names, picture, rejected_of
from tests.preprocessing.tiny_blip2 import tiny_blip2
from tests.tiny_models import tiny_mask2former

PROJECT = Path(__file__).resolve().parents[2]
FACES = {"kind": "mtcnn", "min_face": 12}
CONFIG = declaration(captions={"kind": "template"}, segmentation={"kind": "head_and_shoulders"}, faces=FACES)


def annotators() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.daemon]


@pytest.mark.slow
def test_two_devices_make_the_shards_of_one(tmp_path: Path) -> None:
    """Every model, a batch a shard. One of the two processes is killed on the way; one device makes the rest."""
    root, out = tmp_path / "photos", tmp_path / "out"
    root.mkdir()
    *good, bad = photo_names(36)
    for number, name in enumerate(good):
        Image.fromarray(picture((48, 48), 7 * number)).save(root / name)
    (root / bad).write_text("this is no image")
    config = declaration(
        captions={"kind": "blip2", "model": tiny_blip2(tmp_path / "blip2", "t5"), "max_new_tokens": 4},
        segmentation={"kind": "mask2former", "model": str(tiny_mask2former(tmp_path / "masks", certain=True))},
        faces=FACES,
        caption_words=60,
    )
    preprocess(config, tmp_path / "one", source_root=root, devices=["cpu"])
    assert not annotators()
    whole = files_of(tmp_path / "one")
    assert rejected_of(tmp_path / "one") == {bad: "unreadable"}

    def kill(done: int, *_: object) -> None:
        if done == 18:
            one, _ = annotators()
            one.kill()

    with pytest.raises(PreprocessingError, match=r"^cpu: .* killed, .*shards are kept: run again with fewer devices"):
        preprocess(config, out, source_root=root, devices=["cpu", "cpu"], progress=kill)
    assert not annotators(), "the other one has ended, too"
    made = files_of(out)
    assert made.items() <= whole.items() and 12 <= len(made) < 24
    heard: list[str] = []
    preprocess(config, out, source_root=root, progress=lambda *event: heard.append(event[2]))
    assert heard[0] == f"{len(made) // 2} finished shards kept"
    assert files_of(out) == whole


@pytest.fixture(scope="module")
def crew() -> Iterator[Annotate]:
    """Two processes that look for faces."""
    with annotating(CONFIG, ("cpu", "cpu"), batches=9) as annotate:
        yield annotate


def frame(name: str, side: int = 32) -> Frame:
    item = Item(number=None, name=name, split="train", sha256=None, licence="", author="")
    image = picture((side, side))
    return Frame(item=item, sha256="", image=image, labels=None, annotation=Annotation())


def names(annotated: list[Annotated | Rejected]) -> list[str]:
    return [result.name if isinstance(result, Rejected) else result.frame.item.name for result in annotated]


def test_batches_keep_their_order_and_few_are_taken_ahead(crew: Annotate) -> None:
    taken: list[int] = []

    def batches() -> Iterator[list[Frame | Rejected]]:
        for number in range(7):
            taken.append(number)
            yield [frame(f"{number}a", 32 if number % 3 else 256), Rejected(f"{number}b", "unreadable", "")]

    results = crew(batches())
    assert names(next(results)) == ["0a", "0b"]
    assert taken == [0, 1, 2, 3], "one that each works on, and the next one"
    assert [names(result) for result in results] == [[f"{n}a", f"{n}b"] for n in range(1, 7)]


def test_an_error_comes_in_its_turn_with_its_traceback(crew: Annotate) -> None:
    """Images of different sizes cannot be looked at together. The processes live on."""
    unequal = [frame("b"), frame("c", 48)]
    results = crew([[frame("a", 256)], unequal, [frame("d")]])
    assert names(next(results)) == ["a"]
    with pytest.raises(Exception, match="equal-dimension") as raised:
        next(results)
    assert "faces.py" in str(raised.value.__cause__)
    assert len(annotators()) == 2


class TwoReasonsError(Exception):
    """Cannot be unpickled: exceptions are made again from their message alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    told = _able_to_travel(TwoReasonsError("this", "that"))
    assert (type(told), str(told)) == (PreprocessingError, "TwoReasonsError: this and that")
    assert _able_to_travel(plain := MissingWeightsError("fetch it")) is plain


def test_an_error_before_the_annotators_costs_no_batch_that_came_before_it(crew: Annotate) -> None:
    def batches() -> Iterator[list[Frame | Rejected]]:
        yield [frame("a")]
        yield [frame("b")]
        raise PreprocessingError("the disk is gone")

    results = crew(batches())
    assert [names(next(results)), names(next(results))] == [["a"], ["b"]]
    with pytest.raises(PreprocessingError, match="the disk is gone"):
        next(results)


def test_nothing_is_started_where_nothing_computes(tmp_path: Path) -> None:
    """Nor is torch imported; nor is a process started that would have no batch."""
    miniature = load_dataset(PROJECT / "datasets/miniature.yaml")
    assert computes(CONFIG) and not computes(miniature)
    code = (
        "import sys; from preprocessing.config import load_dataset; from preprocessing.crew import annotating\n"
        "with annotating(load_dataset(sys.argv[1]), ['gpu7', 'gpu8'], 9) as annotate: assert not list(annotate([]))\n"
        "assert not {'torch', 'transformers', 'facenet_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(PROJECT / "datasets/miniature.yaml")], check=True)
    before = annotators()
    with annotating(CONFIG, ("cpu", "cpu"), batches=1) as annotate:
        assert names(next(annotate([[frame("a")]]))) == ["a"]
        assert annotators() == before


@pytest.mark.parametrize(("device", "why"), [("gpu7", "Invalid device string"), ("cuda:1", "PyTorch can use 1 GPUs")])
def test_a_device_that_is_not_here_is_named_before_anything_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    add_photo(tmp_path / "photos", "a.png")
    preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "photos")
    before = files_of(tmp_path / "out")
    with pytest.raises(PreprocessingError, match=f"^device '{device}' cannot be used here: {why}"):
        preprocess(declaration(faces=FACES), tmp_path / "out", source_root=tmp_path / "photos", devices=["cpu", device])
    assert files_of(tmp_path / "out") == before
    check_devices(["cpu", "cuda", "cuda:0"])


@pytest.mark.parametrize(("gpus", "expected"), [(0, ("cpu",)), (1, ("cuda:0",)), (3, ("cuda:0", "cuda:1", "cuda:2"))])
def test_every_gpu_takes_part(monkeypatch: pytest.MonkeyPatch, gpus: int, expected: tuple[str, ...]) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert devices_here() == expected


def test_a_process_keeps_to_its_gpu_and_its_share_of_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[object] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for device in ("cuda:1", "cuda", "cpu"):
        keep_to(device, share_of_threads(2))
    assert chosen == [3, torch.device("cuda:1"), 3, 3]
    assert share_of_threads(8) == 1
