"""JSON files are whole at any moment, also when two commands write the same one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
