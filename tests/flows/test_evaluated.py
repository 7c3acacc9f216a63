"""What the UI and the exit status say of an evaluation, from its tables written by hand."""

from __future__ import annotations

import base64
import io
import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from flows.artifacts import MOST_BYTES, TILE, _scores, interval, strip
from flows.errors import MissingInputError
from flows.evaluate import evaluate_pipeline
from flows.evaluated import evaluation_folder, read_summary, told, unscored
from flows.files import write_json
from flows.overrides import resolve

PROBLEMS = [
    {"what": "images/moa/anna/moon/0.png", "why": "the image cannot be read"},
    {"what": "images/moa/anna+ben/sea/0.png", "why": "the image cannot be read"},
    {"what": "subject ben", "why": "no face was found in the reference: IP cannot be measured"},
]


def test_what_could_not_be_scored_is_what_the_evaluation_named(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"unscored": PROBLEMS}))
    problems = unscored(tmp_path)
    assert problems == PROBLEMS
    assert "2 x the image cannot be read; 1 x no face" in told(problems) and "moon/0.png" in told(problems)
    assert told([]) == ""


def test_every_setting_of_an_evaluation_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    texts = [f"evaluate.{name}={tmp_path / name}" for name in ("images", "segmenter", "faces", "clip")]
    config = resolve("miniature", [*texts, "evaluate.precision=bf16"])
    write_json(config.run / "publication.json", {"repo_id": "me/moa", "commit": "abc"})
    reached = {}
    for place, stand_in in (
        ("moa.evaluation.run.evaluate", lambda pipeline, suite, out, **given: reached.update(given, suite=suite)),
        ("moa.evaluation.workers.devices_here", lambda pipeline: ["cpu"]),
        ("flows.evaluate.champion_adapter", lambda config: None),
        ("flows.evaluate.announced", lambda *_: nullcontext()),
        ("flows.evaluate.Progress", lambda *_: nullcontext()),
    ):
        monkeypatch.setattr(place, stand_in)
    evaluate_pipeline.fn(config, tmp_path)
    suite = reached["suite"]
    assert (suite.name, reached["precision"]) == ("miniature", "bf16")
    assert {name: reached[name] for name in ("images", "segmenter")} == {
        "images": tmp_path / "images",
        "segmenter": tmp_path / "segmenter",
    }
    assert [Path(model.path).name for model in (suite.evaluators.faces, suite.evaluators.clip)] == ["faces", "clip"]


def test_a_summary_that_was_lost_is_named_with_the_stage_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path))
    config = resolve("miniature")
    write_json(evaluation_folder(config) / "manifest.json", {})
    with pytest.raises(MissingInputError, match="miniature/summary.json is missing: run `python -m flows.evaluate`"):
        read_summary(config, "sha256:x")


def test_a_row_of_the_table_says_what_was_not_measured() -> None:
    nothing = {"label": "MoA", "n": 0, "ip": None, "pc": None, "context_change_outside": None, "detection_rate": None}
    assert set(_scores(nothing).values()) == {"MoA", 0, "-"}
    half = {"n": 2, "mean": 0.5, "low": None, "high": None, "std": 0.1}
    row = _scores(nothing | {"ip": half, "detection_rate": half})
    assert (row["IP"], row["faces"]) == ("0.500", "50.0 %")


def test_the_strip_shows_the_pictures_side_by_side(tmp_path: Path) -> None:
    for index, colour in enumerate(("red", "blue")):
        Image.new("RGB", (512, 512), colour).save(tmp_path / f"{index}.png")
    address = strip([tmp_path / "0.png", tmp_path / "1.png"])
    assert address is not None
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert picture.size == (2 * (TILE + 2), TILE)
    assert picture.getpixel((TILE // 2, 9))[0] > 200 and picture.getpixel((TILE + TILE // 2, 9))[2] > 200


def test_the_strip_magnifies_small_pictures(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "small.png")
    address = strip([tmp_path / "small.png"])
    assert address is not None
    assert Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).size == (128 + 2, 128)


def test_a_strip_that_the_ui_should_not_store_is_not_made(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (TILE, TILE, 3), dtype=torch.uint8).numpy()
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert strip([tmp_path / "noise.png"]) is not None
    assert strip([tmp_path / "noise.png"] * (MOST_BYTES // 3000)) is None
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert strip([tmp_path / "broken.png"]) is None


@pytest.mark.parametrize(
    ("statistic", "text"),
    [
        ({"mean": 0.0123, "low": -0.003, "high": 0.0271}, "+0.012 (-0.003 .. +0.027)"),
        ({"mean": -0.5, "low": None, "high": None}, "-0.500"),
        ({"mean": None, "low": None, "high": None}, "-"),
        (None, "-"),
    ],
)
def test_intervals_as_people_read_them(statistic: dict[str, float | None] | None, text: str) -> None:
    assert interval(statistic) == text
    assert interval(statistic, sign="") == text.replace("+", "")
