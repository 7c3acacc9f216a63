"""Stopped anywhere and called again: the result is byte for byte that of a run without a stop."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from preprocessing import atomic, captions, finished, manifest
from preprocessing.atomic import write_json
from preprocessing.errors import MissingWeightsError, OutputError
from preprocessing.run import preprocess
from preprocessing.verify import verify
from tests.preprocessing.folders import add_photo, begins_shard, declaration, files_of, photo_names

PROJECT = Path(__file__).resolve().parents[2]
IMAGES = 10  # four shards
NAMES = photo_names(IMAGES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(NAMES):
        add_photo(root, name, shade=20 * number)
    return root


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    preprocess(declaration(), out, source_root=photos)
    return files_of(out)


@pytest.mark.parametrize("stop_at", range(2, 12))
def test_an_exception_at_any_rename(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Every file of the output is renamed into place: the disk is full at the n-th of the 12 renames, of which the
    first is that of the inventory, a cache."""
    renames = 0

    def rename(source: Path, target: Path) -> None:
        nonlocal renames
        renames += 1
        if renames == stop_at:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(atomic.os, "replace", rename)
    with pytest.raises(OutputError, match="No space"):
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
        if NAMES[7] in seen and seen.count(NAMES[7]) == 1:
            raise RuntimeError("the captioner broke")
        return original(self, frames)

    monkeypatch.setattr(captions.SidecarCaptioner, "caption", caption)
    with pytest.raises(RuntimeError):
        preprocess(declaration(), tmp_path, source_root=photos)
    first = list(seen)
    heard: list[tuple[int, int, str]] = []
    preprocess(declaration(), tmp_path, source_root=photos, progress=lambda *event: heard.append(event))
    assert sorted(first) == NAMES[:9]
    assert sorted(seen[len(first) :]) == NAMES[6:]
    assert heard[0] == (6, IMAGES, "2 finished shards kept")
    assert heard[-1][:2] == (IMAGES, IMAGES)
    assert files_of(tmp_path) == whole


def changed(root: Path, out: Path) -> list[str]:
    """Preprocess once more: which shards were made, after how many were kept; the result is that of a fresh folder."""
    heard: list[str] = []
    preprocess(declaration(), out, source_root=root, progress=lambda *event: heard.append(event[2]))
    fresh = out.with_name("fresh")
    preprocess(declaration(), fresh, source_root=root, force=True)
    assert files_of(out) == files_of(fresh)
    return heard


@pytest.fixture
def collection(tmp_path: Path) -> tuple[Path, Path]:
    """Photographs of their own, and the dataset made of them."""
    root, out = tmp_path / "photos", tmp_path / "out"
    for number, name in enumerate(NAMES):
        add_photo(root, name, shade=20 * number)
    preprocess(declaration(), out, source_root=root)
    return root, out


def test_an_edited_photograph_costs_its_own_shard(collection: tuple[Path, Path]) -> None:
    root, out = collection
    add_photo(root, NAMES[1], shade=7)
    assert changed(root, out) == ["3 finished shards kept", "train-00000"]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [(b'"statistics"', b'"statistjcs"'), (b'"with_face": 3', b'"with_face": 7'), (b'"sources"', b'"sourceq"')],
)
def test_a_damaged_account_of_a_shard_costs_that_shard(
    collection: tuple[Path, Path], was: bytes, becomes: bytes
) -> None:
    """A flipped bit, or it would be counted wrong, or stop every later run."""
    root, out = collection
    path = out / "shards/train-00001.json"
    assert was in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(was, becomes))
    assert changed(root, out) == ["3 finished shards kept", "train-00001"]


@pytest.mark.parametrize("left", ["[1]", '{"a": 3}', '{"000-a.png": [1, 2]}', '{"a": {"b": 1}}', "{"])
def test_a_damaged_inventory_is_none(collection: tuple[Path, Path], left: str) -> None:
    root, out = collection
    (out / ".inventory.json").write_text(left.replace("000-a.png", NAMES[0]))
    assert changed(root, out) == ["up to date"]


@pytest.mark.parametrize("lost", ["dataset", "inputs", "digest"])
def test_a_manifest_that_lacks_a_part_is_named(collection: tuple[Path, Path], lost: str) -> None:
    root, out = collection
    whole = json.loads((out / "manifest.json").read_text())
    write_json(out / "manifest.json", {name: part for name, part in whole.items() if name != lost})
    with pytest.raises(OutputError, match=rf"manifest.json: lacks {lost}; delete it and run again"):
        preprocess(declaration(), out, source_root=root)
    (out / "manifest.json").unlink()
    assert changed(root, out)[0] == "4 finished shards kept"


def test_kept_shards_were_made_by_the_tools_of_then(
    collection: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = collection
    first = json.loads((out / "manifest.json").read_text())
    monkeypatch.setattr(manifest, "_version", lambda package: "99.0")
    (out / "manifest.json").unlink()
    preprocess(declaration(), out, source_root=root)
    assert json.loads((out / "manifest.json").read_text())["digest"] == first["digest"], "all shards are those of then"
    add_photo(root, NAMES[1], shade=7)
    preprocess(declaration(), out, source_root=root)
    then, tools = first["tools"]["numpy"], json.loads((out / "manifest.json").read_text())["tools"]
    assert tools == {"numpy": f"{then}, 99.0", "pillow": f"{first['tools']['pillow']}, 99.0"}


def test_shards_without_tools_keep_the_digest(photos: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Earlier versions noted them in the manifest alone."""
    preprocess(declaration(), tmp_path, source_root=photos)
    for path in (tmp_path / "shards").glob("*.json"):
        record = json.loads(path.read_text())
        del record["tools"], record["dataset"]
        atomic.write_json(path, record)
    for _ in range(2):
        preprocess(declaration(), tmp_path, source_root=photos)
        assert files_of(tmp_path)["manifest.json"] == whole["manifest.json"]
        (tmp_path / "manifest.json").unlink()


def test_a_deleted_photograph_costs_its_own_shard(collection: tuple[Path, Path]) -> None:
    root, out = collection
    (root / NAMES[4]).unlink()
    assert changed(root, out) == ["3 finished shards kept", "train-00001"]


def test_a_deleted_shard_moves_those_behind_it_up(collection: tuple[Path, Path]) -> None:
    root, out = collection
    for name in NAMES[:3]:
        (root / name).unlink()
    assert changed(root, out) == ["3 finished shards kept"]


def test_photographs_that_begin_shards_of_their_own_move_those_behind_them(collection: tuple[Path, Path]) -> None:
    """Two shards before the first: all four move by two, and two of the places are still taken when they do."""
    root, out = collection
    early = [name for name in (f"00-{n}.png" for n in range(20)) if begins_shard(name)][:2]
    for name in early:
        add_photo(root, name, shade=99)
    assert changed(root, out) == ["4 finished shards kept", "train-00000", "train-00001"]


def test_a_photograph_inside_a_shard_cuts_it_at_twice_the_size_at_most(collection: tuple[Path, Path]) -> None:
    """Shards of 3 may hold 6; four more in the second shard make it two, and the others stay."""
    root, out = collection
    stem = NAMES[4].removesuffix(".png")
    more = [name for name in (f"{stem}{n}.png" for n in range(100, 200)) if not begins_shard(name)][:4]
    for name in more:
        add_photo(root, name, shade=99)
    assert changed(root, out) == ["3 finished shards kept", "train-00001", "train-00002"]
    assert json.loads((out / "shards/train-00001.json").read_text())["samples"] == 6


@pytest.mark.parametrize("stop_at", range(9))
def test_a_stop_while_shards_move_loses_none(
    collection: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """The first shard goes, so three move in three steps each: JSON written, tar renamed, old JSON unlinked."""
    root, out = collection
    for name in NAMES[:3]:
        (root / name).unlink()
    steps = iter(range(10))

    def stopping(step: Callable[..., object]) -> Callable[..., object]:
        def take(path: Path, *rest: object, **options: object) -> object:
            of_moving = path.parent.name == "shards" and (step is write or path.stem != "train-00000")
            if of_moving and next(steps) == stop_at:
                raise KeyboardInterrupt
            return step(path, *rest, **options)

        return take

    write = finished.write_json
    with monkeypatch.context() as patch:
        patch.setattr(finished, "write_json", stopping(write))
        patch.setattr(Path, "rename", stopping(Path.rename))
        patch.setattr(Path, "unlink", stopping(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            preprocess(declaration(), out, source_root=root)
    assert changed(root, out) == ["3 finished shards kept"]


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


@pytest.mark.parametrize(
    ("force", "devices"), [pytest.param(False, ["cpu", "cpu"], marks=pytest.mark.slow), (True, ["cpu"])]
)
def test_a_missing_model_leaves_the_dataset_as_it_was(
    photos: Path, whole: dict[str, bytes], tmp_path: Path, force: bool, devices: list[str]
) -> None:
    """A new declaration would make every shard again, and fewer of them; its captioner is not on this machine."""
    preprocess(declaration(), tmp_path / "out", source_root=photos)
    asked = declaration(captions={"kind": "blip2"}, shard_size=5)
    options = {"source_root": photos, "models": tmp_path / "models", "force": force, "devices": devices}
    with pytest.raises(MissingWeightsError, match="models are missing"):
        preprocess(asked, tmp_path / "out", **options)
    assert files_of(tmp_path / "out") == whole
    (tmp_path / "models/blip2-flan-t5-xl").mkdir(parents=True)
    (tmp_path / "models/blip2-flan-t5-xl/config.json").write_text("{}")  # there, but it cannot be loaded
    with pytest.raises(MissingWeightsError, match="cannot be loaded"):
        preprocess(asked, tmp_path / "out", **options)
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
            with pytest.raises(
                OutputError, match="a training, evaluation or preprocessing uses this folder; wait for it"
            ):
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


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """As a training does; any other trouble is an error."""

    def flock(*_: object) -> None:
        raise OSError(code, "No locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert preprocess(declaration(), tmp_path, source_root=photos).is_file()
    message = f"{tmp_path}: cannot be locked (No locks here); see to it that nobody else uses it meanwhile"
    assert caplog.messages == [message]
    code = errno.EIO
    with pytest.raises(OutputError, match="cannot be locked"):
        preprocess(declaration(), tmp_path, source_root=photos)


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
