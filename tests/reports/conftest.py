"""Two runs, made once, a complete one to look at and a small one; tests that change it get their own copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from reports import images
from reports.build import build_report
from tests.reports.fake_run import PROMPTS, make_run


@pytest.fixture(scope="session", autouse=True)
def _pictures_are_compressed_once() -> Iterator[None]:
    """A picture of the same pixels is not compressed again for the next page, which took half of the time."""
    compress, known = images._webp, {}

    def compressed(image: Image.Image, pixel_art: bool) -> bytes:
        key = (image.mode, image.size, image.tobytes(), pixel_art)
        if key not in known:
            known[key] = compress(image, pixel_art)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "_webp", compressed)
        yield


@pytest.fixture(scope="session")
def complete_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<tmp>/runs/week-01` with its data in `<tmp>/data/small`. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="session")
def report(complete_run: Path) -> Path:
    """The page of the complete run. Not to be changed."""
    return build_report(complete_run)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every part of the complete one and a quarter of its pictures. Not to be changed."""
    return make_run(tmp_path_factory.mktemp("small"), prompts=[PROMPTS[0], PROMPTS[2]], seeds=[11])


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run that a test may break."""
    shutil.copytree(small_run.parent.parent, tmp_path / "root")
    (tmp_path / "root" / "runs" / small_run.name / "lifecycle.json").unlink()  # its path leads to the original
    return tmp_path / "root" / "runs" / small_run.name
