"""The preflight: its exit status says what its table says, and a model is there only when it can be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from moa.evaluation.check import main
from preprocessing.world import World
from tests.moa.evaluation.fakes import declaration
from tests.moa.evaluation.test_clip import open_clip_folder  # noqa: F401

ZOO = Path(__file__).resolve().parents[3] / "zoo"


@pytest.fixture
def suite(tmp_path):
    """Writes a suite of one person, measured by copies of the zoo's models, and returns its path; keyword arguments
    replace fields."""
    for name in ("identity", "clip", "attributes"):
        shutil.copytree(ZOO / name, tmp_path / name)
    scenes = map(World(1).scene, range(60))
    next(scene for scene in scenes if len(scene.people) == 1).image.save(tmp_path / "ann.png")

    def write(**changes) -> Path:
        evaluators = {name: {"path": name} for name in ("clip", "attributes")}
        evaluators["faces"] = {"kind": "miniature", "path": "identity"}
        subjects = {"kind": "folder", "root": ".", "items": [{"id": "ann", "word": "woman", "image": "ann.png"}]}
        path = tmp_path / "suite.yaml"
        fields = declaration(**{"subjects": subjects, "evaluators": evaluators, **changes})
        path.write_text(yaml.safe_dump(fields), encoding="utf-8")
        return path

    return write


def _problems(printed: str) -> list[str]:
    return [line.removeprefix("PROBLEM ") for line in printed.splitlines() if line.startswith("PROBLEM ")]


def test_all_there_is_ready(suite, capsys):
    assert main([str(suite())]) == 0
    printed = capsys.readouterr().out
    assert _problems(printed) == [] and printed.endswith("ready\n") and "not ready" not in printed
    assert all(f"{name}: there: sha256:" in printed for name in ("faces", "clip", "attributes"))
    assert "prompts: 2 texts, all short enough for CLIP" in printed
    assert "1 subjects x 2 prompts x 2 seeds = 4 images per method" in printed


def test_missing_and_junk_weights_count(suite, tmp_path, capsys):
    path = suite()
    shutil.rmtree(tmp_path / "identity")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"junk" * 100)
    (tmp_path / "attributes" / "model.safetensors").write_bytes(b"")
    assert main([str(path)]) == 1
    faces, clip, attributes = _problems(capsys.readouterr().out)
    assert "identity/model.safetensors: an evaluator's weights are missing" in faces
    assert "clip: cannot be read as a measuring model (" in clip
    assert "attributes: cannot be read as a measuring model (" in attributes
    shutil.rmtree(tmp_path / "attributes")
    assert main([str(path)]) == 1
    faces, _, attributes = _problems(capsys.readouterr().out)
    assert "name another place with --faces (in a flow: --set evaluate.faces=PATH)" in faces
    assert attributes.endswith("or name another place in the suite")  # no option does


def test_an_openclip_folder_is_there(suite, open_clip_folder, capsys):  # noqa: F811
    assert main([str(suite()), "--clip", str(open_clip_folder)]) == 0
    assert "clip: there: sha256:" in capsys.readouterr().out


def test_a_segmenter_that_is_none_is_named(suite, tmp_path, capsys):
    assert main([str(suite()), "--segmenter", str(tmp_path / "absent")]) == 1
    assert "absent cannot be loaded as a Mask2Former" in capsys.readouterr().err


def test_a_bad_photograph_and_one_without_a_face_count(suite, tmp_path, capsys):
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    items = [{"id": name, "word": "man", "image": f"{name}.png"} for name in ("ann", "dark", "absent")]
    assert main([str(suite(subjects={"kind": "folder", "root": ".", "items": items}))]) == 1
    assert _problems(capsys.readouterr().out) == [
        "subjects.items.absent.image: absent.png holds no photograph",
        "subject dark: no face was found in dark.png: IP cannot be measured",
    ]


def test_a_prompt_too_long_for_clip_is_named(suite, capsys):
    prompts = [{"id": "long", "category": "context", "text": "a {word}" + " in a park" * 40}]
    assert main([str(suite(prompts=prompts))]) == 1
    (problem,) = _problems(capsys.readouterr().out)
    assert "tokens CLIP takes; shorten it" in problem


def test_what_the_generation_would_refuse_is_named_and_all_else_looked_at(suite, capsys):
    prompts = [{"id": "two", "category": "context", "text": "a woman beside a {word}"}]
    assert main([str(suite(prompts=prompts))]) == 1
    (problem,) = _problems(capsys.readouterr().out)
    assert "prompt two: in 'a woman beside a woman' the subject words ['woman'] are found elsewhere" in problem
    pairs = {"count": 1, "prompts": [{"id": "p", "text": "a {first} and a {second}"}], "seeds": [0]}
    items = [{"id": "absent", "word": "man", "image": "absent.png"}]
    assert main([str(suite(pairs=pairs, subjects={"kind": "folder", "root": ".", "items": items}))]) == 1
    absent, count = _problems(capsys.readouterr().out)
    assert "absent.png holds no photograph" in absent and "1 people make only 0 pairs" in count


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "absent.yaml")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
