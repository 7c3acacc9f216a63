"""Everything that would fail hours later is named at once, with its remedy."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from flows.downloads import CLIP, FACENET, MASK2FORMER, STABLE_DIFFUSION, command
from flows.errors import PreflightError
from flows.overrides import resolve
from flows.prefect_environment import PROJECT
from flows.preflight import BASE_PARTS, check, find_problems
from flows.presets import PRESETS
from flows.settings import models_root
from moa.models import BASE_PARTS as NEEDED_PARTS
from preprocessing.config import load_dataset
from preprocessing.models import find_model


@pytest.fixture(autouse=True)
def _nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "MODELS", "RUNS"):
        monkeypatch.setenv(f"MOA_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("HF_TOKEN", "hf_test")  # without one, Prefect would be asked for its Secret block
    monkeypatch.delenv("HF_HUB_OFFLINE")


def told(stage: str, *overrides: str, preset: str = "miniature") -> str:
    return "\n".join(map(str, find_problems(resolve(preset, overrides), stage)))


@pytest.mark.parametrize(
    "stage", ["preprocess", "train", "publish", "evaluate", "gate", "rollback", "ablate", "lifecycle"]
)
def test_the_miniature_world_lacks_nothing(stage: str) -> None:
    assert told(stage) == ""
    check(resolve("miniature"), stage)


def test_a_fresh_machine_hears_of_all_that_ffhq_needs(tmp_path: Path) -> None:
    text = told("lifecycle", preset="ffhq_sd15")
    for missing in (
        f"{tmp_path}/data/raw/ffhq does not exist",
        "hf download Salesforce/blip2-flan-t5-xl",
        "hf download facebook/mask2former-swin-base-coco-panoptic",
        "hf download stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hf download openai/clip-vit-large-patch14",
        f"--output {tmp_path}/models/{FACENET}",
        f"{tmp_path}/data/celeba-15",
        "--set publish.accept_licences=true",
        "publish.repo_id: your-name/moa-sd15-ffhq is a placeholder",
    ):
        assert missing in text
    with pytest.raises(PreflightError, match="(?s)lifecycle cannot run yet.*train.base.*publish.repo_id.*evaluate"):
        check(resolve("ffhq_sd15"), "lifecycle")


def test_own_photographs_are_asked_for(tmp_path: Path) -> None:
    assert "preprocess.source_root=FOLDER" in told("preprocess", preset="photos_sd15")
    photos = f"preprocess.source_root={tmp_path}/photos"
    assert f"{tmp_path}/photos does not exist" in told("preprocess", photos, preset="photos_sd15")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/me.heic").touch()
    empty = f"preprocess.source_root: {tmp_path}/photos: no .jpg, .jpeg, .png, .webp files in it; it holds 1 x .heic"
    assert empty in told("preprocess", photos, preset="photos_sd15")
    assert empty in told("lifecycle", photos, preset="photos_sd15")
    (tmp_path / "photos/me.jpg").touch()
    assert told("preprocess", photos, preset="photos_sd15") == "", "the annotators of photos.yaml need no download"


def test_finished_shards_need_no_annotators_any_more(tmp_path: Path) -> None:
    root = tmp_path / "data/raw/ffhq"
    root.mkdir(parents=True)
    (root / "ffhq-dataset-v2.json").write_text("{}")
    assert f"{root}/images1024x1024 does not exist" in told("preprocess", preset="ffhq_sd15")
    (root / "images1024x1024").mkdir()
    (root / "images1024x1024/00000.png").touch()
    assert "blip2" in told("preprocess", preset="ffhq_sd15")
    (tmp_path / "data/ffhq").mkdir()
    (tmp_path / "data/ffhq/manifest.json").write_text("{}")
    assert told("preprocess", preset="ffhq_sd15") == ""


def test_the_adapter_to_start_from_has_to_fit(tmp_path: Path) -> None:
    assert "holds no adapter" in told("train", f"train.init={tmp_path}")
    assert "not MoAConfig" in told("train", f"train.init={PROJECT}/zoo/single-branch")
    assert told("train", "train.init=null") == ""
    assert "makes 128 features" in told("train", "train.moa.image_dim=64", "train.init=null")
    (tmp_path / "base/unet").mkdir(parents=True)
    assert "has no vae, text_encoder, tokenizer, scheduler" in told("train", f"train.base={tmp_path}/base")
    assert BASE_PARTS == NEEDED_PARTS


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    text = told("train", "train.init=null")
    assert "launch.processes: 2 on a machine with 1 GPU(s)" in text
    assert "--set launch.processes=1 --set train.accumulation=2" in text
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert told("train", "train.init=null") == ""


def test_what_publishing_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = ["publish.accept_licences=true", "publish.repo_id=me/moa"]
    assert told("publish", *ready, preset="ffhq_sd15") == ""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "unset HF_HUB_OFFLINE" in told("publish", *ready, preset="ffhq_sd15")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("flows.hub._secret_block", lambda: None)
    assert "HF_TOKEN is not set" in told("publish", *ready, preset="ffhq_sd15")
    assert told("publish", "publish.endpoint=http://127.0.0.1:8765") == "", "a Hub on this machine needs none"
    monkeypatch.setattr("flows.hub._secret_block", lambda: "hf_block")
    assert told("publish", *ready, preset="ffhq_sd15") == ""


def test_what_an_evaluation_needs(tmp_path: Path) -> None:
    assert "evaluate.suite: " in told("evaluate", "evaluate.suite=datasets/suites/nowhere.yaml")
    text = told("evaluate", f"evaluate.faces={tmp_path}/f", f"evaluate.clip={tmp_path}/c")
    assert "evaluate.faces: " in text and "--set evaluate.clip=PATH" in text
    (tmp_path / "f").write_bytes(b"another network")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/model.safetensors").write_bytes(b"another CLIP")
    text = told("evaluate", f"evaluate.faces={tmp_path}/f", f"evaluate.clip={tmp_path}/c", preset="photos_sd15")
    assert f"evaluate.faces: {tmp_path}/f is sha256:" in text and "but the suite asks for sha256:281cebca" in text
    assert f"evaluate.clip: {tmp_path}/c/model.safetensors is sha256:" in text
    variants = json.dumps([{"label": "x", "adapter": str(tmp_path)}])
    assert "ablate.variants: 'x'" in told("evaluate", f"ablate.variants={variants}")
    bases = json.dumps([{"label": "ink", "lora": str(tmp_path / "lora")}])
    assert "ablate.community: 'ink'" in told("evaluate", f"ablate.community={bases}")
    (tmp_path / "data/celeba-15/000001").mkdir(parents=True)
    assert "lacks 000181, 000268" in told("evaluate", preset="ffhq_sd15")


def test_people_are_cut_out_of_photographs_as_in_the_training_data(tmp_path: Path) -> None:
    """Where a suite's people are photographs in a folder: by the model that the preset's dataset names."""
    for preset in PRESETS:
        config = resolve(preset)
        segmentation = load_dataset(config.preprocess.dataset).segmentation
        named = find_model(segmentation.model, models_root()) if segmentation.kind == "mask2former" else None
        assert config.evaluate.segmenter == named, preset
    place = tmp_path / "models" / MASK2FORMER
    problem = f"evaluate.segmenter: {place} is no Mask2Former\n    {command(place)}\n    or --set evaluate.segmenter="
    assert problem in told("evaluate", preset="ffhq_sd15")
    assert (command(place) or "") in told("preprocess", preset="ffhq_sd15"), "the same model by the same command"
    of_shards = f"evaluate.suite={PROJECT}/datasets/suites/ffhq-heldout.yaml"
    assert "segmenter" not in told("evaluate", of_shards, preset="ffhq_sd15"), "its people come cut out"
    place.mkdir(parents=True)
    (place / "config.json").touch()
    assert "segmenter" not in told("evaluate", preset="ffhq_sd15")


def test_too_few_held_out_people_are_told_before_the_training(tmp_path: Path) -> None:
    def shards(content: object) -> None:
        (tmp_path / "data/miniature").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/miniature/manifest.json").write_text(json.dumps(content))

    shards({"counts": {"splits": {"train": 90, "heldout": 5}}})
    for stage in ("train", "ablate"):
        text = told(stage)
        assert "evaluate.suite: miniature wants 6 people (subjects.count) of split 'heldout'" in text
        assert f"{tmp_path}/data/miniature holds 5 picture(s)" in text and "--set evaluate.suite=FILE" in text
    assert told("lifecycle") == "", "preprocessing may make more"
    with pytest.raises(PreflightError, match="train cannot run yet: evaluate.suite"):
        check(resolve("miniature"), "train")
    suite = f"evaluate.suite={PROJECT}/datasets/suites/celeba-15.yaml"
    assert told("train", suite) == "", "its people are in a folder"
    shards({"counts": {"splits": {"train": 90}}})
    assert "holds 0 picture(s)" in told("train")
    for enough in ({"counts": {"splits": {"train": 90, "heldout": 6}}}, {"counts": {}}, {}, []):
        shards(enough)
        assert told("train") == ""


@pytest.mark.parametrize("name", [STABLE_DIFFUSION, CLIP, MASK2FORMER, FACENET])
def test_commands_that_fetch_are_complete(tmp_path: Path, name: str) -> None:
    place = tmp_path / "a b" / name
    words = shlex.split(command(place) or "")
    assert str(place) in words and words[0] in ("hf", "curl")
    assert command(tmp_path / "mine") is None


def test_every_download_of_a_preset_has_a_command() -> None:
    for preset in PRESETS:
        config = resolve(preset)
        judged = config.evaluate
        for path in (config.train.base, config.train.image_encoder, judged.faces, judged.clip, judged.segmenter):
            assert path is None or path.is_relative_to(PROJECT / "zoo") or command(path), path


def test_data_of_the_adapter_that_training_starts_from_bring_their_terms(tmp_path: Path) -> None:
    """A model that is trained on from one of FFHQ is non-commercial, whatever it is trained on next."""
    adapter = tmp_path / "adapter"
    shutil.copytree(PROJECT / "zoo/moa", adapter)
    given = ("publish.accept_licences=true", f"train.init={adapter}")
    assert "publish.licences" not in told("publish", *given, preset="photos_sd15")
    record = json.loads((adapter / "config.json").read_text())
    for known in ({"dataset": {"name": "ffhq"}}, {"started_from": {"digest": "", "step": 1, "datasets": ["ffhq"]}}):
        changed = record | {"provenance": record["provenance"] | known}
        (adapter / "config.json").write_text(json.dumps(changed))
        for stage in ("publish", "gate", "lifecycle"):
            problems = told(stage, *given, preset="photos_sd15")
            assert "photos_sd15 are the terms of the preset" in problems and "trained on ffhq, whose terms" in problems
        assert "publish.licences" not in told("publish", *given, "publish.licences=ffhq_sd15", preset="photos_sd15")
    (adapter / "config.json").write_text("{}")
    assert "publish.licences" not in told("lifecycle", *given, preset="photos_sd15"), "broken: another check says so"
