"""A damaged dataset is found, whatever is damaged, and the message names the file."""

from __future__ import annotations

import errno
import io
import json
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from preprocessing.atomic import sha256_file, write_json
from preprocessing.errors import ShardError
from preprocessing.manifest import manifest_digest
from preprocessing.run import preprocess
from preprocessing.shards import TarWriter, record_digest
from preprocessing.verify import main, verify
from tests.preprocessing.folders import add_photo, declaration, item_of, photo_names, samples_of

NAMES = photo_names(4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        add_photo(tmp_path / "photos", name, shade=number)
    add_photo(tmp_path / "photos", "bad.png", "a dog")
    preprocess(declaration(), tmp_path / "out", source_root=tmp_path / "photos")
    return tmp_path / "out"


def test_a_whole_dataset_passes(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {"images": 5, "samples": 4, "rejected": 1, "subjects": 4, "splits": {"train": 4, "heldout": 0}}
    assert verify(out) == expected
    assert main([str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_any_flipped_byte_of_a_shard_is_found(out: Path) -> None:
    tar = out / "shards/train-00000.tar"
    whole = tar.read_bytes()
    for place in random.Random(0).sample(range(len(whole)), 20):
        tar.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ShardError, match=r"train-00000\.tar"):
            verify(out)


@pytest.mark.parametrize("name", ["manifest.json", "quality.json", "rejected.jsonl", "shards/train-00001.json"])
def test_missing_files_are_named(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (out / name).unlink()
    with pytest.raises(ShardError, match=name):
        verify(out)
    assert main([str(out)]) == 1
    assert name in capsys.readouterr().err


def rewrite(out: Path, edit: object, shard: str = "train-00000") -> None:
    """Change a shard and everything that vouches for it, as a wrong writer would."""
    tar, manifest = out / f"shards/{shard}.tar", json.loads((out / "manifest.json").read_text())
    tar.write_bytes(edit(tar.read_bytes()))
    entry = next(entry for entry in manifest["shards"] if entry["name"] == shard)
    entry["sha256"] = sha256_file(tar)
    manifest["digest"] = manifest_digest(manifest)
    write_json(out / "manifest.json", manifest)


def test_wrong_content_behind_right_digests_is_found(out: Path) -> None:
    original = (out / "shards/train-00000.tar").read_bytes()
    key = min(item_of(name).key for name in NAMES[:3])
    edits = {
        b'"word": "man"': b'"word": "men"',
        b'"key": "%s"' % key.encode(): b'"key": "0000000000000000"',
        b"%s.mask.png" % key.encode(): b"%s.mosk.png" % key.encode(),
        b"WEBPVP8": b"WEBPVPZ",
    }
    for old, new in edits.items():
        assert old in original
        rewrite(out, lambda _, old=old, new=new: original.replace(old, new, 1))
        with pytest.raises(ShardError, match=key):
            verify(out)


def vouch(out: Path, **changes: object) -> None:
    """Write a manifest with a digest of its own for what the files now are."""
    manifest = json.loads((out / "manifest.json").read_text()) | changes
    for entry in manifest["shards"]:
        entry["sha256"] = sha256_file(out / f"shards/{entry['name']}.tar")
    for name in ("rejected.jsonl", "quality.json"):
        manifest[f"{name.partition('.')[0]}_sha256"] = sha256_file(out / name)
    manifest["digest"] = manifest_digest(manifest)
    write_json(out / "manifest.json", manifest)


def change_members(out: Path, changes: dict[str, bytes]) -> None:
    """Write the first shard again, its first sample with other members, the index and all digests right."""
    path = out / "shards/train-00000.json"
    record, written = json.loads(path.read_text()), io.BytesIO()
    members, tar = samples_of(out), TarWriter(written)
    for number, entry in enumerate(record["index"]):
        new = members[entry["key"]] | (changes if number == 0 else {})
        tar.add(SimpleNamespace(key=entry["key"], members=sorted(new.items())))
    tar.close()
    path.with_suffix(".tar").write_bytes(written.getvalue())
    record["index"] = tar.index
    write_json(path, record | {"digest": record_digest(record)})
    vouch(out)


def image_bytes(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


ONE = np.zeros((32, 32), np.uint8)
ONE[4:20, 4:20] = 1  # the label map of one person


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"extra.txt": b""}, "has members"),
        ({"image.png": image_bytes(np.zeros((32, 31, 3), np.uint8))}, r"image is \(31, 32\)"),
        ({"image.png": image_bytes(np.zeros((32, 32), np.uint8))}, "image is .* L"),
        ({"mask.png": image_bytes(ONE)}, None),
        ({"mask.png": image_bytes(ONE[:31])}, "mask is"),
        ({"mask.png": image_bytes(2 * ONE)}, r"mask holds labels \[2\]"),
        ({"mask.png": image_bytes(0 * ONE)}, r"mask holds labels \[\]"),
        ({"mask.png": image_bytes(ONE + 254 * (ONE == 0).astype(np.uint8))}, r"mask holds labels \[1, 254\]"),
        ({"mask.png": image_bytes(ONE + 255 * (ONE == 0).astype(np.uint8))}, None),  # strangers around
        ({"subject0.webp": image_bytes(np.full((16, 15, 4), 255, np.uint8), "WEBP")}, r"crop is \(15, 16\)"),
        ({"subject0.webp": image_bytes(np.zeros((16, 16, 4), np.uint8), "WEBP")}, "wholly transparent"),
    ],
)
def test_members_that_do_not_agree_are_found(out: Path, changes: dict[str, bytes], problem: str | None) -> None:
    change_members(out, changes)
    if problem is None:
        assert verify(out)["samples"] == 4
    else:
        with pytest.raises(ShardError, match=problem):
            verify(out)


def test_wrong_accounts_behind_right_digests_are_found(out: Path) -> None:
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    vouch(out, counts=counts | {"subjects": 5})
    with pytest.raises(ShardError, match="counts are .*'subjects': 5.* the files hold .*'subjects': 4"):
        verify(out)
    vouch(out, counts=counts)
    assert verify(out) == counts
    lines = (out / "rejected.jsonl").read_text()
    (out / "rejected.jsonl").write_text(lines.replace('"no_word"', '"no_idea"'))
    with pytest.raises(ShardError, match="rejected.jsonl: differs from the manifest"):
        verify(out)
    vouch(out)
    with pytest.raises(ShardError, match=r"unknown reasons \['no_idea'\]"):
        verify(out)


def test_an_index_out_of_order_is_found(out: Path) -> None:
    path = out / "shards/train-00000.json"
    record = json.loads(path.read_text())
    write_json(path, record | {"index": record["index"][::-1]})
    with pytest.raises(ShardError, match="keys are not sorted"):
        verify(out)
    first, second, *_ = record["index"]
    both = {"key": first["key"], "offset": first["offset"], "size": first["size"] + second["size"]}
    write_json(path, record | {"index": [both, *record["index"][1:]]})
    with pytest.raises(ShardError, match=f"the index entry of {first['key']} also holds .*{second['key']}"):
        verify(out)


def test_a_wrong_index_is_found(out: Path) -> None:
    path = out / "shards/train-00000.json"
    record = json.loads(path.read_text())
    for change in ({"offset": 512}, {"offset": -512}, {"size": 512}, {"key": "x"}):
        entries = [record["index"][0] | change, *record["index"][1:]]
        write_json(path, record | {"index": entries})
        with pytest.raises(ShardError, match="train-00000"):
            verify(out)
    write_json(path, record | {"index": record["index"][1:]})
    with pytest.raises(ShardError, match="lists"):
        verify(out)


@pytest.mark.parametrize(
    "index", [[{"offset": 0, "size": 9}], [7], 7, [{"key": "x", "offset": "0", "size": 9}], [{"key": [], "size": -1}]]
)
def test_an_index_of_another_form_is_found(out: Path, index: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = out / "shards/train-00000.json"
    write_json(path, json.loads(path.read_text()) | {"index": index})
    assert main([str(out)]) == 1
    assert f"{path}: " in capsys.readouterr().err


@pytest.mark.parametrize("place", [-1, 1 << 70])
def test_an_index_that_leaves_the_shard_is_found(out: Path, place: int) -> None:
    path = out / "shards/train-00000.json"
    record = json.loads(path.read_text())
    record["index"][0]["size"] = place
    write_json(path, record | {"digest": record_digest(record)})
    with pytest.raises(ShardError, match=r"train-00000\.json: an offset or a size is no length in the shard"):
        verify(out)


@pytest.mark.parametrize("account", ["statistics", "sources", "tools", "dataset"])
def test_a_damaged_account_of_a_shard_is_found(out: Path, account: str) -> None:
    path = out / "shards/train-00000.json"
    record = json.loads(path.read_text())
    write_json(path, record | {account: []})
    with pytest.raises(ShardError, match=r"train-00000\.json: differs from its digest"):
        verify(out)
    del record["digest"]  # as an earlier version wrote it
    write_json(path, record)
    verify(out)


class FailingDisk(io.BytesIO):
    """A file of which the beginning can be read."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("failing", ["digest", "samples"])
def test_a_disk_that_fails_is_told_as_that(
    out: Path, failing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither as damage to the dataset, nor as a wrong index; a shard is read for its digest, then for its samples."""
    healthy, opened = Path.open, []

    def opening(path: Path, *arguments: object, **options: object) -> object:
        file = healthy(path, *arguments, **options)
        if path.name == "train-00000.tar":
            opened.append(path)
            if len(opened) == ("digest", "samples").index(failing) + 1:
                with file:
                    return FailingDisk(file.read())
        return file

    monkeypatch.setattr(Path, "open", opening)
    assert main([str(out)]) == 1
    told = capsys.readouterr().err
    assert f"{opened[0]}: Input/output error. See to" in told and "verify again" in told


def test_an_index_that_cannot_be_read_is_named(out: Path) -> None:
    path = out / "shards/train-00000.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(ShardError, match=r"train-00000\.json: Is a directory\. See to"):
        verify(out)


def test_an_edited_manifest_is_found(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    write_json(out / "manifest.json", manifest | {"counts": manifest["counts"] | {"samples": 9}})
    with pytest.raises(ShardError, match="digest"):
        verify(out)
    write_json(out / "manifest.json", manifest | {"format": "moa-shards/0"})
    with pytest.raises(ShardError, match="moa-shards/1"):
        verify(out)
    write_json(out / "manifest.json", manifest | {"commit": "another checkout"})
    assert verify(out)["samples"] == 4
