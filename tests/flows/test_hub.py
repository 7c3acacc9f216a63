"""Which token goes where."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from flows import hub
from flows.overrides import resolve
from flows.settings import LifecycleConfig

SECRET_BLOCK_OF_PREFECT = hub._secret_block


def to(endpoint: str) -> LifecycleConfig:
    return resolve("miniature", [f"publish.endpoint={endpoint}"])


@pytest.fixture(autouse=True)
def _tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    monkeypatch.setenv("MOA_HUB_TOKEN", "of_the_local_hub")
    monkeypatch.setattr(hub, "_secret_block", lambda: "hf_of_the_block")


def test_hugging_face_gets_the_token_of_the_environment_else_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.hub_token(to("https://huggingface.co")) == "hf_of_the_environment"
    monkeypatch.delenv("HF_TOKEN")
    assert hub.hub_token(to("https://huggingface.co")) == "hf_of_the_block"


def test_a_token_is_without_the_line_break_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it, it could not be sent, nor be found in what a training prints."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment\n")
    assert hub.hub_token(to("https://huggingface.co")) == hub.environment_token() == "hf_of_the_environment"
    monkeypatch.setenv("HF_TOKEN", "\n")
    assert hub.hub_token(to("https://huggingface.co")) == "hf_of_the_block", "there is none"


@pytest.mark.parametrize(("kept", "token"), [("hf_x\n", "hf_x"), ("", None), ({"token": "hf_x"}, None)])
def test_a_secret_block_holds_a_text(kept: object, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    block = SimpleNamespace(get=lambda: kept)
    monkeypatch.setattr("prefect.blocks.system.Secret.load", lambda name: block)
    assert SECRET_BLOCK_OF_PREFECT() == token


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9999", "http://localhost:9999", "https://[::1]:9999"])
def test_whatever_listens_on_this_machine_gets_no_token_of_hugging_face(
    monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """Anybody may listen on loopback; a local Hub has a token of its own."""
    assert hub.hub_token(to(endpoint)) == "of_the_local_hub"
    monkeypatch.delenv("MOA_HUB_TOKEN")
    assert hub.hub_token(to(endpoint)) is None


def test_the_projects_own_hub_needs_none() -> None:
    assert hub.hub_token(to("local")) is None
