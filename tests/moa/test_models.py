"""What is loaded is whole and comes from safetensors; a folder that is not fit for it is named."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import Conv2d

from moa import models
from moa.data import file_digest
from moa.errors import AdapterError, MissingInputError, ModelFolderError, TrainConfigError
from moa.models import find_inputs, folder_digest, load_models
from moa.train_config import TrainConfig
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.training import ALONE, MakeConfig
from tests.tiny_models import tiny_image_encoder, tiny_image_processor, tiny_unet

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "image_encoder": "model.safetensors",
}


@pytest.fixture
def changed(make_config: MakeConfig, base: Path, tmp_path: Path) -> Callable[[Callable[[Path], object]], TrainConfig]:
    """The configuration of a copy of the base model that a function has changed."""

    def make(change: Callable[[Path], object]) -> TrainConfig:
        copy = Path(shutil.copytree(base, tmp_path / "copy"))
        change(copy)
        return make_config(base=copy, image_encoder=copy / "image_encoder")

    return make


def pickled(weights: Path) -> None:
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


def cut(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])


def incomplete(weights: Path) -> None:
    tensors = load_file(weights)
    del tensors[max(tensors)]
    save_file(tensors, weights, metadata={"format": "pt"})


def of_another_shape(weights: Path) -> None:
    tensors = load_file(weights)
    save_file(tensors | {max(tensors): torch.zeros(3, 1)}, weights, metadata={"format": "pt"})


def test_on_a_cpu_the_autoencoder_is_laid_out_as_its_kernels_want_it(make_config: MakeConfig) -> None:
    config = make_config()
    kernels = [each.weight for each in load_models(config, ALONE.device).vae.modules() if isinstance(each, Conv2d)]
    assert kernels and all(each.is_contiguous(memory_format=torch.channels_last) for each in kernels)
    with AbsentGPU():
        there = load_models(config, torch.device("cuda", 0)).vae.encoder.conv_in.weight
        assert there.device.type == "cuda" and there.is_contiguous()


@pytest.mark.parametrize("part", WEIGHTS)
def test_pickles_and_variants_are_not_read(changed: Callable, part: str) -> None:
    name = WEIGHTS[part]
    config = changed(lambda base: pickled(base / part / name))
    with pytest.raises(MissingInputError, match=rf"{part}/{name} does not exist \(there is .*\.bin; weights are read"):
        find_inputs(config)
    with pytest.raises(ModelFolderError, match=rf"{part} cannot be loaded"):
        load_models(config, ALONE.device)
    weights = (config.base / part / name).with_suffix(".bin")
    weights.rename(weights.with_name(name.replace(".", ".fp16.", 1)))
    with pytest.raises(MissingInputError, match=r"there is .*\.fp16\.safetensors"):
        find_inputs(config)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut, "cannot be loaded"), (incomplete, "lacks weights, e.g. "), (of_another_shape, "cannot be loaded")],
)
def test_damaged_weights_are_named(changed: Callable, part: str, damage: Callable, message: str) -> None:
    config = changed(lambda base: damage(base / part / WEIGHTS[part]))
    with pytest.raises(ModelFolderError, match=rf"{part} {message}"):
        load_models(config, ALONE.device)


@pytest.mark.parametrize(
    "name",
    ["unet/config.json", "text_encoder/config.json", "image_encoder/config.json", "scheduler/scheduler_config.json"],
)
def test_a_missing_or_damaged_configuration_is_named(changed: Callable, name: str) -> None:
    config = changed(lambda base: (base / name).write_text("{"))
    with pytest.raises(ModelFolderError, match=rf"{Path(name).parent} cannot be loaded"):
        load_models(config, ALONE.device)
    (config.base / name).unlink()
    with pytest.raises(MissingInputError, match=rf"{name} does not exist"):
        find_inputs(config)


def test_an_empty_tokenizer_folder_is_missing(changed: Callable) -> None:
    config = changed(lambda base: [path.unlink() for path in (base / "tokenizer").iterdir()])
    with pytest.raises(MissingInputError, match="tokenizer/tokenizer.json does not exist"):
        find_inputs(config)


def test_weights_in_pieces_are_read(changed: Callable, make_config: MakeConfig) -> None:
    def in_pieces(base: Path) -> None:
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        (base / "unet" / WEIGHTS["unet"]).unlink()
        unet.save_pretrained(base / "unet", max_shard_size="500KB")

    config = changed(in_pieces)
    assert len(list((config.base / "unet").glob("*.safetensors"))) > 1
    find_inputs(config)
    ours, whole = (load_models(c, ALONE.device).unet.state_dict() for c in (config, make_config()))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_an_image_encoder_without_its_projection_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    tiny_image_encoder().vision_model.save_pretrained(tmp_path / "clip")
    tiny_image_processor().save_pretrained(tmp_path / "clip")
    with pytest.raises(ModelFolderError, match="image_encoder: .*clip lacks weights, e.g. visual_projection.weight"):
        load_models(make_config(image_encoder=tmp_path / "clip"), ALONE.device)


def test_an_inpainting_base_is_refused(make_config: MakeConfig, changed: Callable) -> None:
    """Nine channels go in: latents, a mask and masked latents."""
    config = changed(lambda folder: tiny_unet(in_channels=9).save_pretrained(folder / "unet"))
    with pytest.raises(TrainConfigError, match=r"base: .*unet takes 9 channels, the autoencoder's latents have 4"):
        load_models(config, ALONE.device)


@pytest.mark.parametrize("content", ["{", "{}"], ids=["cut", "empty"])
def test_a_damaged_adapter_to_start_from_is_named(make_config: MakeConfig, tmp_path: Path, content: str) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init/manifest.json").write_text(content)
    with pytest.raises(AdapterError, match="init/manifest.json"):
        find_inputs(make_config(init=tmp_path / "init"))


def test_the_commit_says_whether_the_code_is_the_committed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    package = tmp_path / "moa"
    package.mkdir()
    monkeypatch.setattr(models, "__file__", str(package / "models.py"))
    (package / "models.py").write_text("1")
    assert models.code_commit() is None
    git("init")
    (tmp_path / "notes.txt").write_text("1")
    git("add", "notes.txt")
    git("commit", "-m", "somebody else's repository")
    assert models.code_commit() is None, "this package is not in it"
    git("add", ".")
    git("commit", "-m", "the package")
    clean = models.code_commit()
    assert clean and len(clean) == 40
    (tmp_path / "notes.txt").write_text("2")
    assert models.code_commit() == clean
    (package / "models.py").write_text("2")
    assert models.code_commit() == clean + "+changes"


def test_what_a_download_leaves_hidden_is_no_part_of_a_model(tmp_path: Path) -> None:
    """`hf download --local-dir` writes a time into its `.cache` and renews it each time it is called."""
    folder = tmp_path / "a.b-1" / "clip"
    for name in ("config.json", "a/x.json", "a-b/x.json", "a.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    before = folder_digest(folder)
    lines = [f"{name} {file_digest(folder / name)}\n" for name in ("a/x.json", "a-b/x.json", "a.json", "config.json")]
    assert before == f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}", "as records have it"
    for hidden in (".cache/huggingface/download/config.json.metadata", "a/.cache/x.json", ".gitattributes"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        (folder / hidden).write_text("1764348846.1")
        assert folder_digest(folder) == folder_digest(folder, (".",)) == before, hidden
    (folder / "a/x.json").write_text("other")
    assert folder_digest(folder) != before
