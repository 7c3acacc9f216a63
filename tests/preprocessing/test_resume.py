"""Stopped anywhere and called again: the result is byte for byte that of a run without a stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from preprocessing import atomic, captions
from preprocessing.errors import MissingWeightsError, OutputError
from preprocessing.run import preprocess
from preprocessing.verify import verify
from tests.preprocessing.folders import add_photo, declaration, files_of

PROJECT = Path(__file__).resolve().parents[2]
IMAGES = 10  # four shards


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number in range(IMAGES):
        add_photo(root, f"{number}.png", shade=20 * number)
    return root


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    preprocess(declaration(), out, source_root=photos)
    return files_of(out)


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_an_exception_at_any_rename(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Every file of the output is renamed into place: the disk is full at the n-th of the 12 renames."""
    renames = 0

    def rename(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        if renames == stop_at:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", rename)
    with pytest.raises(OSError, match="No space"):
        preprocess(declaration(), tmp_path, source_root=photos)
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    done = {name: data for name, data in files_of(tmp_path).items()}
    assert all(whole[name] == data for name, data in done.items())
    preprocess(declaration(), tmp_path, source_root=photos)
    assert files_of(tmp_path) == whole


def test_finished_shards_are_not_captioned_again(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = captions.SidecarCaptioner.caption

    def caption(self: object, frames: list) -> list[str]:
        seen.extend(frame.item.name for frame in frames)
        if "7.png" in seen and seen.count("7.png") == 1:
            raise RuntimeError("the captioner broke")
        return original(self, frames)

    monkeypatch.setattr(captions.SidecarCaptioner, "caption", caption)
    with pytest.raises(RuntimeError):
        preprocess(declaration(), tmp_path, source_root=photos)
    first = list(seen)
    heard: list[tuple[int, int, str]] = []
    preprocess(declaration(), tmp_path, source_root=photos, progress=lambda *event: heard.append(event))
    assert first == [f"{n}.png" for n in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
    assert seen[len(first) :] == [f"{n}.png" for n in (6, 7, 8, 9)]
    assert heard[0] == (6, IMAGES, "2 finished shards kept")
    assert heard[-1][:2] == (IMAGES, IMAGES)
    assert files_of(tmp_path) == whole


def test_a_deleted_photograph_costs_the_shards_after_it(tmp_path: Path) -> None:
    """As datasets/README.md says: later images are renumbered; an edited one changes only its own shard."""
    root, out = tmp_path / "photos", tmp_path / "out"
    for number in range(IMAGES):
        add_photo(root, f"{number}.png", shade=20 * number)
    heard: list[tuple[int, int, str]] = []
    preprocess(declaration(), out, source_root=root)
    add_photo(root, "1.png", shade=7)
    preprocess(declaration(), out, source_root=root, progress=lambda *event: heard.append(event))
    assert heard == [(7, IMAGES, "3 finished shards kept"), (10, IMAGES, "train-00000")]
    heard.clear()
    (root / "4.png").unlink()
    preprocess(declaration(), out, source_root=root, progress=lambda *event: heard.append(event))
    assert [message for *_, message in heard] == ["1 finished shards kept", "train-00001", "train-00002"]
    assert verify(out)["samples"] == IMAGES - 1
    assert not (out / "shards/train-00003.tar").exists()


def test_progress_never_runs_backwards(photos: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, int, str]] = []
    preprocess(declaration(), tmp_path, source_root=photos, progress=lambda *event: heard.append(event))
    assert [done for done, _, _ in heard] == [3, 6, 9, 10]
    assert heard[-1] == (10, 10, "train-00003")


def test_sigkill_leaves_no_half_shard_and_no_orphan(tmp_path: Path) -> None:
    """A real process with real workers, killed twice in the middle."""
    path = tmp_path / "drawn.yaml"
    values = declaration(
        source={"kind": "renderer", "seed": 5, "size": 32, "counts": {"train": 72, "heldout": 8}},
        shard_size=8,
    )
    path.write_text(yaml.safe_dump(values.model_dump(mode="json")))
    command = [sys.executable, "-m", "preprocessing", str(path), "--workers", "2", "--quiet", "--out"]
    kills = 0
    for wanted in (1, 5):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=PROJECT)
        while process.poll() is None and len(list((tmp_path / "killed/shards").glob("*.json"))) < wanted:
            time.sleep(0.005)
        workers = _children(process.pid)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed/manifest.json").exists()
        for index in (tmp_path / "killed/shards").glob("*.json"):
            record = json.loads(index.read_text())
            assert atomic.sha256_file(index.with_suffix(".tar")) == record["sha256"]
        deadline = time.monotonic() + 20
        while any(_alive(worker) for worker in workers):
            assert time.monotonic() < deadline, "workers outlive their killed parent"
            time.sleep(0.05)
    assert kills == 2
    preprocess(values, tmp_path / "killed", workers=1)
    preprocess(values, tmp_path / "clean", workers=1)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "clean")
    assert verify(tmp_path / "clean")["images"] == 80


@pytest.mark.parametrize("force", [False, True])
def test_a_missing_model_leaves_the_dataset_as_it_was(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, force: bool
) -> None:
    """A new declaration would make every shard again, and fewer of them; its captioner is not on this machine."""
    preprocess(declaration(), tmp_path / "out", source_root=photos)
    asked = declaration(captions={"kind": "blip2"}, shard_size=5)
    with pytest.raises(MissingWeightsError, match="models are missing"):
        preprocess(asked, tmp_path / "out", source_root=photos, models=tmp_path / "models", force=force)
    assert files_of(tmp_path / "out") == whole
    (tmp_path / "models/blip2-flan-t5-xl").mkdir(parents=True)
    (tmp_path / "models/blip2-flan-t5-xl/config.json").write_text("{}")  # there, but it cannot be loaded
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        preprocess(asked, tmp_path / "out", source_root=photos, models=tmp_path / "models", force=force)
    assert files_of(tmp_path / "out") == whole


def test_two_runs_do_not_share_a_folder(photos: Path, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another preprocessing is writing to this folder"):
            preprocess(declaration(), tmp_path, source_root=photos)
    assert preprocess(declaration(), tmp_path, source_root=photos).is_file()


def test_shards_are_not_replaced_under_a_training(photos: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """A training shares the lock: a dataset that is up to date may be asked for meanwhile, but not changed."""
    preprocess(declaration(), tmp_path, source_root=photos)
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert preprocess(declaration(), tmp_path, source_root=photos).is_file()
        for asked in ({"declaration": declaration(shard_size=5)}, {"declaration": declaration(), "force": True}):
            with pytest.raises(OutputError, match="a training or another preprocessing uses this folder; wait for it"):
                preprocess(**asked, out=tmp_path, source_root=photos)
        assert files_of(tmp_path) == whole
    preprocess(declaration(shard_size=5), tmp_path, source_root=photos)
    assert files_of(tmp_path) != whole


def test_nobody_reads_what_is_being_written(photos: Path, tmp_path: Path) -> None:
    """From before the first change to the manifest the lock cannot be shared; afterwards it can."""
    locks: list[bool] = []

    def try_lock(*_: object) -> None:
        with (tmp_path / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                locks.append(True)
            except BlockingIOError:
                locks.append(False)

    preprocess(declaration(), tmp_path, source_root=photos, progress=try_lock)
    assert locks == [False] * 4
    try_lock()
    assert locks[-1]


def test_an_output_that_is_a_file_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        preprocess(declaration(), tmp_path / "out", source_root=photos)


def _children(pid: int) -> list[int]:
    """Processes started by a process (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
