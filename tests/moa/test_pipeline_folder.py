"""Pipeline folders: what is written, what is read, and what is refused.    pytest tests/moa/test_pipeline_folder.py"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from moa import pipeline_folder
from moa.adapter import load_adapter, save_adapter
from moa.errors import AdapterGeometryError, PipelineFolderError, UnsupportedBaseError
from moa.pipeline import MoAPipeline, Subject
from tests.moa.full_disk import full_disk
from tests.moa.pictures import draw, person, quiet
from tests.tiny_models import (
    IMAGE_DIM,
    tiny_base,
    tiny_image_encoder,
    tiny_image_processor,
    tiny_moa_unet,
    tiny_text_encoder,
    tiny_unet,
)

PROMPT = "a man and a man on a beach"
PEOPLE = [Subject("man", person(1)), Subject("man", person(2))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base model, an image encoder, an adapter that was trained with them, as far as a random one can be."""
    root = tiny_base(tmp_path_factory.mktemp("base"))
    unet = UNet2DConditionModel.from_pretrained(root / "unet")
    torch.manual_seed(0)
    save_adapter(tiny_moa_unet(unet), root / "adapter", {"step": 5, "inputs": {"base": "sha256:0"}})
    return {"base": root, "adapter": root / "adapter", "encoder": root / "image_encoder"}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> MoAPipeline:
    return quiet(MoAPipeline.from_base(folders["base"], folders["adapter"], folders["encoder"]))


@pytest.fixture(scope="module")
def written(loaded: MoAPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What it writes. Read only."""
    folder = tmp_path_factory.mktemp("pipeline") / "full"
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture
def full(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "full")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def set_field(path: Path, name: str, value: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def test_save_and_load_give_the_same_pipeline_and_the_same_adapter(folders, loaded, full):
    again = quiet(MoAPipeline.from_pretrained(full))
    assert torch.equal(draw(again, PROMPT, PEOPLE), draw(loaded, PROMPT, PEOPLE))
    for name in ("moa.safetensors", "config.json", "manifest.json"):
        assert (full / "adapter" / name).read_bytes() == (folders["adapter"] / name).read_bytes()
    again.save_pretrained(full)  # over itself
    assert not list(full.parent.glob(".*"))
    assert MoAPipeline.from_pretrained(full).provenance["step"] == 5


@pytest.mark.parametrize("again", ["from the base", "from what was written", "offline"])
def test_the_same_pipeline_is_written_with_the_same_bytes(folders, written, tmp_path, monkeypatch, again):
    """An unchanged model is not published twice, whatever the environment it was loaded in."""
    monkeypatch.setattr("transformers.tokenization_utils_base.is_offline_mode", lambda: again == "offline")
    if again == "from what was written":
        pipe = MoAPipeline.from_pretrained(written)
    else:
        pipe = MoAPipeline.from_base(folders["base"], folders["adapter"], folders["encoder"])
    pipe.save_pretrained(tmp_path / "second")
    assert contents(tmp_path / "second") == contents(written)


def test_stock_diffusers_loads_the_folder_as_the_base_pipeline(loaded, written):
    stock = quiet(DiffusionPipeline.from_pretrained(written))
    assert type(stock) is StableDiffusionPipeline and type(stock.unet) is UNet2DConditionModel
    assert torch.equal(draw(stock, PROMPT), draw(loaded, PROMPT))


def test_its_subject_encoder_is_a_whole_clip_folder(folders, written, tmp_path):
    """As training and `from_base` want one."""
    pipe = MoAPipeline.from_base(folders["base"], folders["adapter"], written / "subject_encoder")
    pipe.save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(written)


def test_half_precision_on_disk_loads_as_asked(folders, tmp_path):
    half, same = (
        MoAPipeline.from_base(folders["base"], folders["adapter"], folders["encoder"], **{name: torch.float16})
        for name in ("torch_dtype", "dtype")
    )
    assert same.unet.dtype == same.vae.dtype == same.subject_encoder.dtype == torch.float16
    half.save_pretrained(tmp_path / "half")
    for asked in ({}, {"torch_dtype": torch.bfloat16}, {"dtype": torch.float16}):
        pipe, (dtype,) = MoAPipeline.from_pretrained(tmp_path / "half", **asked), [*asked.values(), torch.float32][:1]
        for part in ("unet", "vae", "text_encoder", "subject_encoder"):
            assert {p.dtype for p in getattr(pipe, part).parameters()} == {dtype}, part


def test_the_scheduler_is_unipc_unless_saved_otherwise(loaded, full):
    assert type(loaded.scheduler).__name__ == "UniPCMultistepScheduler"
    assert loaded.scheduler.config.beta_schedule == "scaled_linear"
    pipe = MoAPipeline.from_pipe(loaded, scheduler=diffusers.DDIMScheduler.from_config(loaded.scheduler.config))
    pipe.save_pretrained(full)
    assert type(MoAPipeline.from_pretrained(full).scheduler).__name__ == "DDIMScheduler"


def checker() -> StableDiffusionSafetyChecker:
    vision = tiny_image_encoder().config.to_dict()
    return StableDiffusionSafetyChecker(
        CLIPConfig(vision_config=vision, text_config=tiny_text_encoder().config.to_dict())
    )


def test_optional_parts_are_those_the_index_names_and_none_stays_behind(loaded, full):
    safe = MoAPipeline.from_pipe(
        loaded,
        safety_checker=checker(),
        feature_extractor=tiny_image_processor(),
        image_encoder=tiny_image_encoder(7),
        requires_safety_checker=True,
    )
    (full / "README.md").write_text("of somebody else")
    safe.save_pretrained(full)
    again = MoAPipeline.from_pretrained(full)
    assert again.safety_checker is not None and again.config.requires_safety_checker
    assert again.image_encoder.config.projection_dim == 7 and again.feature_extractor is not None
    old = {name: shutil.copytree(full / name, full.parent / name) for name in ("safety_checker", "image_encoder")}
    loaded.save_pretrained(full)
    assert not (full / "safety_checker").exists() and not (full / "image_encoder").exists()
    assert (full / "README.md").read_text() == "of somebody else"
    for name, folder in old.items():  # by whatever way they came there
        shutil.copytree(folder, full / name)
    again = MoAPipeline.from_pretrained(full)
    assert again.safety_checker is None and again.image_encoder is None
    set_field(full / "model_index.json", "safety_checker", ["stable_diffusion", "StableDiffusionSafetyChecker"])
    shutil.rmtree(full / "safety_checker")
    with pytest.raises(PipelineFolderError, match="StableDiffusionSafetyChecker.*safety_checker= yourself"):
        MoAPipeline.from_pretrained(full)
    assert MoAPipeline.from_pretrained(full, safety_checker=None).safety_checker is None


def test_an_interrupted_save_never_leaves_parts_of_two_pipelines(loaded, full, monkeypatch):
    """Killed before each of its eight moves, the last of which is the adapter's."""
    replace = os.replace
    left: list[int] = []

    def killed(source: Path, target: Path) -> None:
        if Path(target).parent == full:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(pipeline_folder.os, "replace", killed)
    for moves in range(8):
        left[:] = [moves]
        with pytest.raises(KeyboardInterrupt):
            loaded.save_pretrained(full)
        assert (full / "model_index.json").exists() and not (full / "adapter").exists()
    with pytest.raises(PipelineFolderError, match=r"no manifest.json: .*interrupted; save"):
        MoAPipeline.from_pretrained(full)
    left[:] = [8]
    loaded.save_pretrained(full)
    assert MoAPipeline.from_pretrained(full).provenance["step"] == 5


@pytest.mark.parametrize("after", [1_000, 120_000, 2_000_000])
def test_a_full_disk_names_the_folder_and_leaves_the_old_one(loaded, tmp_path, monkeypatch, after):
    """At the first small file, at the weights that Rust writes, and at the adapter, which comes last."""
    folder = tmp_path / "mine"
    loaded.save_pretrained(folder)
    before = folder_bytes(folder)
    if after > 1_000_000:
        monkeypatch.setattr("moa.atomic.os.fsync", no_room)
    with full_disk(after), pytest.raises(PipelineFolderError) as failure:
        loaded.save_pretrained(folder)
    assert f"{folder} cannot be written (" in str(failure.value) and "free space there" in str(failure.value)
    assert str(failure.value).count("cannot be written") == 1 and ".writing" not in str(failure.value)
    assert folder_bytes(folder) == before and list(tmp_path.iterdir()) == [folder]


def no_room(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "subject_encoder"])
def test_a_missing_component_is_named(full, part):
    shutil.rmtree(full / part)
    with pytest.raises(PipelineFolderError, match=part):
        MoAPipeline.from_pretrained(full)


@pytest.mark.parametrize("part", ["subject_encoder", "text_encoder", "vae"])
def test_a_component_without_all_its_weights_is_refused_and_a_whole_clip_is_quiet(full, capfd, part):
    """The libraries would fill the gap with random weights, and say so in a table of warnings."""
    MoAPipeline.from_pretrained(full)
    assert "UNEXPECTED" not in "".join(capfd.readouterr())
    (path,) = (full / part).glob("*.safetensors")
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, path, metadata={"format": "pt"})
    with pytest.raises(PipelineFolderError, match=f"{part} lacks 1 weights .*download or save it again"):
        MoAPipeline.from_pretrained(full)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "subject_encoder"])
@pytest.mark.parametrize("damage", ["cut", "pointer"])
def test_weights_that_were_cut_or_never_fetched_are_refused(full, part, damage):
    """A download that broke off; a clone without git-lfs, which has a pointer in a file's place."""
    (path,) = (full / part).glob("*.safetensors")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    path.write_bytes(pointer if damage == "pointer" else path.read_bytes()[:-40])
    with pytest.raises(PipelineFolderError, match=f"{part} cannot be loaded"):
        MoAPipeline.from_pretrained(full)


@pytest.mark.parametrize("part", ["text_encoder", "subject_encoder"])
def test_weights_of_another_model_than_the_configuration_says_are_refused(full, part):
    """Without its configuration transformers takes CLIP's own."""
    (full / part / "config.json").unlink()
    with pytest.raises(PipelineFolderError, match=f"{part} cannot be loaded"):
        MoAPipeline.from_pretrained(full)


def test_an_index_that_is_no_object_is_refused(full):
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (full / name).write_text("[1]")
        with pytest.raises(PipelineFolderError, match=f"{name} cannot be read"):
            MoAPipeline.from_pretrained(full)


def test_other_bad_folders_are_refused(folders, full, tmp_path):
    with pytest.raises(PipelineFolderError, match="neither a folder"):
        MoAPipeline.from_pretrained(tmp_path / "nowhere")
    set_field(full / "scheduler/scheduler_config.json", "_class_name", "DiffusionPipeline")
    with pytest.raises(PipelineFolderError, match="no scheduler"):
        MoAPipeline.from_pretrained(full)
    sdxl = tmp_path / "sdxl"
    tiny_unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
    ).save_pretrained(sdxl / "unet")
    (sdxl / "model_index.json").write_text("{}")
    with pytest.raises(UnsupportedBaseError, match="SDXL.*supports Stable Diffusion 1.x"):
        MoAPipeline.from_base(sdxl, folders["adapter"], folders["encoder"])
    narrow = tmp_path / "narrow"
    save_adapter(tiny_moa_unet(image_dim=IMAGE_DIM + 8), narrow, {})
    with pytest.raises(AdapterGeometryError, match=f"width {IMAGE_DIM}, the adapter was trained with {IMAGE_DIM + 8}"):
        MoAPipeline.from_base(folders["base"], narrow, folders["encoder"])


def test_a_base_that_predicts_another_quantity_is_refused(folders, tmp_path):
    """Its geometry fits, its images would be noise."""
    save_adapter(load_adapter(tiny_unet(), folders["adapter"]), tmp_path / "adapter", {"prediction_type": "epsilon"})
    MoAPipeline.from_base(folders["base"], tmp_path / "adapter", folders["encoder"])
    base = shutil.copytree(folders["base"], tmp_path / "base")
    set_field(base / "scheduler/scheduler_config.json", "prediction_type", "v_prediction")
    with pytest.raises(UnsupportedBaseError, match="predicts 'v_prediction', the adapter was trained .* 'epsilon'"):
        MoAPipeline.from_base(base, tmp_path / "adapter", folders["encoder"])
    MoAPipeline.from_base(base, folders["adapter"], folders["encoder"])  # an adapter that does not say


def test_a_text_encoder_with_lora_layers_is_not_written_over_a_good_one(full, tmp_path):
    """transformers would write the LoRA layers alone, and the folder could not be loaded any more."""
    folder = tmp_path / "kept"
    pipe = MoAPipeline.from_pretrained(full)
    pipe.save_pretrained(folder)
    pipe.text_encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(UnsupportedBaseError, match="loaded into the text_encoder: to keep them fuse_lora"):
        pipe.save_pretrained(folder)
    assert MoAPipeline.from_pretrained(folder).text_encoder.config.hidden_size == pipe.text_encoder.config.hidden_size


def test_a_pipeline_that_sees_no_subjects_is_not_written(loaded, tmp_path):
    pipe = MoAPipeline.from_pipe(loaded, subject_encoder=None)
    with pytest.raises(PipelineFolderError, match="no subject_encoder"):
        pipe.save_pretrained(tmp_path / "full")
