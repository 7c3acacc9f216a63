"""How the Makefile sets up `.venv`, with a Python of the test's own: nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
# As Debian's without python3-venv: `-m venv` leaves an interpreter behind that has no pip, then fails. With the file
# `venv-is-there` it succeeds, and what it makes has a pip.
PYTHON = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
case "$*" in
  "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; test -f venv-is-there && touch .venv/bin/pip ;;
  "-m pip"*) test -f "$here/pip" || { echo "No module named pip" >&2; exit 1; } ;;
esac
"""


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "install", "PYTHON=./python"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_an_environment_without_pip_is_made_again(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    for _ in range(2):
        failed = install(tmp_path)
        assert failed.returncode and "apt install python3-venv" in failed.stderr
    assert (tmp_path / ".venv/bin/python").exists(), "half an environment is left, as venv leaves it"
    (tmp_path / "venv-is-there").touch()
    done = install(tmp_path)
    assert done.returncode == 0 and "Ready" in done.stdout, done.stderr
    (tmp_path / "venv-is-there").unlink()
    (tmp_path / ".venv/.ready").unlink()
    assert install(tmp_path).returncode == 0, "an environment with pip is kept"


def test_the_report_is_that_of_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (tmp_path / name).touch()
    shutil.copy(PROJECT / "Makefile", tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$3"\n')
    python.chmod(0o755)

    def report() -> str:
        command = ["make", "--no-print-directory", "report", "NAME=mine"]  # `make test` may have made us
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    monkeypatch.delenv("MOA_RUNS_DIR", raising=False)
    assert report() == "runs/mine"
    monkeypatch.setenv("MOA_RUNS_DIR", "/some where")
    assert report() == "/some where/mine"
