"""A disk that is full or may not be written: a sentence, and what is finished is kept."""

from __future__ import annotations

import builtins
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from preprocessing.disk import disk_trouble_told
from preprocessing.errors import OutputError
from preprocessing.run import preprocess
from tests.preprocessing.folders import add_photo, declaration, files_of, photo_names

FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(photo_names(7)):
        add_photo(tmp_path / "photos", name, shade=number)
    return tmp_path / "photos"


def make_read_only(folder: Path, code: int, patch: pytest.MonkeyPatch) -> None:
    """Nothing below `folder` can be opened for writing, also by root, for whom modes do not count."""

    def refuse(path: Any) -> None:
        if isinstance(path, str | Path) and Path(path).is_relative_to(folder):
            raise OSError(code, os.strerror(code), str(path))

    real_open, real_os_open = builtins.open, os.open

    def guarded(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse(file)
        return real_open(file, mode, *rest, **options)

    def guarded_os(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & FLAGS:
            refuse(path)
        return real_os_open(path, flags, *rest, **options)

    patch.setattr("io.open", guarded)  # that of pathlib
    patch.setattr(builtins, "open", guarded)
    patch.setattr(os, "open", guarded_os)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("locked", [True, False], ids=["lock", "no-lock"])
def test_a_finished_dataset_that_is_read_only_is_up_to_date(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, locked: bool
) -> None:
    out, told = tmp_path / "out", []
    preprocess(declaration(), out, source_root=photos)
    before = files_of(out)
    if not locked:
        (out / ".lock").unlink()
    os.utime(photos / photo_names(1)[0])  # the inventory, a cache, would be written again
    make_read_only(out, code, monkeypatch)
    assert preprocess(declaration(), out, source_root=photos, progress=lambda *line: told.append(line)).is_file()
    assert told == [(7, 7, "up to date")]
    with pytest.raises(OutputError, match=rf"{out}: cannot be written \({os.strerror(code)}.*or choose another folder"):
        preprocess(declaration(shard_size=5), out, source_root=photos)
    assert files_of(out) == before


def test_an_unfinished_dataset_that_is_read_only_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(tmp_path / "out", errno.EACCES, monkeypatch)
    with pytest.raises(OutputError, match="out: cannot be written"):
        preprocess(declaration(), tmp_path / "out", source_root=photos)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_gets_full_is_told_and_the_same_call_goes_on(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    out = tmp_path / "out"
    synced, flush = [], os.fsync

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 6:  # as a delayed allocation notices it; the inventory and the first shard are written
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=rf"{out}: the disk is full .*Free some space and run the same command"):
            preprocess(declaration(), out, source_root=photos)
    assert len(list((out / "shards").iterdir())) == 2 and not list(out.rglob("*.tmp"))
    kept = (out / "shards/train-00000.tar").stat().st_mtime_ns
    preprocess(declaration(), out, source_root=photos)
    preprocess(declaration(), tmp_path / "clean", source_root=photos)
    assert files_of(out) == files_of(tmp_path / "clean")
    assert (out / "shards/train-00000.tar").stat().st_mtime_ns == kept


def test_other_trouble_names_the_file(tmp_path: Path) -> None:
    message = rf"{tmp_path}: Input/output error: a.tar. See to the disk"
    with pytest.raises(OutputError, match=message), disk_trouble_told(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a.tar")
