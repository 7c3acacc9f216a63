"""A pipeline-shaped folder, a card for it, and a local Hub whose answers can be made to fail.

The real `huggingface_hub` client is used throughout. The suite runs with HF_HUB_OFFLINE=1 (tests/conftest.py), as a user's
machine may: that loopback works all the same is part of what these tests show.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moa.hub import commit
from moa.hub.card import CardInput
from moa.hub.handler import HubRequestHandler
from moa.hub.licences import LICENCES
from moa.hub.request import Route
from moa.hub.server import LocalHub

Fault = Callable[[HubRequestHandler, Route], bool]


class FaultyHub(LocalHub):
    """A Hub that lets a test interfere: `faults[method]` are called, one for each request of that method.

    A fault returns whether the request is still to be answered. `seen` lists the methods of all requests.
    """

    def __init__(self, root: Path, **options: object):
        hub = self
        self.seen: list[str] = []
        self.faults: dict[str, list[Fault]] = {}

        class Handler(HubRequestHandler):
            def answer(self, route: Route) -> None:
                hub.seen.append(route.method)
                waiting = hub.faults.get(route.method, [])
                if not waiting or waiting.pop(0)(self, route):
                    super().answer(route)

        self.handler = Handler
        super().__init__(root, **options)


def busy(handler: HubRequestHandler, route: Route) -> bool:
    """503, and nothing happens."""
    handler.send_error_json(503, "Busy", "try again")
    return False


def lost_answer(handler: HubRequestHandler, route: Route) -> bool:
    """The request is carried out, and the connection breaks before the client hears of it."""
    handler.send_json = lambda *arguments, **options: None  # type: ignore[method-assign]
    HubRequestHandler.answer(handler, route)
    handler.close_connection = True
    return False


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


def write_pipeline(folder: Path, weights: bytes = b"\0first weights" * 100) -> Path:
    """A folder with the files of a saved pipeline; the weights are any bytes."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    (folder / "adapter").mkdir(exist_ok=True)
    (folder / "model_index.json").write_text('{"_class_name": "MoAPipeline"}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    (folder / "adapter" / "moa.safetensors").write_bytes(weights[::-1])
    entry = {"sha256": f"sha256:{hashlib.sha256(weights[::-1]).hexdigest()}", "bytes": len(weights)}
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    manifest = {"format": "moa-adapter/1", "files": {"moa.safetensors": entry}, "digest": digest}
    (folder / "adapter" / "manifest.json").write_text(json.dumps(manifest))
    return folder


def make_card(**changes: object) -> CardInput:
    values = {
        "title": "MoA on the miniature world",
        "base_model": "the miniature base model",
        "dataset": "miniature 1",
        "dataset_digest": "sha256:" + "0" * 64,
        "command": "python -m moa.train runs/test/config.json",
        "code_commit": "af2a0b4",
        "seed": 1,
        "steps": 100,
        "image_size": 64,
        "licences": LICENCES["miniature"],
    }
    return CardInput.model_validate(values | changes)


@pytest.fixture
def card() -> CardInput:
    return make_card()
