"""The model card and the licences: what they say, that the Hub's tools read it, and that the usage example runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from moa.errors import LicenceRefusedError
from moa.evaluation.suite import load_suite
from moa.hub.card import render_card
from moa.hub.licences import LICENCES, licence_files, require_acceptance
from tests.moa.hub.pipeline_folder import make_card

METRIC = {"name": "Identity", "kind": "ip", "suite": "miniature 1", "value": 0.51234, "low": 0.4, "high": 0.6}


def test_the_metadata_is_read_back_by_the_hubs_own_tools():
    card = make_card(metrics=[METRIC], base_model_id="lab/base")
    data = ModelCard(render_card(card, "lab/moa")).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("diffusers", "text-to-image", "cc0-1.0")
    assert (data.base_model, data.base_model_relation, data.model_name) == ("lab/base", "adapter", card.title)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("ip", 0.5123, "miniature 1")


def test_restricted_terms_show_in_the_metadata():
    data = ModelCard(render_card(make_card(licences=LICENCES["ffhq_sd15"]), "lab/moa")).data
    assert (data.license, data.license_link) == ("other", "LICENSE.md")
    assert "non-commercial" in data.license_name


def test_the_card_tells_how_the_model_was_made():
    card = make_card(limits=["Trained on cartoons."])
    text = render_card(card, "lab/moa")
    for said in (
        card.command,
        card.code_commit,
        card.dataset_digest,
        card.base_model,
        "Trained on cartoons.",
        "## Consent",
    ):
        assert said in text
    assert "| 100, 1 |" in text
    assert "not in a git checkout" in render_card(make_card(code_commit=None), "lab/moa")


def test_scores_appear_only_when_there_are_any():
    assert "not been evaluated" in render_card(make_card(), "lab/moa")
    text = render_card(make_card(metrics=[METRIC, METRIC | {"name": "Prompt"}]), "lab/moa")
    assert "| Identity | miniature 1 | 0.512 | 0.400 to 0.600 |\n| Prompt |" in text
    assert "not been evaluated" not in text


def test_the_example_asks_for_what_the_miniature_world_is_measured_by():
    """ "a photo of" is an old one there: its sepia photographs are the only pictures captioned so."""
    suite = load_suite(Path(__file__).parents[3] / "datasets/suites/miniature-40.yaml")
    card = make_card()
    assert card.prompt in {prompt.text.format(word=card.word) for prompt in suite.prompts}


def test_the_same_input_gives_the_same_bytes():
    assert render_card(make_card(metrics=[METRIC]), "lab/moa") == render_card(make_card(metrics=[METRIC]), "lab/moa")


def test_tables_are_not_torn_by_blank_lines():
    lines = render_card(make_card(metrics=[METRIC, METRIC]), "lab/moa").splitlines()
    rows = [i for i, line in enumerate(lines) if line.startswith("|")]
    gaps = [b - a for a, b in zip(rows, rows[1:], strict=False)]
    assert gaps.count(1) == len(rows) - 2  # two tables


def test_the_licences_are_for_programs_and_for_people():
    for key, licences in LICENCES.items():
        files = licence_files(licences)
        assert json.loads(files["licences.json"]) == licences.model_dump(mode="json"), key
        for part in licences.components:
            assert part.licence in files["LICENSE.md"].decode()
    text = licence_files(LICENCES["ffhq_sd15"])["LICENSE.md"].decode()
    assert "Attachment A" in text and "exploiting, harming or attempting to exploit or harm minors" in text
    assert "Attachment A" not in licence_files(LICENCES["miniature"])["LICENSE.md"].decode()


def test_the_zoo_is_published_under_the_terms_of_its_own_cards():
    zoo = Path(__file__).resolve().parents[3] / "zoo"
    terms = {json.loads(card.read_text())["licence"] for card in zoo.glob("*/card.json")}
    assert terms == {LICENCES["miniature"].name} == {part.licence for part in LICENCES["miniature"].components}


def test_only_restricted_terms_need_acceptance():
    require_acceptance(LICENCES["miniature"], accepted=False)
    require_acceptance(LICENCES["ffhq_sd15"], accepted=True)
    with pytest.raises(LicenceRefusedError, match="accept_licences"):
        require_acceptance(LICENCES["ffhq_sd15"], accepted=False)


def test_the_usage_example_compiles():
    (code,) = re.findall(r"```python\n(.*?)```", render_card(make_card(), "lab/moa"), re.DOTALL)
    compile(code, "README.md", "exec")
    assert 'from_pretrained("lab/moa")' in code
    assert 'from_pretrained("lab/moa", revision="run-a")' in render_card(make_card(), "lab/moa", "run-a")


def test_the_card_says_how_to_install_what_the_example_imports():
    assert "commit `af2a0b4`); in a checkout of it:\n\n```\npip install .\n```" in render_card(make_card(), "lab/moa")


def test_the_example_says_how_to_reach_a_hub_that_is_not_the_public_one():
    public = render_card(make_card(), "lab/moa", "v1")
    assert "HF_ENDPOINT" not in public and public == render_card(
        make_card(), "lab/moa", "v1", "https://huggingface.co/"
    )
    mirror = render_card(make_card(), "lab/moa", "v1", "https://hub.example")
    assert "\n\nThis repository is not on huggingface.co: set `HF_ENDPOINT=https://hub.example` before" in mirror
    local = render_card(make_card(), "lab/moa", "v1", "http://127.0.0.1:8765")
    assert "local Hub" in local and "HF_ENDPOINT" in local
    assert local == render_card(make_card(), "lab/moa", "v1", "http://localhost:9999"), "its port changes, it does not"


@pytest.mark.parametrize("licences", LICENCES.values(), ids=LICENCES)
def test_the_metadata_name_a_licence_as_the_hub_does(licences):
    """Its list: https://huggingface.co/docs/hub/repositories-licenses; others are `other` with a name and a link."""
    data = ModelCard(render_card(make_card(licences=licences), "lab/moa")).data
    assert data.license in ("cc0-1.0", "mit", "other")
    if data.license == "other":
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", data.license_name) and data.license_link in licence_files(licences)
    else:
        assert data.license_name is None and data.license_link is None
