"""Large files are told one by one as they are sent and as they come back.    pytest tests/moa/hub/test_meter.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moa.hub import commit as commits
from moa.hub.download import download
from moa.hub.meter import LARGE, Meter
from moa.hub.publish import publish
from tests.moa.hub.faulty_hub import FaultyHub, busy
from tests.moa.hub.pipeline_folder import make_card, write_pipeline

REPO = "lab/moa"
SENT = ["sent adapter/moa.safetensors", "sent unet/diffusion_pytorch_model.safetensors"]
RECEIVED = [line.replace("sent", "received") for line in SENT]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyHub]:
    with FaultyHub(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipeline", b"weights." * (LARGE // 8) + b"!")  # two files of this size


def send(hub: FaultyHub, pipeline: Path, cache: Path) -> list[tuple[int, int, str]]:
    told: list[tuple[int, int, str]] = []
    publish(
        pipeline,
        repo_id=REPO,
        endpoint=hub.endpoint,
        token=None,
        branch="run-a",
        card=make_card(),
        cache_dir=cache,
        progress=lambda *line: told.append(line),
    )
    return told


def test_a_publication_is_told_there_and_back(hub: FaultyHub, pipeline: Path, tmp_path: Path) -> None:
    told = send(hub, pipeline, tmp_path / "cache")
    assert [what for *_, what in told] == [f"MB: {line}" for line in SENT + RECEIVED]
    assert [done for done, *_ in told] == [10, 20, 30, 40] and {total for _, total, _ in told} == {40}
    assert hub.seen.count("lfs_upload") == 2, "each is sent once: the commit names it"


def test_what_is_there_is_not_sent_again(hub: FaultyHub, pipeline: Path, tmp_path: Path) -> None:
    send(hub, pipeline, tmp_path / "cache")
    (pipeline / "unet/config.json").write_text('{"another": 1}')
    told = send(hub, pipeline, tmp_path / "cache")
    assert [what for *_, what in told] == [f"MB: {line}" for line in RECEIVED]
    assert hub.seen.count("lfs_upload") == 2


def test_a_commit_that_is_tried_again_sends_and_counts_no_file_twice(
    hub: FaultyHub, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "PAUSES_S", (0.0,))
    hub.faults = {"commit": [busy]}
    told = send(hub, pipeline, tmp_path / "cache")
    assert max(done for done, *_ in told) == 40 and hub.seen.count("lfs_upload") == 2


def test_a_download_is_told_and_a_part_of_it(hub: FaultyHub, pipeline: Path, tmp_path: Path) -> None:
    send(hub, pipeline, tmp_path / "cache")
    told: list[tuple[int, int, str]] = []
    download(REPO, "run-a", hub.endpoint, tmp_path / "other", part="adapter", progress=lambda *line: told.append(line))
    assert told == [(10, 10, f"MB: {RECEIVED[0]}")]
    download(REPO, "run-a", hub.endpoint, tmp_path / "other", progress=lambda *line: told.append(line))
    assert told[1:] == [(10, 20, f"MB: {RECEIVED[0]}"), (20, 20, f"MB: {RECEIVED[1]}")]


def test_a_file_that_is_sent_again_counts_once() -> None:
    told: list[tuple[int, int, str]] = []
    meter = Meter(30_000_000, lambda *line: told.append(line))
    for what in ("a", "b", "a"):
        meter.add(what, 10_000_000)
    assert [done for done, *_ in told] == [10, 20, 20]
