"""What else people do with a diffusers pipeline, with subjects in it.    pytest tests/moa/test_compatibility.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image
from torch import Tensor

from moa.conditioning import MoAInput
from moa.errors import ConditioningError, UnsupportedBaseError
from moa.expert_cache import ExpertCache
from moa.pipeline import MoAPipeline, Subject
from moa.recorder import Recorder
from moa.unet import MoAUNet2DConditionModel
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.pictures import draw, man, stock, tiny_pipeline
from tests.tiny_models import (
    IMAGE_DIM,
    IMAGE_SIZE,
    LATENT_SIZE,
    MAX_TOKENS,
    TEXT_DIM,
    one_level_moa_unet,
    tiny_image_encoder,
    tiny_image_processor,
)

PROMPT = "a man on a beach"


@pytest.fixture
def pipe(tmp_path: Path) -> MoAPipeline:
    """A random pipeline of its own, with an IP-Adapter's encoder: these tests change its components."""
    return tiny_pipeline(tmp_path, image_encoder=tiny_image_encoder(), feature_extractor=tiny_image_processor())


def photo(colour: str) -> Image.Image:
    return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), colour)


def ip_adapter(unet: MoAUNet2DConditionModel, strength: float = 0.3) -> dict[str, dict[str, Tensor]]:
    """Random weights in the published file's layout: 4 image tokens, a K and a V for each cross-attention layer."""
    layers = {}
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(names):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{part}.weight"] = strength * torch.randn(width, TEXT_DIM)
    projection = {
        "proj.weight": torch.randn(4 * TEXT_DIM, IMAGE_DIM),
        "proj.bias": torch.zeros(4 * TEXT_DIM),
        "norm.weight": torch.ones(TEXT_DIM),
        "norm.bias": torch.zeros(TEXT_DIM),
    }
    return {"image_proj": projection, "ip_adapter": layers}


def test_an_ip_adapter_rides_along(pipe):
    base, weights = stock(pipe), ip_adapter(pipe.unet)
    before = draw(pipe, PROMPT, subjects=man())
    for each in (base, pipe):
        each.load_ip_adapter(weights, subfolder="", weight_name="")
    style = {"ip_adapter_image": photo("orange")}
    assert torch.equal(draw(pipe, PROMPT, **style), draw(base, PROMPT, **style))
    both = draw(pipe, PROMPT, subjects=man(), **style)
    assert not torch.allclose(both, before) and not torch.allclose(both, draw(pipe, PROMPT, **style))
    pipe.set_ip_adapter_scale(0.0)
    torch.testing.assert_close(draw(pipe, PROMPT, subjects=man(), **style), before, rtol=0, atol=1e-4)
    with pytest.raises(UnsupportedBaseError, match="IP-Adapter"):
        pipe.unet.to_base_unet()
    pipe.unload_ip_adapter()
    assert torch.equal(draw(pipe, PROMPT, subjects=man()), before)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_changes_nothing(pipe, offload):
    expected = draw(pipe, PROMPT, subjects=man())
    if offload == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:  # what enable_sequential_cpu_offload does; it would call the device cpu:0, which accelerate takes for another
        for part in ("subject_encoder", "text_encoder", "unet", "vae"):
            cpu_offload(getattr(pipe, part), torch.device("cpu"))
        assert pipe.unet.conv_in.weight.is_meta  # the weights wait elsewhere
    for _ in range(2):
        assert torch.equal(draw(pipe, PROMPT, subjects=man()), expected)


@pytest.mark.parametrize("options", [{"device_map": {"": "cpu"}}, {"low_cpu_mem_usage": False}], ids=str)
def test_a_placed_unet_is_whole(pipe, tmp_path, options):
    expected = draw(pipe, PROMPT, subjects=man())
    pipe.unet.save_pretrained(tmp_path / "unet")
    pipe.unet = MoAUNet2DConditionModel.from_pretrained(tmp_path / "unet", **options).eval()
    assert not any(tensor.is_meta for tensor in [*pipe.unet.parameters(), *pipe.unet.buffers()])
    torch.testing.assert_close(draw(pipe, PROMPT, subjects=man()), expected, rtol=0, atol=1e-4)


def test_vae_tiling_decodes_the_same_latents(pipe):
    wide = {"subjects": man(), "width": 2 * IMAGE_SIZE, "height": IMAGE_SIZE}
    pipe.vae.enable_tiling()
    latents = draw(pipe, PROMPT, output_type="latent", **wide)
    with torch.no_grad():
        expected = pipe.vae.tiled_decode(latents / pipe.vae.config.scaling_factor).sample
    assert torch.equal(draw(pipe, PROMPT, **wide), (expected / 2 + 0.5).clamp(0, 1))
    pipe.vae.disable_tiling()
    assert not torch.equal(draw(pipe, PROMPT, **wide), (expected / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_rescale": 0.7},
        {"negative_prompt": "a red hat"},
        {"guidance_scale": 1.0},
        {"num_images_per_prompt": 2},
        {"callback_on_step_end": lambda _pipe, _step, _t, tensors: {"latents": 0.9 * tensors["latents"]}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_diffusers_do_what_they_do(pipe, options):
    base, plain, given = stock(pipe), draw(pipe, PROMPT, subjects=man()), draw(pipe, PROMPT, subjects=man(), **options)
    assert torch.equal(draw(pipe, PROMPT, **options), draw(base, PROMPT, **options))
    assert given.shape != plain.shape or not torch.allclose(given, plain)
    assert not torch.allclose(given, draw(pipe, PROMPT, **options))


def test_text_that_a_callback_replaces_reaches_the_personalization_expert(pipe):
    subjects = [Subject("man", features=torch.ones(IMAGE_DIM), position=2)]
    tensors = ["latents", "prompt_embeds"]

    def drawn(change) -> Tensor:
        callback = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": tensors}
        return draw(pipe, PROMPT, subjects=subjects, num_inference_steps=3, output_type="latent", **callback)

    fresh = drawn(lambda _pipe, _step, _t, kept: {**kept, "prompt_embeds": 2 * kept["prompt_embeds"]})
    written = drawn(lambda _pipe, _step, _t, kept: {**kept, "prompt_embeds": kept["prompt_embeds"].mul_(2)})
    assert torch.equal(fresh, written)
    assert not torch.allclose(fresh, drawn(lambda _pipe, _step, _t, kept: kept))


@pytest.mark.parametrize("change", ["channels_last", "group_offload"])
def test_other_ways_to_run_the_unet_change_nothing(pipe, change):
    expected = draw(pipe, PROMPT, subjects=man())
    if change == "channels_last":
        pipe.unet.to(memory_format=torch.channels_last)
    else:
        cpu = torch.device("cpu")
        pipe.unet.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    torch.testing.assert_close(draw(pipe, PROMPT, subjects=man()), expected, rtol=0, atol=1e-4)


def test_freeu_and_subjects(pipe):
    base = stock(pipe)
    for each in (base, pipe):
        each.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert torch.equal(draw(pipe, PROMPT), draw(base, PROMPT))
    assert not torch.allclose(draw(pipe, PROMPT, subjects=man()), draw(pipe, PROMPT))


def moved(gpu: AbsentGPU, moa: MoAInput) -> MoAInput:
    """On the device, as the pipeline leaves it; which rows are active was read on the CPU."""
    there = replace(moa, features=gpu.move(moa.features), positions=gpu.move(moa.positions), active=None)
    object.__setattr__(there, "rows", gpu.move(moa.rows) if isinstance(moa.rows, Tensor) else moa.rows)
    return there


@pytest.mark.parametrize("active", [(0, 0, 1, 1), (1, 0, 0, 1)], ids=str)
def test_a_step_has_every_tensor_on_the_accelerator_and_never_waits_for_it(active):
    positions = torch.tensor([[-1, -1], [-1, -1], [2, 5], [2, -1]])
    moa = MoAInput(torch.randn(4, 2, IMAGE_DIM), positions, torch.tensor(active).bool(), guided=True)
    moa = replace(moa, recorder=Recorder(), cache=ExpertCache(9))
    steps = [(True, moa), (False, moa), (False, moa.for_batch(2))]  # computed, kept, without guidance
    unet = one_level_moa_unet()
    latents = torch.randn(4, 4, LATENT_SIZE, LATENT_SIZE)
    text, timestep = torch.randn(4, MAX_TOKENS, TEXT_DIM), torch.tensor(5.0)
    with AbsentGPU() as gpu:
        unet, latents, text, timestep = (gpu.move(x) for x in (unet, latents, text, timestep))
        for grad, given in steps:
            rows, options = len(given.features), {"cross_attention_kwargs": {"moa": moved(gpu, given)}}
            with torch.set_grad_enabled(grad):
                assert unet(latents[:rows], timestep, text[:rows], **options).sample.device.type == "cuda"
            maps = [*moa.recorder.router.values(), *moa.recorder.attention.values()]
            assert {each.device.type for each in maps} == {"cuda"}
        assert not gpu.waits


def test_a_position_beyond_the_prompt_is_told_on_an_accelerator_without_asking_it():
    unet, moa = one_level_moa_unet(), MoAInput(torch.randn(2, 1, IMAGE_DIM), torch.tensor([[-1], [MAX_TOKENS]]))
    latents, text = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE), torch.randn(2, MAX_TOKENS, TEXT_DIM)
    with AbsentGPU() as gpu:
        unet, latents, text, timestep = (gpu.move(x) for x in (unet, latents, text, torch.tensor(5.0)))
        moa = moa.to(latents.device)
        gpu.waits.clear()
        with pytest.raises(ConditioningError, match=f"bound to token {MAX_TOKENS}"):
            unet(latents, timestep, text, cross_attention_kwargs={"moa": moa})
        assert moa.positions.device == moa.features.device == latents.device and not gpu.waits


def test_the_pipeline_brings_the_subjects_to_the_device_before_the_first_step(pipe):
    """`active` stays: which rows it holds is read without asking the device."""
    pipe.to("meta")
    people = [[Subject("man", features=torch.ones(IMAGE_DIM))], [], [Subject("boy", features=torch.ones(IMAGE_DIM))]]
    moa = pipe.moa_input(["a man", "a dog", "a boy"], people, guided=True)
    assert {x.device.type for x in (moa.features, moa.positions, moa.rows)} == {"meta"}
    assert moa.active.device.type == "cpu" and moa.last == 2
