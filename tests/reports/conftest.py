"""One complete run, made once; tests that change it get their own copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reports.build import build_report
from tests.reports.fake_run import make_run


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<tmp>/runs/week-01` with its data in `<tmp>/data/small`. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="session")
def report(complete_run: Path) -> Path:
    """The page of the complete run. Not to be changed."""
    return build_report(complete_run)


@pytest.fixture
def run(complete_run: Path, tmp_path: Path) -> Path:
    """A copy of the complete run that a test may break."""
    shutil.copytree(complete_run.parent.parent, tmp_path / "root", ignore=shutil.ignore_patterns("report"))
    (tmp_path / "root" / "runs" / complete_run.name / "lifecycle.json").unlink()  # its path leads to the original
    return tmp_path / "root" / "runs" / complete_run.name
