"""JSON files are whole at any moment, also when two commands write the same one; a broken one is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from flows.errors import BrokenFileError
from flows.files import read_json, write_json


def test_two_commands_that_write_at_once_do_not_take_each_others_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "a.json", os.replace

    def meanwhile(*names: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: 0)
        write_json(path, {"by": "the other"})
        replace(*names)

    monkeypatch.setattr(os, "replace", meanwhile)
    write_json(path, {"by": "us"})
    assert read_json(path) == {"by": "us"} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "left", [b"", b'{"commit": "ab', b"\0" * 64, b"\xff\xfe\xfa"], ids=["empty", "cut", "0", "text"]
)
def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path, left: bytes) -> None:
    path = tmp_path / "publication.json"
    path.write_bytes(left)
    with pytest.raises(BrokenFileError, match=rf"^{path} is (empty|no JSON .*), as a power cut .*delete it and run"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "other.json")


@pytest.mark.parametrize("left", ["null", "[1]", '"x"'])
def test_what_is_no_object_is_named(tmp_path: Path, left: str) -> None:
    path = tmp_path / "gate.json"
    path.write_text(left)
    with pytest.raises(BrokenFileError, match=f"^{path} holds no object: delete it and run"):
        read_json(path)


def test_a_key_that_a_file_lacks_is_named_with_the_file_at_any_depth(tmp_path: Path) -> None:
    path = write_json(tmp_path / "gate.json", {"decision": "promoted", "candidate": {"commit": "ab"}})
    found = read_json(path)
    assert found["candidate"]["commit"] == "ab" and found.get("rule") is None and "rule" not in found
    for ask in (lambda: found["rule"], lambda: found["candidate"]["branch"]):
        with pytest.raises(BrokenFileError, match=f"^{path} lacks '(rule|branch)': delete it and run"):
            ask()


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems rename first and write later; a power cut between the two leaves an empty file."""
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (steps.append(name), real(*given)))
    write_json(tmp_path / "gate.json", {"decision": "promoted"})
    assert steps == ["fsync", "replace"]
    write_json(tmp_path / "gate.json", {"decision": "promoted"})
    assert steps == ["fsync", "replace"], "an equal file is left alone"


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = write_json(tmp_path / "lifecycle.json", {"preset": "miniature"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write_json(path, {"preset": "other"})
    assert read_json(path) == {"preset": "miniature"} and list(tmp_path.iterdir()) == [path]
