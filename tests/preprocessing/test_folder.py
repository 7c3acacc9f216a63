"""Folders as sources: order, splits, credits, and noticing what has changed."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preprocessing.atomic import write_json
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


def test_a_folder_that_cannot_be_listed_is_no_smaller_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos"
    add_photo(root, "a.png")
    add_photo(root, "drive/b.png")
    original = os.scandir

    def scandir(folder: str) -> object:
        if str(folder).endswith("drive"):
            raise OSError(5, "Input/output error", str(folder))
        return original(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"photos/drive: this folder cannot be listed \(Input/output error\)"):
        listed(root)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """Also two links to one folder, a link to a folder of the root itself, and links that lead back."""
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for place, name in ((root, "z/a.png"), (elsewhere, "b.png"), (elsewhere, "deep/c.png")):
        add_photo(place, name)
    (root / "1-out").symlink_to(elsewhere)
    (root / "2-out").symlink_to(elsewhere)
    (root / "3-inside").symlink_to(root / "z")
    (root / "z/up").symlink_to(root)
    (elsewhere / "deep/back").symlink_to(root)
    assert [item.name for item in listed(root)] == ["1-out/b.png", "1-out/deep/c.png", "z/a.png"]
    (root / "1-out").unlink()
    (root / "1-out").symlink_to(tmp_path / "not-mounted")
    with pytest.raises(SourceError, match=r"photos/1-out: a link that leads nowhere; mount what it points to"):
        listed(root)


def test_pictures_of_other_kinds_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "photos"
    add_photo(root, "a.png")
    listed(root)
    assert caplog.messages == []
    for name in ("b.HEIC", "c.heic", "d.tif", "notes.txt", "e.json"):
        (root / name).write_bytes(b"x")
    assert [item.name for item in listed(root)] == ["a.png"]
    expected = f"{root}: 3 pictures are left out (2 x .heic, 1 x .tif); convert them to jpg, png or webp to have them"
    assert caplog.messages == [expected]


NO_SIDECARS = {"captions": {"kind": "template"}, "segmentation": {"kind": "mask2former"}, "faces": {"kind": "none"}}


def test_masks_are_no_images_where_they_are_read_and_in_any_case(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    add_photo(root, "A.PNG")
    (root / "A.mask.png").rename(root / "A.MASK.PNG")
    (root / "A.json").rename(root / "A.Json")
    add_photo(root, "party.mask.png")
    (root / "party.mask.json").unlink()
    (root / "party.mask.mask.png").unlink()
    (item,) = listed(root)
    assert (item.name, [name for name, _ in item.sidecars]) == ("A.PNG", ["A.Json", "A.MASK.PNG"])
    reader = FolderSourceReader(root=root, sidecars=True, max_pixels=10**6)
    assert reader.read(item).labels.max() == 1
    assert [item.name for item in listed(root, **NO_SIDECARS)] == ["A.MASK.PNG", "A.PNG", "party.mask.png"]


@pytest.mark.parametrize("group", ["image", "folder"])
def test_copies_of_an_image_are_in_one_split(tmp_path: Path, group: str) -> None:
    """The one in which the first of them, by path, lies; they would lie in both by their own names."""
    rule = FractionSplit(kind="fraction", heldout=0.5, group=group)
    names = [f"{n:02d}/{n}.png" for n in range(20)]
    for n, name in enumerate(names):
        add_photo(tmp_path / "photos", name, shade=n // 4)
    items = listed(tmp_path / "photos", source={"kind": "folder", "split": rule})
    alone = [choose_split(rule, name, Path()) for name in names]
    assert [item.split for item in items] == [alone[n - n % 4] for n in range(20)]
    assert [item.split for item in items] != alone
    assert {item.split for item in items} == {"train", "heldout"}
    by_number = {"kind": "number", "heldout_from": 10}
    assert [item.split for item in listed(tmp_path / "photos", source={"kind": "folder", "split": by_number})] == [
        "train" if n < 10 else "heldout" for n in range(20)
    ], "published splits stay as they are"


def test_unreadable_images_are_no_copies_of_each_other(tmp_path: Path) -> None:
    """One that comes or goes must not move the others to another split, and so to other shards."""
    rule = FractionSplit(kind="fraction", heldout=0.5, group="image")
    names = [f"{n:02d}.png" for n in range(20)]
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).symlink_to("nowhere")
    items = listed(tmp_path / "photos", source={"kind": "folder", "split": rule})
    assert [item.split for item in items] == [choose_split(rule, name, Path()) for name in names]
    assert {item.split for item in items} == {"train", "heldout"}


def test_the_fraction_split_is_stable_and_about_right() -> None:
    rule = FractionSplit(kind="fraction", heldout=0.25)
    chosen = {name: choose_split(rule, name, Path()) for name in (f"{n}.png" for n in range(2000))}
    share = list(chosen.values()).count("heldout") / 2000
    assert 0.22 < share < 0.28
    more = FractionSplit(kind="fraction", heldout=0.5)
    assert all(choose_split(more, name, Path()) == "heldout" for name, split in chosen.items() if split == "heldout")


def test_the_fraction_split_is_by_the_first_eight_bytes_of_the_digest() -> None:
    """sha256("abc") begins with ba7816bf 8f01cfea: 0.72839 of 2^64. A rule that reads it otherwise would move held-out
    images into the training set of a dataset that exists."""
    for name, group in (("abc", "image"), ("abc/1.png", "folder")):
        splits = [
            choose_split(FractionSplit(kind="fraction", heldout=h, group=group), name, Path()) for h in (0.728, 0.729)
        ]
        assert splits == ["train", "heldout"]


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
    assert image_number("2021/take3-0042.jpg") == 42
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
    with pytest.raises(
        SourceError, match=r"ffhq: no such folder; set source\.root .*in flows: --set preprocess\.source_root"
    ):
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


def test_a_change_of_the_size_or_of_the_time_alone_is_noticed(tmp_path: Path) -> None:
    path = add_photo(tmp_path / "photos", "a.png")
    found = [listed(tmp_path / "photos")[0].sha256]
    state, data = path.stat(), path.read_bytes()
    for content, later in ((data + b"x", 0), (data + b"y", 1)):
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + later))
        found.append(listed(tmp_path / "photos")[0].sha256)
    assert found[1:] == [f"sha256:{hashlib.sha256(data + end).hexdigest()}" for end in (b"x", b"y")]


def test_two_listings_at_once_write_one_inventory(tmp_path: Path) -> None:
    """They share the folder's lock, so nothing but the names of their temporary files keeps them apart."""
    inventory = tmp_path / "inventory.json"
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda n: write_json(inventory, {"n": n, "more": list(range(99))}), range(200)))
    assert json.loads(inventory.read_text())["more"] == list(range(99))
    assert list(tmp_path.iterdir()) == [inventory]


def test_sidecars_count_only_where_an_annotator_reads_them(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "a.png")
    assert listed(tmp_path / "photos", **NO_SIDECARS)[0].sidecars == ()
