"""Presets and overrides: what resolves, and how a mistake is answered."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.errors import OverrideError, SettingsError, UnknownPresetError
from flows.overrides import dated, resolve
from flows.prefect_environment import PROJECT
from flows.presets import PRESETS, PresetName
from flows.settings import write_lifecycle


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_resolves_to_absolute_paths(preset: str) -> None:
    config = resolve(preset)
    paths = [config.preprocess.dataset, config.preprocess.out, config.train.base, config.train.shards, config.run]
    assert all(path.is_absolute() for path in paths)
    assert config.train.shards == config.preprocess.out, "training has to read what preprocessing wrote"


def test_the_parameter_type_lists_the_presets() -> None:
    assert set(PresetName.__args__) == set(PRESETS)


def test_the_papers_values() -> None:
    """Section 4 of the paper: lr 5e-5, 40k steps, 4 GPUs x 32, lambda 1e-4."""
    config = resolve("ffhq_sd15")
    train = config.train
    assert (train.learning_rate, train.steps, train.global_batch, config.launch.processes) == (5e-5, 40_000, 128, 4)
    assert (train.lambda_router, train.lambda_object, train.max_timestep) == (1e-4, 1e-4, 800)
    assert not config.publish.accept_licences, "nobody accepts a licence by default"


@pytest.mark.parametrize(
    ("override", "field", "expected"),
    [
        ("train.steps=7", "train.steps", 7),
        ("train.learning_rate=1e-5", "train.learning_rate", 1e-5),  # YAML 1.1 reads 1e-5 as text
        ("train.init=null", "train.init", None),
        ("train.moa.router=mlp", "train.moa.router", "mlp"),
        ("ablate.variants=[]", "ablate.variants", ()),
        ("train_from=promoted", "train_from", "promoted"),
        ("publish.endpoint=http://127.0.0.1:1", "publish.endpoint", "http://127.0.0.1:1"),
        ("preprocess.source_root=photos", "preprocess.source_root", Path("photos").absolute()),
        ("preprocess.source_root=~/photos", "preprocess.source_root", Path.home() / "photos"),
        (" train.steps = 7 ", "train.steps", 7),
        ("publish.private=false", "publish.private", False),
    ],
)
def test_overrides_are_yaml(override: str, field: str, expected: object) -> None:
    value: object = resolve("miniature", [override])
    for part in field.split("."):
        value = getattr(value, part)
    assert value == expected


def test_the_last_override_wins_and_name_is_one_of_them() -> None:
    config = resolve("miniature", ["train.steps=7", "train.steps=8"], name="other")
    assert (config.train.steps, config.name, config.run.name) == (8, "other", "other")


def test_the_day_and_the_time_in_a_name() -> None:
    night, noon = (datetime(2026, 3, 7, hour, 5, tzinfo=UTC) for hour in (2, 12))
    assert dated("weekly-{date}", night) == "weekly-2026-03-07"
    assert dated("x-{date}-{time}", night) == "x-2026-03-07-0205" and dated("{time}", noon) == "1205"
    assert dated("weekly", night) == "weekly" and dated(None, night) is None


@pytest.mark.parametrize("name", ["2024", "007", "on", "no", "null", "1e5", "0x1f", "1_000", "2026-03-07"])
def test_a_name_is_its_letters(name: str) -> None:
    for config in (resolve("miniature", [], name), resolve("miniature", [f"name={name}"])):
        assert config.name == name and resolve("miniature", config.overrides) == config


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/photos/party #1", "/photos/party #1"),
        ('"/photos/party #1"', "/photos/party #1"),
        ("/photos/2024: summer", "/photos/2024: summer"),
        ("'/photos/Ann''s'", "/photos/Ann's"),
        ('"/photos/last "', "/photos/last "),
        ("/photos/[a] {b} & *c 😀", "/photos/[a] {b} & *c 😀"),
        ("~", str(Path.home())),
        ("2024", str(Path("2024").absolute())),
        ('"last "', str(Path("last ").absolute())),
        ("null", None),
        ("", None),
    ],
)
def test_a_path_is_the_text_as_it_stands_also_when_it_is_remembered(text: str, path: str | None) -> None:
    config = resolve("photos_sd15", [f"preprocess.source_root={text}"])
    assert config.preprocess.source_root == (path and Path(path))
    assert resolve("photos_sd15", config.overrides) == config


def test_texts_are_as_they_stand() -> None:
    title = "MoA: the #1, 'really'"
    config = resolve("miniature", [f"publish.title={title}", "publish.base_model=2024"])
    assert (config.publish.title, config.publish.base_model) == (title, "2024")
    assert resolve("miniature", config.overrides) == config


def test_the_presets_own_name_is_no_override() -> None:
    """A stage of the lifecycle gets the name, one started by hand may not: both write the same lifecycle.json."""
    assert resolve("miniature", [], "miniature") == resolve("miniature")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=7", "Did you mean 'train.steps'?"),
        ("steps=7", "Did you mean 'train.steps'?"),
        (
            "nonsense.field=7",
            "Valid are: ablate, evaluate, launch, name, preprocess, promote, publish, runs_with_checkpoints, train, "
            "train_from",
        ),
        ("train.steps", "has no '='"),
        ("train.steps=0", "train.steps: Input should be greater than or equal to 1"),
        ("train.moa.router=big", "train.moa.router"),
        ("publish.endpoint=huggingface.co", "an https URL"),
        ("publish.endpoint=http://huggingface.co", "an https URL"),
        ("publish.endpoint=https://evil.example", "MOA_HUB_HOSTS"),
        ("publish.endpoint=https://huggingface.co.evil.example", "MOA_HUB_HOSTS"),
        ("publish.endpoint=https://127.0.0.1@evil.example/", "an https URL"),
        ("publish.endpoint=https://huggingface.co@evil.example/", "an https URL"),
        ("publish.token_env=AWS_SECRET_ACCESS_KEY", "no field 'publish.token_env'"),
        ("publish.licences=wtfpl", "publish.licences: is none of miniature, ffhq_sd15, photos_sd15"),
        ("train.out=/elsewhere", "no field 'train.out'"),
        ("train.learning_rate=.inf", "train.learning_rate: give a finite number"),
        ("train.learning_rate=inf", "train.learning_rate: give a finite number"),
        ("promote.tolerance_ip=.nan", "promote.tolerance_ip"),
        ("preprocess.max_bad=1.5", "preprocess.max_bad"),
        ("launch.processes=3", "preset 'miniature': global_batch 8 cannot be split evenly over 3"),
        ("name=../outside", "name"),
        ("name=a..b", "'..'"),
        ("name=run.lock", ".lock"),
        ("name=hub", "taken"),
        ("name=Hub-Cache", "taken"),
        ("name=zoo", "taken"),
        ("name=index.html", "taken"),
        ("train.steps=[1", "not YAML"),
        ("train.steps=2026-13-01", "The value of 'train.steps' is not YAML: '2026-13-01' (month must be in 1..12)"),
        ("train.moa=" + 5000 * "[", "The value of 'train.moa' is not YAML"),
        ("promote.tag='{run}'", "{name} and {commit}"),
        ("promote.tolerance_ip=-1", "promote.tolerance_ip"),
        ("ablate.variants=[{label: x}]", "either an adapter folder, or the overrides"),
        ("ablate.variants=[{label: x, adapter: a, overrides: [train.steps=1]}]", "either an adapter folder"),
        ("ablate.variants=[{label: x, overrides: [train.stepz=1]}]", "'x': There is no field 'train.stepz'"),
        ("ablate.variants=[{label: x, overrides: [publish.title=y]}]", "fields of train only"),
        ("ablate.variants=[{label: A b, adapter: a}, {label: a-B, adapter: a}]", "two variants"),
        ("ablate.variants=[{label: '?', adapter: a}]", "a letter or a digit"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(OverrideError) as error:
        resolve("miniature", [override])
    assert message in str(error.value)


def test_parts_of_a_group_may_follow_the_group() -> None:
    group = "train={shards: /s, base: /b, image_encoder: /e, moa: {image_dim: 8}, global_batch: 2}"
    augmentation = resolve("miniature", [group, "train.augmentation.flip=0"]).train.augmentation
    assert augmentation.flip == 0 and augmentation.rotation > 0
    for nothing in ("train.moa=null", "train.moa=linear"):
        with pytest.raises(
            OverrideError, match="'train.moa.router' has no place: another override makes its group 'moa' "
        ):
            resolve("miniature", [nothing, "train.moa.router=mlp"])


def test_training_follows_the_shards_unless_told_otherwise() -> None:
    moved = resolve("miniature", ["preprocess.out=/elsewhere"])
    assert moved.train.shards == Path("/elsewhere")
    for shards in ("train.shards=/older", "train.shards = /older"):
        apart = resolve("miniature", ["preprocess.out=/elsewhere", shards])
        assert apart.train.shards == Path("/older")


def test_more_hosts_are_the_operators_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a flow run asks for cannot widen it: only the environment of the process can."""
    monkeypatch.setenv("MOA_HUB_HOSTS", "hub.example, mirror.example")
    for host in ("hub.example", "mirror.example", "huggingface.co"):
        assert resolve("miniature", [f"publish.endpoint=https://{host}"]).publish.endpoint == f"https://{host}"
    with pytest.raises(OverrideError, match="an https URL"):
        resolve("miniature", ["publish.endpoint=http://hub.example"])


def test_paths_in_overrides_mean_the_same_from_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["preprocess.source_root=photos", "ablate.variants=[{label: x, adapter: other 😀}]"]
    config = resolve("miniature", given)
    monkeypatch.chdir("/")
    assert resolve("miniature", config.overrides) == config
    assert config.ablate.variants[0].adapter == tmp_path / "other 😀"


def test_a_path_that_is_no_utf8_is_refused_before_any_server_is_asked() -> None:
    with pytest.raises(OverrideError, match=r"preprocess.source_root: holds bytes that are no UTF-8"):
        resolve("miniature", [f"preprocess.source_root={os.fsdecode(b'/caf' + bytes([233]))}"])
    assert resolve("miniature", ["preprocess.source_root=/café"]).preprocess.source_root == Path("/café")


def test_the_command_names_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It stands on the model card."""
    monkeypatch.setenv("HOME", str(tmp_path))
    config = resolve("miniature", ["preprocess.source_root=~/photos", f"train.init={PROJECT}/zoo/moa"])
    assert str(tmp_path) not in config.command and str(PROJECT) not in config.command
    assert "preprocess.source_root=~/photos" in config.command and "train.init=zoo/moa" in config.command


def test_unknown_preset() -> None:
    with pytest.raises(UnknownPresetError, match="Did you mean 'miniature'.*ffhq_sd15, miniature"):
        resolve("minature")


def test_roots_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "r"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "d"))
    config = resolve("miniature")
    assert (config.run, config.train.shards) == (tmp_path / "r/miniature", tmp_path / "d/miniature")
    monkeypatch.setenv("MOA_MODELS_DIR", "~/m")
    assert resolve("ffhq_sd15").train.base == Path.home() / "m/stable-diffusion-v1-5"
    monkeypatch.setenv("MOA_RUNS_DIR", "relative")
    with pytest.raises(SettingsError, match="MOA_RUNS_DIR"):
        _ = config.run


def test_lifecycle_json_holds_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    config = resolve("miniature", ["train.steps=7"])
    path = write_lifecycle(config)
    assert path == tmp_path / "miniature/lifecycle.json"
    assert type(config).model_validate(json.loads(path.read_text())) == config
