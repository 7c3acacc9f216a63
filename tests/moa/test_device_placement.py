"""Everything on one GPU, the same as on the CPU: training, checkpoints, drawing, adapters. On a GPU that is not there
(tests/moa/absent_gpu.py), where a tensor that was left on the CPU is an error, as on a real one."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler

import moa.train
from moa.adapter import load_adapter, save_adapter
from moa.conditioning import MoAInput
from moa.distributed import Ranks, StopRequest
from moa.pipeline import INVERTIBLE, MoAControlNetPipeline, MoAImg2ImgPipeline, MoAInpaintPipeline, MoAPipeline, Subject
from moa.recorder import Recorder
from tests.moa.absent_cuda import CUDA, Generator
from tests.moa.absent_gpu import AbsentGPU
from tests.moa.pictures import draw, man, person, quiet, tiny_pipeline
from tests.moa.shards import write_shards
from tests.moa.test_validation import add_split
from tests.moa.training import MakeConfig, metrics, run
from tests.tiny_models import IMAGE_DIM, IMAGE_SIZE, MAX_TOKENS, TEXT_DIM, one_level_moa_unet

PROMPTS = ["a man", "a dog", "a girl and a boy"]
PEOPLE = [[Subject("man", person(1))], [], [Subject("boy", person(2)), Subject("girl", person(3))]]
THERE = Ranks(rank=0, world=1, device=CUDA)
NEVER = {f"moa/{name}.py" for name in ("step", "layers", "conditioning", "losses", "backward", "recorder")}


@pytest.fixture
def pipe(tmp_path: Path) -> MoAPipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_pipeline(tmp_path, unet=one_level_moa_unet())


def close(there: torch.Tensor, here: torch.Tensor) -> None:
    assert there.device == CUDA
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-4)


def places(gpu: AbsentGPU) -> Counter[str]:
    """Waits by file."""
    return Counter(wait.partition(":")[0] for wait in gpu.waits)


def test_it_refuses_what_cuda_refuses_and_notices_what_waits():
    here, rows = torch.ones(3, 3), torch.tensor([0])
    with AbsentGPU() as gpu:
        there, generator = here.to(CUDA), torch.Generator()
        gpu.waits.clear()
        for mixed in (lambda: there @ here, lambda: torch.cat([there, here]), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                mixed()
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device="cuda", generator=generator)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * torch.tensor(2.0)).sum(dim=0).device == CUDA and gpu.waits == []
        there.to("cpu"), here.pin_memory().to(CUDA, non_blocking=True), here.to(CUDA, non_blocking=True)
        there[rows], there[there > 0], there.tolist(), bool(there[0, 0] > 0)
    assert [wait.partition(": ")[2] for wait in gpu.waits] == [
        "a copy from the device",
        "a copy to the device",
        "indices are copied to the device",
        "the shape of what aten.index.Tensor gives depends on values",
        "values are read",
        "a value is read",
    ]


@pytest.mark.slow
def test_a_run_is_the_same_on_a_gpu_interrupted_too(make_config: MakeConfig, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", samples=4)
    add_split(shards, samples=4)
    changes = {"shards": shards, "global_batch": 2, "accumulation": 2, "steps": 2, "checkpoint_every": 1}
    changes |= {"ema_decay": 0.9, "validation": {"every": 2, "samples": 8, "split": "heldout"}}
    here, there = (make_config(out=tmp_path / name, **changes) for name in ("here", "there"))
    assert run(here) == 0
    with AbsentGPU() as gpu:
        stop = StopRequest()
        stop.asked = True  # finishes the first step
        assert [moa.train.train(there, THERE, each) for each in (stop, StopRequest())] == [143, 0]
    compare(metrics(there), metrics(here), rel=1e-4)
    assert places(gpu)["moa/train.py"] == 2  # each step reads its statistics, once
    assert not NEVER & {*places(gpu)}


def test_half_precision_and_cached_latents_on_a_gpu(make_config: MakeConfig, tmp_path: Path) -> None:
    changes = {"precision": "bf16", "gradient_checkpointing": True, "steps": 1, "latent_cache": tmp_path / "latents"}
    here, there = (make_config(out=tmp_path / name, **changes) for name in ("here", "there"))
    with AbsentGPU() as gpu:
        assert moa.train.train(there, THERE, StopRequest()) == 0
    assert run(here) == 0
    compare(metrics(there), metrics(here), rel=5e-2)
    assert not (NEVER | {"moa/batch.py"}) & {*places(gpu)}


def test_under_somebodys_own_autocast() -> None:
    """Ours needs none; who trains with one gets what a CPU's gives, router and columns in full precision."""
    given = torch.randn(2, 4, 8, 8), torch.tensor([500, 20]), torch.randn(2, MAX_TOKENS, TEXT_DIM)
    features, positions = torch.randn(2, 1, IMAGE_DIM), torch.tensor([[3], [5]])

    def answer(unet: Any, device: str, inputs: Any, features: Any, positions: Any) -> list[Any]:
        recorder = Recorder()
        with torch.autocast(device, torch.bfloat16):
            options = {"moa": MoAInput(features, positions, recorder=recorder)}
            out = unet(*inputs, cross_attention_kwargs=options).sample
        maps = [*recorder.router.values(), *recorder.attention.values()]
        (out.float().square().mean() + sum(each.mean() for each in maps)).backward()
        return [out, *maps, unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.moa.router.logits.weight.grad]

    unet = one_level_moa_unet()
    here = answer(copy.deepcopy(unet), "cpu", given, features, positions)
    with AbsentGPU() as gpu:
        moved = [gpu.move(each) for each in (unet, features, positions)]
        there = answer(moved[0], "cuda", [gpu.move(each) for each in given], *moved[1:])
    for ours, theirs in zip(there, here, strict=True):
        ours, theirs = ours.detach().cpu(), theirs.detach()
        assert ours.dtype == theirs.dtype and theirs.norm() > 0
        assert (ours - theirs).norm() < 0.5 * theirs.norm()  # CUDA's norms are in fp32, a CPU's are not


def compare(there: list[dict[str, float]], here: list[dict[str, float]], rel: float) -> None:
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds", "samples_per_second"}:
            assert theirs[name] == pytest.approx(ours[name], rel=rel), name


@pytest.mark.parametrize(
    ("scheduler", "generator", "dtype"),
    [
        ("UniPCMultistepScheduler", torch.Generator, torch.float32),
        ("DDIMScheduler", Generator, torch.float32),
        ("EulerDiscreteScheduler", torch.Generator, torch.bfloat16),
    ],
)
def test_images_are_the_same_on_a_gpu_and_our_part_of_a_step_never_waits(pipe, scheduler, generator, dtype):
    pipe.to(dtype).scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    options = [{"num_inference_steps": steps, "output_type": "latent"} for steps in (1, 3)]
    expected = draw(pipe, PROMPTS, PEOPLE, **options[1])
    waits = []
    with AbsentGPU() as gpu:
        pipe.to("cuda")
        for each in options:
            gpu.waits.clear()
            found = draw(pipe, PROMPTS, PEOPLE, generator=generator().manual_seed(0), **each)
            waits.append({file: number for file, number in places(gpu).items() if file.startswith("moa/")})
    assert found.device == CUDA and (dtype == torch.bfloat16 or torch.allclose(found.cpu(), expected, atol=1e-3))
    assert waits[0] == waits[1]


def test_other_inputs_and_recorded_maps_on_a_gpu(pipe):
    photograph = person(5).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE))
    control = ControlNetModel.from_unet(pipe.unet.to_base_unet(), conditioning_embedding_out_channels=(8, 16, 16))
    for kind, parts, options in (
        (MoAControlNetPipeline, {"controlnet": control}, {}),
        (MoAImg2ImgPipeline, {}, {"strength": 0.9}),
        (MoAInpaintPipeline, {}, {"mask_image": photograph.convert("L"), "height": IMAGE_SIZE, "width": IMAGE_SIZE}),
    ):
        other = quiet(kind.from_pipe(pipe, **parts))
        expected = draw(other, "a man", man(), image=photograph, **options)
        recorder = Recorder(history=True)
        with AbsentGPU() as gpu:
            other.to("cuda")
            close(draw(other, "a man", man(), image=photograph, recorder=recorder, **options), expected)
            other.to("cpu")
        assert recorder.steps and all(maps.device.type == "cpu" for maps in recorder.steps[0].router.values())
        assert sum("shape" in wait for wait in gpu.waits if wait.startswith("moa/")) == len(recorder.steps)


@pytest.mark.parametrize("move", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_parts_that_come_to_the_gpu_when_they_are_needed(pipe, move):
    expected = draw(pipe, "a man", man())
    with AbsentGPU():
        getattr(pipe, move)(device="cuda")
        found = draw(pipe, "a man", man())
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-4)


def test_adapters_come_and_go_on_a_gpu(pipe, tmp_path):
    expected = draw(pipe, "a man", man())
    with AbsentGPU():
        pipe.to("cuda")
        save_adapter(pipe.unet, tmp_path / "adapter", {})
        pipe.save_pretrained(tmp_path / "pipeline")
        unet = load_adapter(pipe.unet.to_base_unet(), tmp_path / "adapter")
        assert {tensor.device for tensor in (*unet.parameters(), *unet.buffers())} == {CUDA}
        for again in (
            MoAPipeline.from_pipe(pipe, unet=unet),
            MoAPipeline.from_pretrained(tmp_path / "pipeline").to("cuda"),
        ):
            torch.testing.assert_close(draw(quiet(again), "a man", man()).cpu(), expected, rtol=0, atol=0.02)  # fp16


def test_inversion_and_features_of_either_device(pipe):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **INVERTIBLE)
    photograph = person(5).convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE))
    noise, (features,) = pipe.invert(photograph, "a man", num_inference_steps=2), pipe.encode_subjects([person(1)])

    def draw_both(first: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        both = [Subject("girl", features=first), Subject("boy", person(2))]
        return draw(pipe, "a girl and a boy", both, latents=latents, guidance_scale=1)

    expected = draw_both(features, noise)
    with AbsentGPU():
        pipe.to("cuda")
        there = pipe.invert(photograph, "a man", num_inference_steps=2)
        close(there, noise)
        for each in (features, features.to("cuda")):
            close(draw_both(each, there), expected)
