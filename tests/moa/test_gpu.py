"""What only a real GPU can show: its kernels, its memory, its compiler, full width.    make test-gpu

The other tests of devices (tests/moa/test_device_placement.py) run everywhere, on a GPU that is not there.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from facenet_pytorch import InceptionResnetV1
from PIL import Image
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

import moa.train
from moa.conditioning import MoAInput
from moa.config import MoAConfig
from moa.distributed import Ranks, StopRequest
from moa.evaluation.clip import ClipScorer
from moa.evaluation.clip_towers import TransformersTowers
from moa.evaluation.faces import Face, FacenetFaces, face_crop
from moa.expert_cache import ExpertCache
from moa.models import load_models
from moa.step import training_losses
from moa.train_config import TrainConfig
from moa.unet import MoAUNet2DConditionModel
from tests.moa.pictures import draw, man, stock, tiny_pipeline
from tests.moa.training import MakeConfig, first_batch, metrics, run, tensors
from tests.tiny_models import (
    LATENT_SIZE,
    MAX_TOKENS,
    TEXT_DIM,
    one_level_moa_unet,
    tiny_image_encoder,
    tiny_image_processor,
    tiny_text_encoder,
    tiny_tokenizer,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CUDA = torch.device("cuda", 0)
THERE = Ranks(rank=0, world=1, device=CUDA)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _exact_products():
    """Convolutions in fp32, not TF32, so that values can be compared with a CPU's."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
    torch.cuda.set_sync_debug_mode("default")


def full_width(dtype: torch.dtype) -> MoAUNet2DConditionModel:
    """Stable Diffusion 1.5's geometry with random weights, its experts and routers as if trained."""
    torch.manual_seed(0)
    with CUDA:
        unet = UNet2DConditionModel(cross_attention_dim=768).eval()
    model = MoAUNet2DConditionModel.from_unet(unet, MoAConfig(image_dim=768)).to(dtype)
    with torch.no_grad():
        for _, parameter in model.moa_parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def inputs(dtype: torch.dtype, rows: int = 2, size: int = 64, width: int = 768, tokens: int = 77) -> list[Tensor]:
    with CUDA:
        latents = torch.randn(rows, 4, size, size, dtype=dtype)
        return [latents, torch.tensor(500), torch.randn(rows, tokens, width, dtype=dtype)]


def guided(features: Tensor, cache: ExpertCache | None = None) -> MoAInput:
    """An unconditional row and one with a subject."""
    positions = torch.tensor([[-1], [5]], device=CUDA)
    return MoAInput(features, positions, torch.ones(2, dtype=torch.bool), cache=cache)


def answer(unet: Any, given: list[Tensor], moa: MoAInput | None = None) -> Tensor:
    return unet(*given, cross_attention_kwargs=None if moa is None else {"moa": moa}).sample


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_prior_is_preserved_bit_for_bit_at_full_width(dtype):
    unet, given = full_width(dtype), inputs(dtype)
    base = unet.to_base_unet()
    expected, features = answer(base, given), torch.randn(2, 1, 768, dtype=dtype, device=CUDA)
    assert expected.isfinite().all() and torch.equal(answer(unet, given), expected)
    mixed = answer(unet, given, guided(features))
    assert mixed.isfinite().all() and not torch.equal(mixed, expected)
    for name, parameter in unet.moa_parameters():
        if ".router.logits" in name:
            parameter.copy_(torch.tensor([200.0, -200.0]) if name.endswith("bias") else torch.zeros_like(parameter))
    assert torch.equal(answer(unet, given, guided(features)), expected)


@torch.no_grad()
def test_a_sampling_step_waits_for_nothing_and_is_the_same_as_a_graph():
    unet, given = full_width(torch.bfloat16), inputs(torch.bfloat16)
    moa = guided(torch.randn(2, 1, 768, dtype=torch.bfloat16, device=CUDA), ExpertCache(2))
    for _ in range(2):
        answer(unet, given, moa)
    torch.cuda.set_sync_debug_mode("error")
    expected = [answer(unet, given, moa) for _ in range(2)]
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [answer(unet, given, moa) for _ in range(2)]
    graph.replay()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)


def test_a_training_step_waits_for_nothing(make_config: MakeConfig):
    config = make_config(precision="bf16")
    models = load_models(config, CUDA)
    batch = first_batch(models, config).to(CUDA)
    for _ in range(2):
        losses = training_losses(models, batch, config)
        losses.total.backward()
        torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")
    assert losses.total.isfinite()


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_those_of_a_cpu(tmp_path: Path, dtype: torch.dtype):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = tiny_pipeline(tmp_path, unet=one_level_moa_unet())
    noise = torch.randn(1, 4, LATENT_SIZE, LATENT_SIZE)  # in half precision a generator draws other noise
    expected = draw(pipe, "a man", man(), latents=noise)
    pipe.to(CUDA, dtype)
    found = draw(pipe, "a man", man(), latents=noise.to(dtype))
    assert found.is_cuda and (found.float().cpu() - expected).abs().mean() < (1e-4 if dtype == torch.float32 else 2e-2)
    assert torch.equal(draw(pipe, "a man"), draw(stock(pipe).to(CUDA), "a man"))


@pytest.mark.parametrize("move", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_parts_that_come_to_the_gpu_when_they_are_needed(tmp_path: Path, move: str):
    pipe = tiny_pipeline(tmp_path)
    expected = draw(pipe, "a man", man())
    getattr(pipe, move)()
    torch.testing.assert_close(draw(pipe, "a man", man()).cpu(), expected, rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_compiler_keeps_the_answer():
    unet = one_level_moa_unet().to(CUDA)
    given = inputs(torch.float32, size=8, width=TEXT_DIM, tokens=MAX_TOKENS)
    moa = guided(torch.randn(2, 1, unet.config["moa_config"]["image_dim"], device=CUDA))
    expected = answer(unet, given, moa)
    compiled = torch.compile(unet, fullgraph=True)
    torch.testing.assert_close(answer(compiled, given, moa), expected, rtol=0, atol=1e-3)


def trained(config: TrainConfig, stops: list[bool]) -> dict[str, Tensor]:
    for asked in stops:
        stop = StopRequest()
        stop.asked = asked  # True: finishes one step
        moa.train.train(config, THERE, stop)
    return tensors(config, 2)


def test_a_run_is_that_of_a_cpu_and_goes_on_where_it_was_stopped(make_config: MakeConfig, tmp_path: Path):
    changes = {"steps": 2, "checkpoint_every": 1, "ema_decay": 0.9}
    here, there, stopped = (make_config(out=tmp_path / name, **changes) for name in ("here", "there", "stopped"))
    assert run(here) == 0
    whole, parts = trained(there, [False]), trained(stopped, [True, False])
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=1e-6, msg=name)
    for ours, theirs in zip(metrics(there), metrics(here), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_half_precision_checkpointing_and_cached_latents(make_config: MakeConfig, tmp_path: Path):
    changes = {"precision": "bf16", "gradient_checkpointing": True, "steps": 2, "latent_cache": tmp_path / "latents"}
    here, there = (make_config(out=tmp_path / name, **changes) for name in ("here", "there"))
    assert moa.train.train(there, THERE, StopRequest()) == 0 and run(here) == 0
    for ours, theirs in zip(metrics(there), metrics(here), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=3e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_training_is_the_same_training(make_config: MakeConfig, tmp_path: Path, precision: str):
    changes = {"precision": precision, "steps": 2}
    plain, compiled = (make_config(out=tmp_path / str(on), compile=on, **changes) for on in (False, True))
    for config in (plain, compiled):
        assert moa.train.train(config, THERE, StopRequest()) == 0
    for ours, theirs in zip(metrics(compiled), metrics(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3 if precision == "fp32" else 3e-2)


def test_clip_and_faces_score_as_on_a_cpu(tmp_path: Path):
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3), dtype=np.uint8)
    images, face = [Image.fromarray(each) for each in pixels], Face((20.0, 20.0, 180.0, 180.0), 1.0)
    embedder = InceptionResnetV1().train()  # else its batch norms pass on next to nothing
    with torch.no_grad():
        embedder(torch.from_numpy(np.stack([face_crop(image, face) for image in images])))
    config = CLIPConfig(
        text_config=tiny_text_encoder().config.to_dict(),
        vision_config=tiny_image_encoder().config.to_dict(),
        projection_dim=24,
    )
    towers = TransformersTowers(CLIPModel(config).eval(), tiny_tokenizer(tmp_path), tiny_image_processor())
    for device in ("cpu", "cuda"):  # copies: a CPU packs the weights for itself
        faces = FacenetFaces(copy.deepcopy(embedder), device=device)
        clip = ClipScorer(copy.deepcopy(towers), device=device)
        found = [faces.embed(images, [face] * 4), clip.encode_images(images), clip.encode_texts(["a man", "a dog"])]
        if device == "cpu":
            expected = found
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
