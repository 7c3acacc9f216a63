"""Methods: what each runs on, what it is compared with, and a LoRA that goes into the prior only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor

from moa.errors import EvaluationError
from moa.evaluation.methods import find_methods, open_pipeline
from moa.pipeline import MoAPipeline
from moa.unet import is_moa_key
from tests.tiny_models import tiny_image_encoder

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


def _lora(path: Path, layer: str = LAYER, width: int = 16) -> Path:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, width, generator=generator), torch.randn(width, 2, generator=generator)
    save_file({f"unet.{layer}.lora.down.weight": down, f"unet.{layer}.lora.up.weight": up}, path)
    return path


def _named(adapter: Path, folder: Path, **changes: object) -> Path:
    """A copy of an adapter whose config.json says something else of its architecture."""
    shutil.copytree(adapter, folder)
    config = json.loads((folder / "config.json").read_text())
    config["moa"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_each_method_names_its_kind_its_prior_and_what_it_lacks(pipeline, adapters, tmp_path):
    ablations = {
        "Other": adapters[1],
        "Without MoA": _named(adapters[1], tmp_path / "single", architecture="single_branch"),
        "Without PE": _named(adapters[1], tmp_path / "timeless", spacetime=False),
    }
    lora = _lora(tmp_path / "comic.safetensors")
    found = find_methods(pipeline, champion=adapters[1], ablations=ablations, community={"Comic": lora})
    assert [(m.name, m.kind, m.compared_with, m.role) for m in found] == [
        ("prior", "prior", None, None),
        ("moa", "moa", "prior", None),
        ("champion", "champion", "prior", None),
        ("other", "ablation", "prior", None),
        ("without-moa", "ablation", "prior", "no_moa"),
        ("without-pe", "ablation", "prior", "no_spacetime"),
        ("comic-prior", "prior", None, None),
        ("comic", "ablation", "comic-prior", None),
    ]
    assert found[2].digest == found[3].digest  # the same weights under two names
    assert len({m.digest for m in found}) == len(found) - 1
    assert find_methods(pipeline, champion=adapters[0])[2].digest == found[1].digest


def test_what_is_missing_is_named(pipeline, adapters, tmp_path):
    with pytest.raises(EvaluationError, match="is no MoA pipeline folder, it lacks unet/"):
        find_methods(tmp_path)
    lacking = {label: _named(adapters[1], tmp_path / label, architecture="single_branch") for label in ("one", "two")}
    with pytest.raises(EvaluationError, match=r"ablations: 'one' and 'two' lack MoA layers.*runs of their own"):
        find_methods(pipeline, ablations=lacking)
    with pytest.raises(EvaluationError, match=r"ablation 'x'.*no adapter folder"):
        find_methods(pipeline, ablations={"x": tmp_path})
    for label in ("MoA", "!", "Champion"):
        with pytest.raises(EvaluationError, match=rf"ablation '{label}'.*empty or taken"):
            find_methods(pipeline, ablations={label: adapters[1]})
    (tmp_path / "lora.bin").write_bytes(b"pickle")
    for place in (tmp_path, tmp_path / "lora.bin", tmp_path / "absent"):
        with pytest.raises(EvaluationError, match=r"community 'c': .* must be a LoRA's .safetensors file or a folder"):
            find_methods(pipeline, community={"c": place})


def test_no_image_is_blacked_out(pipeline, tmp_path):
    """A pipeline folder with a safety checker that flags every image, as FastComposer's evaluation has it: off."""
    folder = tmp_path / "checked"
    config = CLIPConfig(vision_config=tiny_image_encoder().config.to_dict(), projection_dim=24)
    checker = StableDiffusionSafetyChecker(config)
    checker.concept_embeds_weights.data -= 100  # every similarity is above its threshold
    seen_by = CLIPImageProcessor.from_pretrained(pipeline / "subject_encoder")
    MoAPipeline.from_pretrained(pipeline, safety_checker=checker, feature_extractor=seen_by).save_pretrained(folder)
    method = find_methods(folder)[0]
    made = [
        pipe("a man", num_inference_steps=1, height=32, width=32, output_type="np").images
        for pipe in (MoAPipeline.from_pretrained(folder), open_pipeline(folder, method, "cpu"))
    ]
    assert made[0].max() == 0 and made[1].max() > 0


def test_a_precision_is_the_whole_pipelines(pipeline, adapters):
    for method in find_methods(pipeline, champion=adapters[1]):
        pipe = open_pipeline(pipeline, method, "cpu", precision="bf16")
        modules = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.subject_encoder)
        assert {parameter.dtype for module in modules for parameter in module.parameters()} == {torch.bfloat16}


def test_a_lora_changes_the_prior_and_leaves_the_adapter_alone(pipeline, tmp_path):
    _lora(tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "card.json").write_text("{}")
    _, moa, prior, on_lora = find_methods(pipeline, community={"Comic": tmp_path})
    own, merged, alone = (open_pipeline(pipeline, m, "cpu").unet.state_dict() for m in (moa, on_lora, prior))
    assert own.keys() == merged.keys()
    changed = {name for name in own if not torch.equal(own[name], merged[name])}
    assert changed == {f"{LAYER}.weight"} and not any(map(is_moa_key, changed))
    assert torch.equal(merged[f"{LAYER}.weight"], alone[f"{LAYER}.weight"])


@pytest.mark.parametrize(
    ("lora", "message"),
    [({"layer": LAYER.replace("attn2", "attn9")}, "cannot be loaded as a LoRA"), ({"width": 5}, "cannot be loaded")],
)
def test_a_lora_of_another_base_is_refused(pipeline, tmp_path, lora, message):
    _lora(tmp_path / "lora.safetensors", **lora)
    method = find_methods(pipeline, community={"Comic": tmp_path})[-1]
    with pytest.raises(EvaluationError, match=f"lora.safetensors {message}"):
        open_pipeline(pipeline, method, "cpu")


def test_a_lora_that_fits_in_part_is_refused(pipeline, tmp_path):
    path = _lora(tmp_path / "lora.safetensors")
    both = {}
    for layer in (LAYER, LAYER.replace("attn2", "attn9")):
        both |= {f"unet.{layer}.lora.down.weight": torch.ones(2, 16), f"unet.{layer}.lora.up.weight": torch.ones(16, 2)}
    save_file(both, path)
    method = find_methods(pipeline, community={"Comic": path})[-1]
    with pytest.raises(EvaluationError, match=r"names 2 layers, of which this base model has 1|cannot be loaded"):
        open_pipeline(pipeline, method, "cpu")
