"""Shards: plain WebDataset, exact index, bytes that depend on the inputs alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from preprocessing.atomic import write_json
from preprocessing.errors import OutputError, ShardError
from preprocessing.frame import Item
from preprocessing.run import preprocess
from preprocessing.shards import chunk_items
from preprocessing.verify import verify
from tests.preprocessing.folders import add_photo, declaration, files_of, photo_names, rejected_of, samples_of

NAMES = photo_names(7)
KEYS = [
    key
    for first in (0, 3, 6)
    for key in sorted(hashlib.sha256(name.encode()).hexdigest()[:16] for name in NAMES[first : first + 3])
]
RENDERED = {
    "source": {"kind": "renderer", "seed": 3, "size": 32, "counts": {"train": 70, "heldout": 6}},
    "shard_size": 40,
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        add_photo(tmp_path / "photos", name, shade=number)
    return tmp_path / "photos"


def test_plain_webdataset_reads_them(photos: Path, tmp_path: Path) -> None:
    preprocess(declaration(), tmp_path / "out", source_root=photos)
    urls = [str(path) for path in sorted((tmp_path / "out/shards").glob("*.tar"))]
    assert len(urls) == 3
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == KEYS
    for sample in samples:
        assert sample["image.png"].size == (32, 32)
        assert sample["mask.png"].size == (32, 32)
        assert sample["json"]["subjects"][0]["word"] == "man"
        crop = Image.open(io.BytesIO(sample["subject0.webp"])) if isinstance(sample["subject0.webp"], bytes) else None
        assert (crop or sample["subject0.webp"]).size == (16, 16)


def test_the_index_points_at_whole_samples(photos: Path, tmp_path: Path) -> None:
    preprocess(declaration(), tmp_path / "out", source_root=photos)
    by_index = samples_of(tmp_path / "out")
    assert list(by_index) == KEYS
    for path in sorted((tmp_path / "out/shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            infos = archive.getmembers()
            read = {info.name: archive.extractfile(info).read() for info in infos}
        assert {(info.mtime, info.uid, info.uname, info.mode) for info in infos} == {(0, 0, "", 0o644)}
        assert list(read) == sorted(read)
        for name, content in read.items():
            key, _, suffix = name.partition(".")
            assert by_index[key][suffix] == content
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["sha256"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert record["bytes"] == path.stat().st_size


def test_bytes_do_not_depend_on_time_place_or_owner(photos: Path, tmp_path: Path) -> None:
    preprocess(declaration(), tmp_path / "one", source_root=photos)
    photos.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        os.utime(path, (time.time() - 1e6, time.time() - 1e6))
    preprocess(declaration(), tmp_path / "two", source_root=tmp_path / "moved")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    config = declaration(**RENDERED)
    preprocess(config, tmp_path / "alone", workers=1)
    preprocess(config, tmp_path / "two", workers=2)
    written = files_of(tmp_path / "alone")
    assert written == files_of(tmp_path / "two")
    assert [name for name in written if name.endswith("tar")] == [
        "shards/heldout-00000.tar",
        "shards/train-00000.tar",
        "shards/train-00001.tar",
    ]
    assert len(samples_of(tmp_path / "alone")) == 76


def test_drawn_pictures_are_cut_after_every_size_of_them() -> None:
    items = [
        Item(number=n, name=f"{n}", split=split, sha256=None, licence="", author="")
        for split, count in (("train", 7), ("heldout", 3))
        for n in range(count)
    ]
    chunks = {name: [item.number for item in chunk] for name, _, chunk in chunk_items(items, 3)}
    assert chunks == {
        "train-00000": [0, 1, 2],
        "train-00001": [3, 4, 5],
        "train-00002": [6],
        "heldout-00000": [0, 1, 2],
    }


def test_the_renderers_annotations_arrive_whole(tmp_path: Path) -> None:
    from preprocessing.world import World

    config = declaration(
        **RENDERED | {"min_area": 0.0, "source": RENDERED["source"] | {"counts": {"train": 20, "heldout": 1}}}
    )
    preprocess(config, tmp_path / "out")
    assert rejected_of(tmp_path / "out") == {}
    pairs = 0
    for number, members in enumerate(list(samples_of(tmp_path / "out").values())[-20:]):
        scene, metadata = World(seed=3, size=32).scene(number, "train"), json.loads(members["json"])
        assert Image.open(io.BytesIO(members["image.png"])).tobytes() == scene.image.tobytes()
        assert Image.open(io.BytesIO(members["mask.png"])).tobytes() == scene.mask.tobytes()
        assert metadata["caption"] == scene.caption
        assert [subject["identity"] for subject in metadata["subjects"]] == [p["identity"] for p in scene.people]
        assert [subject["word"] for subject in metadata["subjects"]] == [p["word"] for p in scene.people]
        assert metadata["attributes"] == {**scene.attributes, "description": scene.description}
        pairs += len(scene.people) == 2
    assert pairs


def test_the_seed_the_margin_and_the_crop_change_the_bytes(tmp_path: Path) -> None:
    source = RENDERED["source"] | {"counts": {"train": 2, "heldout": 0}}
    variants = [
        {},
        {"source": source | {"seed": 4}},
        {"source": source | {"framing": {"train": "photos"}}},
        {"crop_margin": 0.3},
        {"crop_size": 20},
        {"image_format": "jpg"},
        {"resolution": 40},
    ]
    written = set()
    for number, changes in enumerate(variants):
        preprocess(declaration(**RENDERED | {"source": source} | changes), tmp_path / str(number))
        written.add((tmp_path / str(number) / "shards/train-00000.tar").read_bytes())
    assert len(written) == len(variants)


def test_square_top_keeps_heads_that_the_centre_cuts_off(tmp_path: Path) -> None:
    add_photo(tmp_path / "photos", "tall.png", people=[("man", (10, 0, 30, 20))], size=(40, 100))
    add_photo(tmp_path / "photos", "wide.png", people=[("man", (40, 0, 60, 20))], size=(100, 40))
    preprocess(declaration(), tmp_path / "centre", source_root=tmp_path / "photos")
    preprocess(declaration(square="top"), tmp_path / "top", source_root=tmp_path / "photos")
    assert rejected_of(tmp_path / "centre") == {"tall.png": "no_person"}
    assert rejected_of(tmp_path / "top") == {}


def test_an_up_to_date_folder_is_left_alone(photos: Path, tmp_path: Path) -> None:
    out, heard = tmp_path / "out", []
    preprocess(declaration(), out, source_root=photos)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name not in (".lock", ".inventory.json")}
    preprocess(declaration(), out, source_root=photos, progress=lambda *event: heard.append(event))
    assert heard == [(7, 7, "up to date")]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_photo_redoes_its_own_shard(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    preprocess(declaration(), out, source_root=photos)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    add_photo(photos, NAMES[4], shade=99)
    preprocess(declaration(), out, source_root=photos)
    after = {path.name: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"train-00001.tar", "train-00001.json"}


DAMAGES = ["cut", "flip", "gone", "index gone", "index empty", "offset", "size", "key", "fewer", "other shard's index"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_made_again(photos: Path, tmp_path: Path, damage: str, finished: bool) -> None:
    """What `verify` finds, the next run mends, though times are as before, and so is the size where a bit flipped."""
    out = tmp_path / "out"
    preprocess(declaration(), out, source_root=photos)
    whole, tar = files_of(out), out / "shards/train-00001.tar"
    times = {path: path.stat().st_mtime_ns for path in (tar, tar.with_suffix(".json"))}
    _damage(tar, damage)
    for path in times:
        if path.exists():
            os.utime(path, ns=(times[path], times[path]))
    with pytest.raises(ShardError, match="train-00001"):
        verify(out)
    if not finished:
        (out / "manifest.json").unlink()
    preprocess(declaration(), out, source_root=photos)
    assert files_of(out) == whole
    assert verify(out)["samples"] == 7


def _damage(tar: Path, damage: str) -> None:
    data, index = bytearray(tar.read_bytes()), tar.with_suffix(".json")
    record = json.loads(index.read_text())
    data[700] ^= 1
    match damage:
        case "cut":
            tar.write_bytes(data[:-512])
        case "flip":
            tar.write_bytes(data)
        case "gone" | "index gone":
            (tar if damage == "gone" else index).unlink()
        case "index empty":
            index.write_text("{}")
        case "other shard's index":
            index.write_bytes(tar.with_name("train-00000.json").read_bytes())
        case "fewer":
            write_json(index, record | {"index": record["index"][1:]})
        case field:
            record["index"][1][field] = "0" * 16 if field == "key" else record["index"][1][field] + 512
            write_json(index, record)


def test_an_edited_manifest_is_written_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    preprocess(declaration(), out, source_root=photos)
    whole = files_of(out)
    manifest = json.loads((out / "manifest.json").read_text())
    write_json(out / "manifest.json", manifest | {"counts": manifest["counts"] | {"samples": 9}})
    preprocess(declaration(), out, source_root=photos)
    assert files_of(out) == whole


def test_shards_of_another_layout_go_and_foreign_files_stay(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    preprocess(declaration(shard_size=2), out, source_root=photos)
    (out / "shards/notes.txt").write_text("mine")
    (out / "notes.tmp").write_text("mine")
    for name in ("shards/train-00000.tar.1-1.tmp", "shards/train-00009.json.tmp", ".inventory.json.1-1.tmp"):
        (out / name).write_text("half")
    preprocess(declaration(shard_size=100_000), out, source_root=photos)
    names = sorted(path.name for path in (out / "shards").iterdir())
    assert names == ["notes.txt", "train-00000.json", "train-00000.tar"]
    assert [path.name for path in out.glob("*.tmp")] == ["notes.tmp"]


@pytest.mark.parametrize("finished", [True, False])
def test_another_datasets_folder_is_not_overwritten_by_mistake(photos: Path, tmp_path: Path, finished: bool) -> None:
    out = tmp_path / "out"
    preprocess(declaration(), out, source_root=photos)
    if not finished:
        (out / "manifest.json").unlink()
    before, inventory = files_of(out), (out / ".inventory.json").read_bytes()
    add_photo(tmp_path / "others", "a.png")
    with pytest.raises(OutputError, match="holds the dataset 'toy', not 'other'"):
        preprocess(declaration(name="other"), out, source_root=tmp_path / "others")
    assert files_of(out) == before
    assert (out / ".inventory.json").read_bytes() == inventory
    preprocess(declaration(name="other"), out, source_root=tmp_path / "others", force=True)
    assert json.loads((out / "manifest.json").read_text())["dataset"]["name"] == "other"
