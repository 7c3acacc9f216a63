"""A run remembers its settings: what a later command starts from, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.errors import OverrideError
from flows.files import read_json, write_json
from flows.overrides import merged
from flows.remembered import forget, kept_settings, main, recall
from flows.settings import write_lifecycle


@pytest.fixture(autouse=True)
def _roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))


def test_a_name_is_enough_for_a_later_stage() -> None:
    first = recall("ffhq_sd15", ["publish.repo_id=me/x", "train.steps=9"], "mine")
    write_lifecycle(first)
    assert recall(None, [], "mine") == first
    assert recall(None, ["name=mine"]) == first


def test_what_is_given_now_is_added_or_replaces() -> None:
    write_lifecycle(recall("ffhq_sd15", ["publish.repo_id=me/x", "train.steps=9"], "mine"))
    later = recall("ffhq_sd15", ["train.steps = 10", "publish.private=false"], "mine")
    assert (later.publish.repo_id, later.train.steps, later.publish.private) == ("me/x", 10, False)
    assert later.overrides == ("publish.repo_id=me/x", "name=mine", "train.steps=10", "publish.private=false")
    assert kept_settings(later.run / "lifecycle.json", ["train.steps=10"]) == ["publish.repo_id=me/x"]


def test_a_run_of_another_name_remembers_nothing() -> None:
    write_lifecycle(recall("ffhq_sd15", ["train.steps=9"], "mine"))
    assert recall("ffhq_sd15", [], "other").train.steps == 40_000
    assert recall("miniature", [], "fresh").preset == recall(None).preset == "miniature"
    assert kept_settings(recall("miniature", [], "fresh").run / "lifecycle.json", []) == []


def test_a_new_run_has_to_name_its_preset() -> None:
    """Or a misspelt or forgotten beginning would train something else in its place."""
    with pytest.raises(OverrideError, match=r"no run 'photos-sd15' yet .*begin it with --preset, one of miniature, "):
        recall(None, ["publish.accept_licences=true"], "photos-sd15")


def test_a_run_keeps_its_preset() -> None:
    write_lifecycle(recall("ffhq_sd15", [], "mine"))
    with pytest.raises(OverrideError, match="'mine' was begun with preset 'ffhq_sd15', not 'miniature'"):
        recall("miniature", [], "mine")


def test_a_remembered_setting_that_is_none_any_more_is_named() -> None:
    config = recall("miniature", [], "mine")
    write_json(write_lifecycle(config), read_json(write_lifecycle(config)) | {"overrides": ["publish.token_env=X"]})
    with pytest.raises(
        OverrideError, match=r"no field 'publish.token_env'(?s:.*)Remembered from .*mine/lifecycle.json"
    ):
        recall(None, [], "mine")


def test_a_remembered_setting_that_is_none_any_more_is_forgotten_by_the_command_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = write_lifecycle(recall("miniature", ["train.steps=9"], "mine"))
    write_json(record, read_json(record) | {"overrides": ["publish.token_env=X", "train.steps=9", "train.gone=1"]})
    with pytest.raises(OverrideError) as error:
        recall(None, [], "mine")
    command = str(error.value).splitlines()[-1]
    assert command.endswith("python -m flows.remembered mine --forget publish.token_env train.gone")
    assert main(command.partition("flows.remembered ")[2].split()) == 0
    assert capsys.readouterr().out == "train.steps=9\n"
    assert recall(None, [], "mine").train.steps == 9


def test_what_others_need_is_not_forgotten_without_them() -> None:
    """Or every later command on the run would be refused."""
    record = write_lifecycle(recall("miniature", ["launch.processes=3", "train.global_batch=9"], "mine"))
    before = record.read_bytes()
    with pytest.raises(OverrideError, match="Nothing was forgotten: .* global_batch 8 cannot be split evenly over 3"):
        forget("mine", ["train.global_batch"])
    assert record.read_bytes() == before
    assert forget("mine", ["train.global_batch", "launch.processes"]) == ["name=mine"]
    assert recall(None, [], "mine").train.global_batch == 8


def test_settings_are_forgotten_one_by_one_or_not_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    record = write_lifecycle(recall("miniature", ["train.steps=9", "publish.private=false"], "mine"))
    before = record.read_bytes()
    for wrong in (["mine", "--forget", "train.steps", "train.seed"], ["other"], [".."]):
        assert main(wrong) == 2 and capsys.readouterr().err.startswith("error: ")
    assert main(["mine"]) == 0 and record.read_bytes() == before
    assert main(["mine", "--forget", "train.steps"]) == 0
    assert recall(None, [], "mine").train.steps == recall("miniature", [], "new").train.steps
    assert not recall(None, [], "mine").publish.private


def test_a_preset_that_is_none_any_more_is_named_with_the_record() -> None:
    record = write_lifecycle(recall("miniature", [], "mine"))
    write_json(record, read_json(record) | {"preset": "small"})
    with pytest.raises(OverrideError, match=r"no preset 'small'(?s:.*)Remembered from .*mine/lifecycle.json"):
        recall(None, [], "mine")


def test_a_name_that_leaves_the_runs_is_not_looked_up(tmp_path: Path) -> None:
    write_json(tmp_path / "lifecycle.json", {"preset": "ffhq_sd15", "overrides": []})
    with pytest.raises(OverrideError, match="name"):
        recall(None, [], "..")


def test_a_setting_given_again_as_it_was_keeps_its_place() -> None:
    """Or the command on the model card would change, and with it the published revision."""
    assert merged(["a.b=1", "c=2"], ["a.b = 1"]) == ["a.b=1", "c=2"]
    assert merged(["a.b=1", "c=2"], ["a.b=3"]) == ["c=2", "a.b=3"]
