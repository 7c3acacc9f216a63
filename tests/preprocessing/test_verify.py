"""A damaged dataset is found, whatever is damaged, and the message names the file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from preprocessing.atomic import sha256_file, write_json
from preprocessing.errors import ShardError
from preprocessing.manifest import manifest_digest
from preprocessing.run import preprocess
from preprocessing.verify import main, verify
from tests.preprocessing.folders import add_photo, declaration, item_of, photo_names

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
