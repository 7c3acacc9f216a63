"""The configuration says what is wrong with it, and a run folder refuses another configuration than its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from moa.errors import ConfigChangedError, MissingInputError, TrainConfigError
from moa.train_config import FREE_KEYS, SubjectAugmentation, TrainConfig, load_config, refuse_changes


def _write(path: Path, config: TrainConfig, **changes: object) -> Path:
    path.write_text(json.dumps({**config.model_dump(mode="json"), **changes}))
    return path


def test_it_is_torch_free() -> None:
    code = "import sys, moa.train_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_round_trip_and_out_is_the_folder_of_the_file(make_config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = make_config()
    assert load_config(_write(tmp_path / "config.json", config)) == config
    assert load_config(_write(tmp_path / "config.json", config, out=None)).run_folder == tmp_path
    with pytest.raises(TrainConfigError, match="out: name the run folder"):
        _ = config.model_copy(update={"out": None}).run_folder


def test_paper_defaults(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config()
    assert (config.learning_rate, config.lambda_router, config.lambda_object) == (5e-5, 1e-4, 1e-4)
    assert (config.condition_dropout, config.max_timestep, config.masked_loss_probability) == (0.1, 800, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "stepz: Extra inputs are not permitted"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"augmentation": {"flip": 2}}, "augmentation.flip: Input should be less than or equal to 1"),
        ({"moa": {"image_dim": 8, "layers": 2}}, "moa.layers: Extra inputs"),
        ({"global_batch": 6, "accumulation": 4}, "global_batch 6 cannot be split evenly over 1 rank"),
        ({"precision": "fp16"}, "precision: Input should be 'fp32' or 'bf16'"),
        ({"validation": {"samples": 12}}, "validation.samples: Input should be a multiple of 8"),
        ({"validation": None}, "validation: .*cannot be null; no validation at all is validation.every=0"),
        ({"validation": {"every": 5, "split": "train"}}, "validation.split: 'train' is what is trained on"),
    ],
)
def test_bad_fields_are_named(
    make_config: Callable[..., TrainConfig], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainConfigError, match=message):
        load_config(_write(tmp_path / "config.json", make_config(), **changes))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="config.json does not exist"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TrainConfigError, match="config.json: config: Invalid JSON"):
        load_config(tmp_path / "config.json")
    with pytest.raises(TrainConfigError, match="cannot be read.*name the config.json of a run"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(TrainConfigError, match="config.json cannot be read"):
        load_config(tmp_path / "config.json")


def test_micro_batch_needs_an_even_split(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(global_batch=12, accumulation=2)
    assert [config.micro_batch(world) for world in (1, 2, 3, 6)] == [6, 3, 2, 1]
    for world in (4, 5, 12):
        with pytest.raises(TrainConfigError, match=f"over {world} rank.*choose a multiple of {2 * world}"):
            config.micro_batch(world)


def test_a_changed_configuration_is_refused_with_the_keys(make_config: Callable[..., TrainConfig]) -> None:
    before = make_config().model_dump(mode="json") | {"inputs": {"base": "sha256:1"}}
    after = make_config(learning_rate=1e-5, augmentation=SubjectAugmentation(flip=0)).model_dump(mode="json")
    after |= {"inputs": {"base": "sha256:2"}}
    with pytest.raises(ConfigChangedError) as error:
        refuse_changes(before, after, Path("runs/x/checkpoints"))
    lines = str(error.value).splitlines()
    assert "runs/x/checkpoints" in lines[0]
    assert lines[1:] == [
        "  augmentation.flip: 0.5 -> 0.0",
        '  inputs.base: "sha256:1" -> "sha256:2"',
        "  learning_rate: 5e-05 -> 1e-05",
    ]


def test_free_keys_may_change(make_config: Callable[..., TrainConfig]) -> None:
    before = make_config().model_dump(mode="json")
    assert set(before) >= FREE_KEYS
    refuse_changes(before, {**before, **dict.fromkeys(FREE_KEYS, "other")}, Path("runs/x"))


def test_a_record_of_an_earlier_version_is_read_as_what_the_code_did_then(
    make_config: Callable[..., TrainConfig],
) -> None:
    """Options that were added since have their default, at any depth; one that is gone counts unless it was off."""
    after = make_config().model_dump(mode="json")
    before = json.loads(json.dumps(after))
    del before["ema_decay"], before["validation"], before["augmentation"]["rotation"], before["moa"]["router"]
    before["moa"]["unconditional"] = "mixture"  # what has become the only way
    refuse_changes(before | {"old_switch": False, "old_weight": 0.0, "old_name": None}, after, Path("runs/x"))

    changed = make_config(ema_decay=0.9, augmentation=SubjectAugmentation(rotation=9)).model_dump(mode="json")
    with pytest.raises(ConfigChangedError) as error:
        refuse_changes(before | {"old_weight": 0.5}, changed, Path("runs/x"))
    assert str(error.value).splitlines()[1:] == [
        "  augmentation.rotation: 5.0 -> 9.0",
        "  ema_decay: 0.0 -> 0.9",
        "  old_weight: 0.5 -> no option any more",
    ]
