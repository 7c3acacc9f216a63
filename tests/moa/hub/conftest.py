"""A pipeline folder, a card for it, and a local Hub to publish to.

The real `huggingface_hub` client is used throughout. The suite runs with HF_HUB_OFFLINE=1 (tests/conftest.py), as a
user's machine may: that loopback works all the same is part of what these tests show.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moa.hub import commit
from moa.hub.card import CardInput
from tests.moa.hub.faulty_hub import FaultyHub
from tests.moa.hub.pipeline_folder import make_card, write_pipeline


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FaultyHub]:
    with FaultyHub(tmp_path / "hub") as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "PAUSES_S", (0.0, 0.0, 0.0))


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "pipeline")


@pytest.fixture
def card() -> CardInput:
    return make_card()
