"""Components of all MoA pipelines: taken over, replaced, moved.    pytest tests/moa/test_pipeline_components.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionPipeline

from moa.adapter import load_adapter, save_adapter
from moa.errors import PipelineOptionError, UnsupportedBaseError
from moa.pipeline import MoAControlNetPipeline, MoAImg2ImgPipeline, MoAInpaintPipeline, MoAPipeline, Subject
from moa.unet import MoAUNet2DConditionModel
from tests.moa.pictures import draw, man, quiet, stock, tiny_pipeline
from tests.tiny_models import IMAGE_DIM, IMAGE_SIZE, tiny_moa_unet, tiny_unet, tiny_vae

KINDS = [MoAPipeline, MoAImg2ImgPipeline, MoAInpaintPipeline, MoAControlNetPipeline]
PROVENANCE = {"step": 5, "inputs": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MoAPipeline:
    pipe = tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    pipe.unet.provenance = PROVENANCE
    return pipe


@pytest.fixture
def pipe(made: MoAPipeline) -> MoAPipeline:
    return quiet(MoAPipeline.from_pipe(made))


@pytest.fixture(scope="module")
def folder(made: MoAPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("saved") / "full"
    made.save_pretrained(folder)
    return folder


def of_kind(kind: type, unet: MoAUNet2DConditionModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """The components a kind needs beside the folder's, and what its call needs."""
    image, mask = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE), torch.ones(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    if kind is MoAControlNetPipeline:
        torch.manual_seed(0)
        control = ControlNetModel.from_unet(unet.to_base_unet(), conditioning_embedding_out_channels=(16, 32, 64))
        return {"controlnet": control.eval()}, {"image": image}
    calls = {
        MoAPipeline: {},
        MoAImg2ImgPipeline: {"image": image, "strength": 0.9},
        MoAInpaintPipeline: {"image": image, "mask_image": mask, "strength": 0.9},
    }
    return {}, calls[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pipeline_is_made_loaded_and_saved_alike(pipe, folder, tmp_path, kind):
    components, call = of_kind(kind, pipe.unet)
    call = {**call, "num_inference_steps": 3}
    made = quiet(kind.from_pipe(pipe, **components))
    plain, swapped = draw(made, "a man", **call), draw(made, "a man", man(), **call)
    assert not torch.allclose(plain, swapped)
    read = quiet(kind.from_pretrained(folder, **components))
    made.save_pretrained(tmp_path / "again")
    again = quiet(kind.from_pretrained(tmp_path / "again", **components))
    assert read.provenance == again.provenance == PROVENANCE
    expected = draw(read, "a man", man(), **call)
    assert torch.equal(draw(again, "a man", man(), **call), expected)
    torch.testing.assert_close(expected, swapped, rtol=0, atol=0.05)  # an adapter is stored in fp16
    assert type(quiet(MoAPipeline.from_pretrained(tmp_path / "again")).unet) is MoAUNet2DConditionModel
    assert made.model_cpu_offload_seq.startswith("subject_encoder->text_encoder->")


def test_a_controlnet_is_asked_for(pipe, folder):
    for load in (MoAControlNetPipeline.from_pretrained, MoAControlNetPipeline.from_pipe):
        with pytest.raises(PipelineOptionError, match="MoAControlNetPipeline needs controlnet="):
            load(folder if load == MoAControlNetPipeline.from_pretrained else pipe)
    components, _ = of_kind(MoAControlNetPipeline, pipe.unet)
    back = MoAPipeline.from_pipe(MoAControlNetPipeline.from_pipe(pipe, **components))
    assert "controlnet" not in back.components


def test_from_pipe_leaves_the_components_as_they_are(tmp_path):
    pipe = tiny_pipeline(tmp_path).to(torch.float16)
    pipe.vae.float()  # a common mixture
    pipe.preparer = object()
    other = MoAImg2ImgPipeline.from_pipe(pipe)
    assert (other.unet.dtype, other.vae.dtype, other.subject_encoder.dtype) == (
        torch.float16,
        torch.float32,
        torch.float16,
    )
    assert other.components == pipe.components and other.preparer is pipe.preparer
    assert other.provenance is pipe.provenance
    cast = MoAPipeline.from_pipe(pipe, torch_dtype=torch.bfloat16)
    assert {part.dtype for part in (cast.unet, cast.vae, cast.text_encoder)} == {torch.bfloat16}


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_from_pipe_goes_from_every_kind_to_every_other(tmp_path, source, kind):
    pipe = tiny_pipeline(tmp_path).to(torch.bfloat16)
    components, _ = of_kind(MoAControlNetPipeline, pipe.unet)
    given = [components if each is MoAControlNetPipeline else {} for each in (source, kind)]
    other = kind.from_pipe(source.from_pipe(pipe, **given[0]), **given[1])
    assert other.unet is pipe.unet and other.subject_encoder is pipe.subject_encoder
    assert {other.unet.dtype, other.vae.dtype, other.subject_encoder.dtype} == {torch.bfloat16}
    assert not other.config.requires_safety_checker
    again = kind.from_pipe(other)  # a ControlNet comes along where there is one
    assert again.components.keys() == other.components.keys()


def test_from_pipe_takes_other_components_and_stock_pipelines(pipe, tmp_path):
    torch.manual_seed(3)
    other = tiny_moa_unet(tiny_unet())
    save_adapter(other, tmp_path / "adapter", {"step": 9})
    changed = MoAPipeline.from_pipe(pipe, unet=load_adapter(other.to_base_unet(), tmp_path / "adapter"))
    assert changed.provenance == {"step": 9} and pipe.provenance == PROVENANCE
    base = stock(pipe)
    with pytest.raises(UnsupportedBaseError, match="MoAPipeline needs a U-Net with MoA.*load_adapter"):
        MoAPipeline.from_pipe(base)
    personal = MoAPipeline.from_pipe(
        base, unet=pipe.unet, subject_encoder=pipe.subject_encoder, subject_processor=pipe.subject_processor
    )
    assert torch.equal(draw(quiet(personal), "a man", man()), draw(pipe, "a man", man()))
    assert not personal.config.requires_safety_checker


def test_provenance_belongs_to_the_unet(pipe, tmp_path):
    assert MoAPipeline(**pipe.components, requires_safety_checker=False).provenance == PROVENANCE
    assert tiny_pipeline(tmp_path).provenance == {}


def test_components_take_the_place_of_the_folders(pipe, folder):
    vae, scheduler = tiny_vae(), DDIMScheduler()
    loaded = MoAPipeline.from_pretrained(
        folder, vae=vae, scheduler=scheduler, safety_checker=None, subject_encoder=None
    )
    assert loaded.vae is vae and loaded.scheduler is scheduler
    given = [Subject("man", features=torch.ones(IMAGE_DIM))]
    assert not torch.allclose(draw(quiet(loaded), "a man", given), draw(loaded, "a man"))
    whole = MoAPipeline.from_pretrained(folder, unet=pipe.unet)
    assert whole.unet is pipe.unet
    fine_tune = tiny_unet()
    attached = MoAPipeline.from_pretrained(folder, unet=fine_tune)
    assert attached.unet.conv_in.weight is not pipe.unet.conv_in.weight
    assert torch.equal(attached.unet.conv_in.weight, fine_tune.conv_in.weight) and attached.provenance == PROVENANCE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "fp16"}, "variant='fp16': .*torch_dtype"),
        ({"device_map": "balanced"}, "enable_model_cpu_offload"),
        ({"use_safetensors": False}, "only safetensors"),
        ({"trust_remote_code": True}, "no code"),
        ({"controlnet": "canny"}, "only MoAControlNetPipeline has one"),
        ({"schedular": 1}, "no option or component 'schedular'"),
    ],
    ids=str,
)
def test_options_that_a_folder_cannot_fulfil_are_refused(folder, options, message):
    with pytest.raises(PipelineOptionError, match=message):
        MoAPipeline.from_pretrained(folder, **options)


def test_options_that_say_what_is_the_case_are_accepted(folder, pipe, tmp_path):
    MoAPipeline.from_pretrained(folder, use_safetensors=True, variant=None, local_files_only=True)
    pipe.save_pretrained(tmp_path / "full", safe_serialization=True, max_shard_size="20KB")
    assert list((tmp_path / "full/unet").glob("*-00002-of-*.safetensors"))
    again = quiet(MoAPipeline.from_pretrained(tmp_path / "full"))
    assert torch.equal(draw(again, "a man"), draw(pipe, "a man"))


@pytest.mark.parametrize(
    "options", [{"variant": "fp16"}, {"safe_serialization": False}, {"push_to_hub": True}], ids=str
)
def test_folders_that_could_not_be_read_are_not_written(pipe, tmp_path, options):
    with pytest.raises(PipelineOptionError, match=f"save_pretrained does not take {next(iter(options))}="):
        pipe.save_pretrained(tmp_path / "full", **options)
    assert not (tmp_path / "full").exists()


def test_every_component_moves_and_is_offloaded_in_the_order_of_its_use(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    expected = draw(pipe, "a man", man())
    pipe.enable_model_cpu_offload(device="cpu")
    used = [hook.model for hook in pipe._all_hooks]
    assert used == [pipe.subject_encoder, pipe.text_encoder, pipe.unet, pipe.vae]
    assert torch.equal(draw(pipe, "a man", man()), expected)
    pipe.remove_all_hooks()
    pipe.to("meta")
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == 4
    assert all(tensor.is_meta for part in parts for tensor in (*part.parameters(), *part.buffers()))


def test_a_subclass_may_have_its_own_constructor(pipe):
    class Titled(MoAPipeline):
        def __init__(self, *, title: str = "", **components: Any) -> None:
            super().__init__(**components)
            self.title = title

    assert Titled(title="x", **pipe.components, requires_safety_checker=False).title == "x"
    assert issubclass(MoAPipeline, StableDiffusionPipeline)


def stock_of(kind: type) -> type:
    """The pipeline of diffusers that a kind extends."""
    return kind.__bases__[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_shows_every_option_of_diffusers(made, kind):
    """Editors and user interfaces read them in the signature."""
    options = inspect.signature(kind.__call__).parameters
    assert list(options)[:3] == ["self", "prompt", "subjects"]
    stock = inspect.signature(stock_of(kind).__call__).parameters
    assert {"recorder", "expert_interval", *stock} == options.keys() - {"subjects"}
    assert {"num_inference_steps", "negative_prompt", "clip_skip", "generator", "kwargs"} <= options.keys()
    bound = inspect.signature(kind.from_pipe(made, **of_kind(kind, made.unet)[0]).__call__).parameters
    assert list(bound) == list(options)[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_that_a_call_shows_are_those_it_has(made, kind, monkeypatch):
    stock, seen = stock_of(kind), {}
    shown = {name: option.default for name, option in inspect.signature(kind.__call__).parameters.items()}
    real = {name: option.default for name, option in inspect.signature(stock.__call__).parameters.items()}
    pipe = kind.from_pipe(made, **of_kind(kind, made.unet)[0])
    monkeypatch.setattr(
        kind, "moa_input", lambda self, prompt, subjects, **given: seen.update(given, subjects=subjects)
    )
    monkeypatch.setattr(stock, "__call__", lambda self, **given: seen.update(given))
    pipe()
    assert {name: {**real, **seen}[name] for name in shown} == shown
    with pytest.raises(TypeError, match="positional"):
        pipe("a man", None, 64)


def test_a_subclass_shows_its_own_call_or_the_one_it_has(pipe):
    class Same(MoAPipeline):
        pass

    class Short(MoAPipeline):
        def __call__(self, prompt: str) -> Any:
            return super().__call__(prompt, num_inference_steps=1, output_type="latent")

    assert inspect.signature(Same.__call__) == inspect.signature(MoAPipeline.__call__)
    assert list(inspect.signature(Short.__call__).parameters) == ["self", "prompt"]
    assert torch.isfinite(quiet(Short.from_pipe(pipe))("a man").images).all()
