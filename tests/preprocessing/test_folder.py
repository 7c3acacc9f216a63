"""Folders as sources: order, splits, credits, and noticing what has changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from preprocessing.config import FractionSplit, NumberSplit, load_dataset
from preprocessing.errors import SourceError
from preprocessing.folder import FolderSourceReader, choose_split, image_number
from preprocessing.frame import Item
from tests.preprocessing.folders import add_photo, declaration

DATASETS = Path(__file__).parents[2] / "datasets"


def listed(root: Path, **changes: object) -> list[Item]:
    config = declaration(**changes)
    reader = FolderSourceReader(root=root, sidecars=config.reads_sidecars(), max_pixels=config.max_pixels)
    return reader.items(config, root.parent / "inventory.json")


def test_images_are_listed_by_path_without_masks_and_hidden_files(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for name in ("b/2.PNG", "a/10.jpg", "a/9.webp", ".trash/x.png", "c.jpeg", "._c.jpeg"):
        add_photo(root, name)
    items = listed(root)
    assert [item.name for item in items] == ["a/10.jpg", "a/9.webp", "b/2.PNG", "c.jpeg"]
    assert [item.key for item in items] == [hashlib.sha256(i.name.encode()).hexdigest()[:16] for i in items]
    assert [name for name, _ in items[0].sidecars] == ["a/10.json", "a/10.mask.png"]


def test_the_fraction_split_is_stable_and_about_right() -> None:
    rule = FractionSplit(kind="fraction", heldout=0.25)
    chosen = {name: choose_split(rule, name, Path()) for name in (f"{n}.png" for n in range(2000))}
    share = list(chosen.values()).count("heldout") / 2000
    assert 0.22 < share < 0.28
    more = FractionSplit(kind="fraction", heldout=0.5)
    assert all(choose_split(more, name, Path()) == "heldout" for name, split in chosen.items() if split == "heldout")


def test_grouping_by_folder_keeps_a_person_in_one_split() -> None:
    names = [f"{person}/{photo}.png" for person in range(40) for photo in range(4)]
    splits = {}
    for group in ("image", "folder"):
        rule = FractionSplit(kind="fraction", heldout=0.5, group=group)
        splits[group] = [{choose_split(rule, name, Path()) for name in names[i : i + 4]} for i in range(0, 160, 4)]
    assert all(len(found) == 1 for found in splits["folder"])
    assert {"train", "heldout"} == set.union(*splits["folder"])
    assert any(len(found) == 2 for found in splits["image"])


def test_the_number_split_is_by_file_name_not_by_position(tmp_path: Path) -> None:
    rule = NumberSplit(kind="number", heldout_from=60_000)
    assert [choose_split(rule, name, Path()) for name in ("59000/59999.png", "60000/60000.png", "img69999.png")] == [
        "train",
        "heldout",
        "heldout",
    ]
    assert image_number("69000/69999.png") == 69999
    with pytest.raises(SourceError, match=r"photo\.png: no number ends its name"):
        choose_split(rule, "photo.png", tmp_path)


def test_credits_come_from_the_ffhq_metadata(tmp_path: Path) -> None:
    root = tmp_path / "ffhq"
    add_photo(root, "images/00007.png")
    add_photo(root, "images/00008.png")
    metadata = {"7": {"metadata": {"author": "Jo", "license": "Attribution License", "photo_url": "x"}}}
    (root / "credits.json").write_text(json.dumps(metadata))
    source = {"kind": "folder", "split": {"kind": "number", "heldout_from": 8}, "credits": "credits.json"}
    first, second = listed(root, source=source)
    assert (first.author, first.licence, first.split) == ("Jo", "Attribution License", "train")
    assert (second.author, second.licence, second.split) == ("nobody", "CC0-1.0", "heldout")
    (root / "credits.json").write_text("[]")
    with pytest.raises(SourceError, match=r"credits\.json: not in the layout"):
        listed(root, source=source)
    (root / "credits.json").unlink()
    with pytest.raises(SourceError, match=r"credits\.json: source\.credits is not there"):
        listed(root, source=source)


def test_images_may_lie_in_one_folder_of_the_root(tmp_path: Path) -> None:
    """As FFHQ's, whose repository has pictures without numbers around them; the credits stay in the root."""
    root, ffhq = tmp_path / "ffhq", load_dataset(DATASETS / "ffhq.yaml")
    with pytest.raises(SourceError, match=r"ffhq: no such folder; set source\.root"):
        listed(root, source=ffhq.source)
    add_photo(root, "ffhq-teaser.png")
    add_photo(root, "docs/search/favicon.png")
    with pytest.raises(SourceError, match=r"images1024x1024: no such folder, which source\.images names"):
        listed(root, source=ffhq.source)
    (root / "images1024x1024").mkdir()
    with pytest.raises(SourceError, match=r"images1024x1024: no \.jpg"):
        listed(root, source=ffhq.source)
    add_photo(root, "images1024x1024/00000/00007.png")
    metadata = {"7": {"metadata": {"author": "Jo", "license": "Attribution License"}}}
    (root / "ffhq-dataset-v2.json").write_text(json.dumps(metadata))
    (item,) = listed(root, source=ffhq.source)
    assert (item.name, item.author, item.split) == ("images1024x1024/00000/00007.png", "Jo", "train")
    assert item.sidecars[0][0] == "images1024x1024/00000/00007.json"
    assert "images" not in declaration().model_dump()["source"], "what was made without it stays up to date"


def test_changes_are_noticed_and_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    path = add_photo(root, "a.png")
    other = add_photo(root, "b.png", shade=9)
    before = listed(root)
    state = other.stat()
    other.write_bytes(bytes(state.st_size))  # same size and time: believed to be unchanged, so it was not read
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert listed(root) == before
    path.write_bytes(path.read_bytes() + b"x")
    path.with_suffix(".json").write_text("{}")
    after = listed(root)
    assert after[0].sha256 != before[0].sha256
    assert after[0].sidecars[0] != before[0].sidecars[0]
    (tmp_path / "inventory.json").write_text("broken")
    assert listed(root)[1].sha256 != before[1].sha256


def test_sidecars_count_only_where_an_annotator_reads_them(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "a.png")
    no_sidecars = {
        "captions": {"kind": "template"},
        "segmentation": {"kind": "mask2former"},
        "faces": {"kind": "none"},
    }
    assert listed(tmp_path / "photos", **no_sidecars)[0].sidecars == ()
