"""Who gets a lock that somebody has, and what a file system without locks does."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from moa.errors import RunFolderError
from moa.file_lock import locked

BUSY = RunFolderError("somebody has it")


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_many_share_a_lock_or_one_has_it_alone(tmp_path: Path, first: bool, second: bool, allowed: bool) -> None:
    def both() -> None:
        with (
            locked(tmp_path / "lock", BUSY, print, shared=first),
            locked(tmp_path / "lock", BUSY, print, shared=second),
        ):
            pass

    if allowed:
        both()
    else:
        with pytest.raises(RunFolderError) as raised:
            both()
        assert raised.value is BUSY
    with locked(tmp_path / "lock", BUSY, print):  # let go of, also after the error
        pass


def test_a_child_process_that_outlives_the_block_does_not_keep_the_lock(tmp_path: Path) -> None:
    """As a loader process of a training, which inherits the open file by fork."""
    with locked(tmp_path / "lock", BUSY, print):
        child = multiprocessing.get_context("fork").Process(target=os.read, args=(os.pipe()[0], 1), daemon=True)
        child.start()
    try:
        with locked(tmp_path / "lock", BUSY, print):
            assert child.is_alive()
    finally:
        child.kill()
        child.join()


def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", absent)
    said: list[str] = []
    with pytest.raises(KeyError), locked(tmp_path / "lock", BUSY, said.append):
        raise KeyError  # the block's own error comes through
    assert said == [
        f"{tmp_path} cannot be locked (No locks available): see to it that nobody else changes it meanwhile"
    ]


def test_a_file_that_cannot_be_made_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), locked(tmp_path / "absent" / "lock", BUSY, print):
        pass
