"""Declarations: the ones we ship load, and a wrong one is explained with file, field and allowed values."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from preprocessing.config import DatasetConfig, load_dataset
from preprocessing.errors import ConfigError
from tests.preprocessing.folders import declaration

DATASETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.mark.parametrize("name", sorted(path.name for path in DATASETS.glob("*.yaml")))
def test_shipped_declarations_load(name: str) -> None:
    assert load_dataset(DATASETS / name).name == Path(name).stem


def test_ffhq_is_the_papers_data() -> None:
    config = load_dataset(DATASETS / "ffhq.yaml")
    assert (config.resolution, config.captions.kind, config.segmentation.kind) == (512, "blip2", "mask2former")
    assert config.source.split.heldout_from == 60_000


def write(path: Path, **changes: object) -> Path:
    values = declaration().model_dump(mode="json") | changes
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value != "(none)"}))
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"resolutoin": 64}, ["resolutoin: unknown field", "did you mean resolution?", "Allowed here:", "shard_size"]),
        ({"source": {"kind": "foler"}}, ["source.kind: 'foler' is unknown", "'renderer'", "'folder'"]),
        ({"source": {"root": "x"}}, ["source.kind: missing"]),
        (
            {"source": {"kind": "folder", "split": {"kind": "number", "heldout_form": 3}}},
            [
                "source.split.heldout_from: missing",
                "source.split.heldout_form: unknown field",
                "Allowed here: heldout_from",
            ],
        ),
        ({"captions": {"kind": "blip2", "beams": 3}}, ["captions.beams: unknown field", "max_new_tokens"]),
        ({"captions": {"kind": "template", "text": "a photo"}}, ["captions.text", "'a photo' holds no person word"]),
        ({"image_format": "gif"}, ["image_format: Input should be 'png' or 'jpg'", "'gif'"]),
        ({"resolution": "(none)"}, ["resolution: missing"]),
        ({"resolution": 8}, ["resolution: Input should be greater than or equal to 32", "found 8"]),
        ({"name": "My Data"}, ["name: String should match"]),
        (
            {"segmentation": {"kind": "head_and_shoulders"}, "faces": {"kind": "none"}},
            ["head_and_shoulders draws below faces", "faces.kind"],
        ),
        ({"require_face": True, "faces": {"kind": "none"}}, ["require_face"]),
        ({"faces": {"kind": "mtcnn", "min_face": 40}}, ["faces.min_face: 40 is larger than the resolution 32"]),
    ],
)
def test_problems_name_file_field_and_choices(tmp_path: Path, changes: dict, expected: list[str]) -> None:
    path = write(tmp_path / "toy.yaml", **changes)
    with pytest.raises(ConfigError) as error:
        load_dataset(path)
    for part in [str(path), *expected]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "not valid YAML"),
        ("version: 2026-13-01", "not valid YAML: month must be in 1..12"),
        (5000 * "[", "not valid YAML"),
        ("- a\n- b\n", "expected fields"),
        ("", "expected fields"),
        (None, "cannot be read"),
    ],
)
def test_files_that_are_no_declarations(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as error:
        load_dataset(path)
    assert str(path) in str(error.value)


def test_configs_are_frozen() -> None:
    config = declaration()
    assert isinstance(config, DatasetConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.resolution = 64
