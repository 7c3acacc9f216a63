"""Where annotators' models are looked for, and that nothing is fetched behind anybody's back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
from transformers import Blip2Processor

from preprocessing.errors import MissingWeightsError
from preprocessing.models import find_model, located, missing_models, models_folder
from preprocessing.weights import load_pretrained
from tests.preprocessing.folders import declaration

CONFIG = declaration(captions={"kind": "blip2"}, segmentation={"kind": "mask2former"})


@pytest.fixture
def reachable_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hub that answers, and is not offline; collects what it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/{filename}"
        )
        yield asked
        server.shutdown()


def test_nothing_is_downloaded_while_a_hub_can_be_reached(reachable_hub: list[str]) -> None:
    with pytest.raises(MissingWeightsError, match="Salesforce/blip2-flan-t5-xl"):
        load_pretrained(Blip2Processor.from_pretrained, "Salesforce/blip2-flan-t5-xl")
    assert reachable_hub == []


def test_a_hub_name_means_a_folder_below_models(tmp_path: Path) -> None:
    assert find_model("Salesforce/blip2-flan-t5-xl", tmp_path) == tmp_path / "blip2-flan-t5-xl"
    own = tmp_path / "own" / "captioner"
    own.mkdir(parents=True)
    for path in (str(own), "./models/mine", "/absolute/mine"):
        assert find_model(path, tmp_path) == Path(path)


def test_every_missing_model_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    (captions, fetch_captions), (segmentation, _) = missing_models(CONFIG, tmp_path)
    assert captions.startswith("captions.model: Salesforce/blip2-flan-t5-xl")
    assert segmentation.startswith("segmentation.model: facebook/mask2former-swin-base-coco-panoptic")
    assert fetch_captions.endswith(f"--local-dir {tmp_path / 'blip2-flan-t5-xl'}")
    with pytest.raises(MissingWeightsError, match="(?s)hf download Salesforce.*hf download facebook"):
        located(CONFIG, tmp_path)


def test_models_that_are_there_are_used(tmp_path: Path) -> None:
    for name in ("blip2-flan-t5-xl", "mask2former-swin-base-coco-panoptic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert missing_models(CONFIG, tmp_path) == []
    assert located(CONFIG, tmp_path).captions.model == str(tmp_path / "blip2-flan-t5-xl")
    assert missing_models(declaration(), tmp_path) == [], "nothing is needed for sidecar annotations"


def test_the_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOA_MODELS_DIR", str(tmp_path))
    assert models_folder() == tmp_path
    monkeypatch.delenv("MOA_MODELS_DIR")
    assert models_folder() == Path(__file__).resolve().parents[2] / "models"
