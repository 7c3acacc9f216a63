"""quality.json against counts by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from preprocessing.quality import EDGES, Statistics, duplicates
from preprocessing.run import preprocess
from tests.preprocessing.folders import add_photo, declaration


def test_counts_by_hand(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_photo(root, "a.png", "a man", [("man", (0, 0, 16, 16))], size=(32, 32))
    pair = [("man", (0, 0, 8, 16)), ("woman", (16, 0, 32, 32))]
    add_photo(root, "b.png", "a man and a woman on a beach", pair, size=(32, 32))
    add_photo(root, "c.png", "a dog", size=(32, 32), people=[("man", (0, 0, 9, 9))])
    shutil.copy(root / "a.png", root / "d.png")
    preprocess(declaration(shard_size=2, segmentation={"kind": "sidecar"}), tmp_path / "out", source_root=root)
    quality = json.loads((tmp_path / "out/quality.json").read_text())
    assert (quality["images"], quality["samples"]) == (4, 2)
    assert quality["rejected"] == {"total": 2, "by_reason": {"no_word": 1, "bad_annotation": 1}}
    assert quality["words"] == {"man": 2, "woman": 1}
    assert quality["captions"] == {"as_given": 2}
    assert quality["subjects"] == {"with_face": 3}
    histograms = {name: dict(zip(h["edges"], h["counts"], strict=False)) for name, h in quality["histograms"].items()}
    assert histograms["subjects_per_image"] == {n: int(n in (1, 2)) for n in range(1, 9)}
    assert {edge: n for edge, n in histograms["subject_area"].items() if n} == {0.25: 1, 0.1: 1, 0.5: 1}
    assert {edge: n for edge, n in histograms["face_height"].items() if n} == {0.25: 2, 0.5: 1}
    assert {edge: n for edge, n in histograms["caption_words"].items() if n} == {2: 1, 8: 1}
    assert sum(histograms["brightness"].values()) == 2


def test_repaired_captions_are_counted(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "a.png", "a red hat", [(None, (4, 4, 30, 30))])
    preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "photos")
    assert json.loads((tmp_path / "out/quality.json").read_text())["captions"] == {"repaired": 1}


def test_duplicates_across_splits_are_leaks() -> None:
    shards = [
        {"split": "train", "sources": [["a", "sha256:1"], ["b", "sha256:2"], ["c", "sha256:1"]]},
        {"split": "heldout", "sources": [["d", "sha256:2"], ["e", "sha256:3"]]},
    ]
    assert duplicates(shards) == {"groups": 2, "images": 4, "across_splits": 1, "examples": [["a", "c"], ["b", "d"]]}


def test_leaks_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A split by number is taken as it is; a finished folder says so again."""
    for name in ("1.png", "2.png"):
        add_photo(tmp_path / "photos", name)
    source = {"kind": "folder", "split": {"kind": "number", "heldout_from": 2}}
    for _ in range(2):
        preprocess(declaration(source=source), tmp_path / "out", source_root=tmp_path / "photos")
        assert "out: 1 images lie in both splits, byte for byte" in caplog.text
        caplog.clear()
    source["split"] = {"kind": "fraction", "heldout": 0.5}
    preprocess(declaration(source=source), tmp_path / "out", source_root=tmp_path / "photos")
    assert caplog.text == ""


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (0.05, 1), (0.0499, 0), (0.9999, 19), (1.0, 19), (7.0, 19)])
def test_bins_include_their_lower_edge(value: float, place: int) -> None:
    statistics = Statistics()
    statistics._value("subject_area", value)
    assert statistics.histograms["subject_area"].index(1) == place
    assert len(statistics.histograms["subject_area"]) == len(EDGES["subject_area"]) - 1
