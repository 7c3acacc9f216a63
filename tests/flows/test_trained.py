"""An adapter says what made it; stages that would go on under other settings are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from flows.card import model_card
from flows.errors import MissingInputError, SettingsChangedError
from flows.files import read_json, write_json
from flows.overrides import resolve
from flows.prefect_environment import PROJECT
from flows.publication import require_published
from flows.settings import LifecycleConfig
from flows.trained import Trained, refuse_other_data, refuse_other_training, require_trained, run_training
from moa.errors import ConfigChangedError
from moa.hub.card import render_card
from tests.flows.exports import SHARDS, SPLIT, write_export, write_shards


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    write_shards(tmp_path / "data/miniature")


def config(*overrides: str) -> LifecycleConfig:
    return resolve("miniature", overrides, "run")


def test_the_same_settings_are_no_change_wherever_they_are_read() -> None:
    write_export(config("train.steps=7"))
    assert require_trained(config("train.steps=7")).step == 7
    assert require_trained(config("train.steps=7", "train.log_every=1", "train.num_workers=2")).step == 7


def test_an_export_that_lost_a_file_is_none() -> None:
    export = write_export(config()).parent
    (export / "config.json").unlink()
    refuse_other_data(config())
    with pytest.raises(MissingInputError, match="export holds no adapter: run `python -m flows.train --name run`"):
        require_trained(config())


def test_an_adapter_of_an_earlier_version_did_without_an_option_what_its_default_does() -> None:
    export = write_export(config()).parent
    record = read_json(export / "config.json")
    del record["provenance"]["training"]["weight_decay"]
    write_json(export / "config.json", record)
    assert require_trained(config()).step == 100
    with pytest.raises(SettingsChangedError, match="train.weight_decay: 0.01 -> 0.5"):
        require_trained(config("train.weight_decay=0.5"))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.seed=77", "train.seed: 0 -> 77"),
        ("train.steps=8", "train.steps: 100 -> 8"),
        ("train.moa.router=mlp", 'train.moa.router: "linear" -> "mlp"'),
        ("train.init=null", "train.init: "),
    ],
)
def test_other_settings_are_refused_with_their_difference(override: str, line: str) -> None:
    write_export(config())
    with pytest.raises(SettingsChangedError) as error:
        require_trained(config(override))
    assert line in str(error.value) and "flows.train --name run" in str(error.value)


def test_a_dataset_that_was_made_anew_stops_only_the_training(tmp_path: Path) -> None:
    write_export(config())
    refuse_other_data(config())
    write_shards(tmp_path / "data/miniature", "sha256:next week", version="2")
    assert require_trained(config()).inputs["shards"] == SHARDS
    card = model_card(config())
    assert (card.dataset, card.dataset_digest, card.image_size) == ("m, version 1", SHARDS, 64), "what it was"
    with pytest.raises(SettingsChangedError, match="start a run of another --name.*flows.publish --name run"):
        refuse_other_data(config())


def test_without_its_dataset_a_model_can_be_published(tmp_path: Path) -> None:
    write_export(config())
    shutil.rmtree(tmp_path / "data")
    refuse_other_data(config())
    assert model_card(config()).dataset == "m, version 1"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"split": SPLIT | {"heldout": 0.2}}, "its split is {.*0.2.*} and was {.*0.1.*}"),
        ({"split": None}, "its split is null"),
    ],
)
def test_a_dataset_that_holds_out_others_is_another_one(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    """Who is held out now may have been trained on."""
    write_export(config())
    write_shards(tmp_path / "data/miniature", "sha256:new", **change)
    with pytest.raises(SettingsChangedError, match=f"train.shards: .*{why}"):
        require_trained(config())


def test_the_dataset_of_an_earlier_version_is_known_while_it_is_there(tmp_path: Path) -> None:
    export = write_export(config()).parent
    record = read_json(export / "config.json")
    del record["provenance"]["dataset"]
    write_json(export / "config.json", record)
    assert model_card(config()).dataset == "m, version 1"
    write_shards(tmp_path / "data/miniature", "sha256:new")
    with pytest.raises(SettingsChangedError, match="did not record which dataset"):
        require_trained(config())


def test_the_card_says_what_the_training_started_from() -> None:
    export = write_export(config()).parent
    digest = read_json(PROJECT / "zoo/moa/manifest.json")["digest"]
    assert model_card(config()).started_from == f"an adapter, `{digest}`", "all that is known of earlier versions"
    record = read_json(export / "config.json")
    record["provenance"]["started_from"] = {"digest": digest, "step": 1260, "datasets": ["ffhq", "m"]}
    write_json(export / "config.json", record)
    assert model_card(config()).started_from == f"an adapter of 1260 steps trained on ffhq, m, `{digest}`"
    assert f"| started from | an adapter of 1260 steps trained on ffhq, m, `{digest}` |" in render_card(
        model_card(config()), "you/name"
    )
    write_export(config("train.init=null"))
    card = model_card(config("train.init=null"))
    assert card.started_from is None and "started from" not in render_card(card, "you/name")


def test_the_card_states_what_made_the_model_or_nothing() -> None:
    write_export(config("train.steps=7", "train.seed=5"))
    card = model_card(config("train.steps=7", "train.seed=5"))
    assert (card.seed, card.steps, card.code_commit) == (5, 7, "c0ffee") and "train.seed=5" in card.command
    with pytest.raises(SettingsChangedError, match="train.seed: 5 -> 77"):
        model_card(config("train.steps=7", "train.seed=77"))


def test_without_an_adapter_the_training_comes_first() -> None:
    with pytest.raises(MissingInputError, match="flows.train --name run"):
        require_trained(config())
    assert Trained.of(config().run / "export") is None


def test_a_training_that_cannot_go_on_is_refused_before_anything_is_written() -> None:
    begun = config("train.seed=5")
    record = begun.run / "config.json"
    write_json(record, run_training(begun).model_dump(mode="json"))
    refuse_other_training(config("train.seed=77"))  # nothing was trained yet
    (begun.run / "checkpoints/step-00000050").mkdir(parents=True)
    refuse_other_training(config("train.seed=5", "train.steps=999"))  # longer is no other training
    with pytest.raises(ConfigChangedError, match="seed: 5 -> 77"):
        refuse_other_training(config("train.seed=77"))


def test_an_adapter_that_was_trained_further_has_to_be_published_again() -> None:
    write_export(config())
    with disable_run_logger(), pytest.raises(MissingInputError, match="flows.publish"):
        require_published(config())
    place = {"repo_id": "lab/moa", "endpoint": "local", "branch": "run-run", "commit": "c0ffee", "files": {}}
    write_json(config().run / "publication.json", {**place, "adapter_digest": "sha256:adapter"})
    require_published(config())
    write_export(config("train.steps=200"), digest="sha256:longer")
    with pytest.raises(MissingInputError, match="trained further"):
        require_published(config("train.steps=200"))
