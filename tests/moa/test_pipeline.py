"""The pipeline against stock diffusers, its subjects, its folder, its errors.    pytest tests/moa/test_pipeline.py"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from moa.adapter import save_adapter
from moa.errors import (
    AdapterGeometryError,
    PersonNotFoundError,
    PipelineFolderError,
    SubjectCountError,
    SubjectError,
    UnsupportedBaseError,
    WordNotFoundError,
    WordTruncatedError,
)
from moa.pipeline import MoAControlNetPipeline, MoAImg2ImgPipeline, MoAInpaintPipeline, MoAPipeline, Subject
from moa.recorder import Recorder
from tests.tiny_models import IMAGE_DIM, IMAGE_SIZE, MAX_TOKENS, tiny_base, tiny_moa_unet, tiny_unet

PROMPT = "a man and a man on a beach"
SCHEDULERS = [
    "UniPCMultistepScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A base model and an adapter that was trained on it, as far as a random one can be."""
    root = tmp_path_factory.mktemp("models")
    tiny_base(root / "base")
    unet = UNet2DConditionModel.from_pretrained(root / "base", subfolder="unet")
    torch.manual_seed(0)
    save_adapter(tiny_moa_unet(unet), root / "adapter", {"step": 5, "inputs": {"base": "sha256:0"}})
    return {"base": root / "base", "adapter": root / "adapter", "root": root}


@pytest.fixture(scope="module")
def loaded(folders) -> MoAPipeline:
    return quiet(MoAPipeline.from_base(folders["base"], folders["adapter"], folders["base"]))


@pytest.fixture
def pipe(loaded) -> MoAPipeline:
    """The same components in a new pipeline: a test may change its scheduler."""
    return quiet(MoAPipeline(**loaded.components, requires_safety_checker=False))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def person(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 16, 4), dtype=np.uint8)
    return Image.fromarray(pixels, "RGBA")


def draw(pipe, prompt, subjects=None, **options) -> torch.Tensor:
    """Images [n, 3, 32, 32] of two steps from seed 0."""
    options = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.manual_seed(0), **options}
    return pipe(prompt, subjects, **options).images if subjects is not None else pipe(prompt, **options).images


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_without_subjects_it_is_the_base_pipeline_bit_for_bit(folders, pipe, name, guidance_scale):
    base = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    kind = getattr(diffusers, name)
    base.scheduler = kind.from_config(base.scheduler.config)
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    expected = draw(base, PROMPT, guidance_scale=guidance_scale)
    for nobody in (None, [], [[]]):
        assert torch.equal(draw(pipe, PROMPT, nobody, guidance_scale=guidance_scale), expected)
    assert not torch.allclose(draw(pipe, PROMPT, [Subject("man", person(1))], guidance_scale=guidance_scale), expected)


def test_prompts_without_subjects_are_the_base_pipelines_in_the_same_batch(pipe):
    prompts = ["a man", "a dog", "a girl and a boy"]
    subjects = [[Subject("man", person(1))], [], [Subject("boy", person(2)), Subject("girl", person(3))]]
    plain = draw(pipe, prompts, num_images_per_prompt=2)
    images = draw(pipe, prompts, subjects, num_images_per_prompt=2)
    changed = [not torch.allclose(a, b, atol=1e-5) for a, b in zip(images, plain, strict=True)]
    assert changed == [True, True, False, False, True, True]
    assert torch.equal(images[2:4], plain[2:4])


def test_the_unconditional_row_runs_the_mixture_without_subjects(pipe):
    """Under guidance, rows 0 to 2 are unconditional, 3 to 5 have the prompts; the second prompt has nobody."""
    prompts, subjects = ["a man", "a dog", "a boy"], [[Subject("man", person(1))], [], [Subject("boy", person(2))]]
    moa = pipe.moa_input(prompts, subjects, guided=True)
    assert moa.active.tolist() == [True, False, True] * 2
    assert (moa.positions[:3] == -1).all() and (moa.positions[3:, 0] >= 0).tolist() == [True, False, True]
    assert pipe.moa_input(prompts, subjects, guided=False).active.tolist() == [True, False, True]


def test_each_subject_goes_to_its_own_word(pipe):
    a, b = person(1), person(2)
    first = draw(pipe, PROMPT, [Subject("man", a), Subject("man", b)])
    swapped = draw(pipe, PROMPT, [Subject("man", b), Subject("man", a)])
    assert not torch.allclose(first, swapped)
    moa = pipe.moa_input(PROMPT, [Subject("man", a), Subject("man", b)], guided=True)
    assert moa.positions.tolist() == [[-1, -1], [2, 5]]
    torch.testing.assert_close(moa.features[1], pipe.encode_subjects([a, b]))
    named = pipe.moa_input("a woman and a man", [Subject("man", a), Subject("woman", b)], guided=False)
    assert named.positions.tolist() == [[5, 2]]


def test_features_do_what_their_image_does_and_can_be_mixed(pipe):
    (a,), (b,) = pipe.encode_subjects([person(1)]), pipe.encode_subjects([person(2)])
    with_image = draw(pipe, "a man", [Subject("man", person(1))])
    assert torch.equal(draw(pipe, "a man", [Subject("man", features=a)]), with_image)
    between = draw(pipe, "a man", [Subject("man", features=torch.lerp(a, b, 0.5))])
    assert not torch.allclose(between, with_image) and torch.isfinite(between).all()


class Cutter:
    """Makes the left half of a photograph transparent, and keeps what errors would call it."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def prepare(self, photograph: Image.Image, name: str) -> Image.Image:
        self.names.append(name)
        cut = photograph.convert("RGBA")
        cut.paste((0, 0, 0, 0), (0, 0, cut.width // 2, cut.height))
        return cut


def test_photographs_are_prepared_and_nothing_else(pipe):
    pipe.preparer = Cutter()
    photograph = person(1).convert("RGB")
    cut = Cutter().prepare(photograph, "")
    subjects = [Subject("man", photograph), Subject("man", person(2)), Subject("boy", photograph, prepare=False)]
    moa = pipe.moa_input(f"{PROMPT} with a boy", subjects, guided=False)
    expected = pipe.encode_subjects([cut, person(2), photograph], prepare=False)
    torch.testing.assert_close(moa.features[0], expected)
    assert not torch.allclose(expected[0], expected[2])
    assert pipe.preparer.names == ["subject 'man'"]
    assert torch.equal(pipe.encode_subjects([photograph]), pipe.encode_subjects([cut]))
    assert MoAImg2ImgPipeline.from_pipe(pipe).preparer is pipe.preparer


def test_a_photograph_without_a_person_says_what_to_do(pipe):
    with pytest.raises(PersonNotFoundError, match="subject 'dog'.*prepare=False"):
        draw(pipe, "a dog", [Subject("dog", Image.new("RGB", (64, 64), "teal"))])


def test_batches_are_ordered_as_diffusers_orders_them(pipe):
    prompts, subjects = ["a man", "a dog"], [[Subject("man", person(1))], [Subject("dog", person(2))]]
    generators = [torch.Generator().manual_seed(s) for s in range(4)]
    together = draw(pipe, prompts, subjects, num_images_per_prompt=2, generator=generators)
    for i, (row, seed) in enumerate([(0, 0), (0, 1), (1, 2), (1, 3)]):
        alone = draw(pipe, prompts[row], subjects[row], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(together[i], alone[0], rtol=0, atol=1e-3)


def test_a_position_takes_the_place_of_the_word(pipe):
    by_word = draw(pipe, "a man", [Subject("man", person(1))])
    assert torch.equal(draw(pipe, "a man", [Subject("he", person(1), position=2)]), by_word)
    assert not torch.allclose(draw(pipe, "a man", [Subject("he", person(1), position=1)]), by_word)
    embeds, negative = pipe.encode_prompt("a man", "cpu", 1, True)
    given = draw(
        pipe, None, [Subject("he", person(1), position=2)], prompt_embeds=embeds, negative_prompt_embeds=negative
    )
    assert torch.equal(given, by_word)


def test_a_recorder_sees_the_conditional_rows_of_every_step(pipe):
    recorder = Recorder(history=True)
    draw(pipe, PROMPT, [Subject("man", person(1)), Subject("man", person(2))], recorder=recorder, num_inference_steps=3)
    assert len(recorder.steps) == 3
    assert recorder.steps[0].timestep > recorder.steps[2].timestep
    assert recorder.steps[0].attention[1].shape == (1, 2, 8, 8)


def test_diffusers_conventions_hold(pipe):
    seen = []

    def callback(_pipe, step, _timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return tensors

    out = pipe(
        "a man",
        [Subject("man", person(1))],
        num_inference_steps=2,
        height=IMAGE_SIZE,
        width=2 * IMAGE_SIZE,
        callback_on_step_end=callback,
        cross_attention_kwargs={},
        return_dict=False,
    )
    assert out[0][0].size == (2 * IMAGE_SIZE, IMAGE_SIZE)
    assert seen == [(0, (1, 4, 8, 16)), (1, (1, 4, 8, 16))]


def test_image_to_image_inpainting_and_controlnet_take_subjects(pipe):
    image, mask = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE), torch.ones(1, 1, IMAGE_SIZE, IMAGE_SIZE)
    control = ControlNetModel.from_unet(
        pipe.unet.to_base_unet(), conditioning_embedding_out_channels=(16, 32, 64)
    ).eval()
    cases = [
        (MoAImg2ImgPipeline.from_pipe(pipe), {"image": image, "strength": 0.9}),
        (MoAInpaintPipeline.from_pipe(pipe), {"image": image, "mask_image": mask, "strength": 0.9}),
        (MoAControlNetPipeline.from_pipe(pipe, controlnet=control), {"image": image}),
    ]
    for kind, options in cases:
        options = {**options, "num_inference_steps": 3}
        plain, swapped = (
            draw(quiet(kind), "a man", **options),
            draw(kind, "a man", [Subject("man", person(1))], **options),
        )
        assert plain.shape == swapped.shape == image.shape
        assert not torch.allclose(plain, swapped)


def test_a_lora_on_the_prior_and_subjects_work_together(folders):
    pipe = quiet(MoAPipeline.from_base(folders["base"], folders["adapter"], folders["base"]))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    torch.manual_seed(0)
    layers = {f"unet.{name}.lora.down.weight": torch.randn(2, 16), f"unet.{name}.lora.up.weight": torch.randn(16, 2)}
    subjects = [Subject("man", person(1))]
    before, plain = draw(pipe, "a man", subjects), draw(pipe, "a man")
    pipe.load_lora_weights(layers)
    assert not torch.allclose(draw(pipe, "a man"), plain)
    assert not torch.allclose(draw(pipe, "a man", subjects), before)
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe, "a man", subjects), before)


def test_save_and_load_give_the_same_pipeline_and_the_same_adapter(folders, loaded, tmp_path):
    loaded.save_pretrained(tmp_path / "full")
    again = quiet(MoAPipeline.from_pretrained(tmp_path / "full"))
    subjects = [Subject("man", person(1)), Subject("man", person(2))]
    assert torch.equal(draw(again, PROMPT, subjects), draw(loaded, PROMPT, subjects))
    for name in ("moa.safetensors", "config.json", "manifest.json"):
        assert (tmp_path / "full/adapter" / name).read_bytes() == (folders["adapter"] / name).read_bytes()
    again.save_pretrained(tmp_path / "full")  # over itself
    assert not list(tmp_path.glob(".*"))
    assert MoAPipeline.from_pretrained(tmp_path / "full").provenance["step"] == 5


@pytest.mark.parametrize("again", ["from the base", "from what was written", "offline"])
def test_the_same_pipeline_is_written_with_the_same_bytes(folders, loaded, tmp_path, monkeypatch, again):
    """An unchanged model is not published twice, whatever the environment it was loaded in."""
    loaded.save_pretrained(tmp_path / "first")
    monkeypatch.setattr("transformers.tokenization_utils_base.is_offline_mode", lambda: again == "offline")
    if again == "from what was written":
        pipe = MoAPipeline.from_pretrained(tmp_path / "first")
    else:
        pipe = MoAPipeline.from_base(folders["base"], folders["adapter"], folders["base"])
    pipe.save_pretrained(tmp_path / "second")
    assert contents(tmp_path / "second") == contents(tmp_path / "first")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stock_diffusers_loads_the_folder_as_the_base_pipeline(folders, loaded, tmp_path):
    loaded.save_pretrained(tmp_path / "full")
    stock = quiet(DiffusionPipeline.from_pretrained(tmp_path / "full"))
    assert type(stock) is StableDiffusionPipeline and type(stock.unet) is UNet2DConditionModel
    assert torch.equal(draw(stock, PROMPT), draw(loaded, PROMPT))


def test_half_precision_on_disk_loads_as_asked(folders, tmp_path):
    half = MoAPipeline.from_base(folders["base"], folders["adapter"], folders["base"], torch_dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    for dtype in (torch.float32, torch.bfloat16):
        pipe = MoAPipeline.from_pretrained(tmp_path / "half", torch_dtype=dtype)
        for part in ("unet", "vae", "text_encoder", "image_encoder"):
            assert {p.dtype for p in getattr(pipe, part).parameters()} == {dtype}, part
    assert MoAPipeline.from_pretrained(tmp_path / "half").unet.dtype == torch.float32


def test_the_scheduler_is_unipc_unless_saved_otherwise(folders, pipe, tmp_path):
    assert type(pipe.scheduler).__name__ == "UniPCMultistepScheduler"
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path)
    assert type(MoAPipeline.from_pretrained(tmp_path).scheduler).__name__ == "DDIMScheduler"


@pytest.mark.parametrize(
    ("prompt", "subjects", "error", "message"),
    [
        ("a dog", [Subject("man", person(1))], WordNotFoundError, "'man' 0 time"),
        ("a man", [Subject("man", person(1))] * 2, WordNotFoundError, "1 time"),
        ("a " * MAX_TOKENS + "man", [Subject("man", person(1))], WordTruncatedError, "'man'"),
        (["a man"], [Subject("man", person(1))], SubjectCountError, "list of prompts"),
        (["a man", "a man"], [[Subject("man", person(1))]], SubjectCountError, "2 prompt.*1 list"),
        ("a man", ["man"], SubjectCountError, "list of Subject"),
        ("a man", Subject("man", person(1)), SubjectCountError, r"give a list, \[Subject"),
        ("a man", [Subject("man", "me.png")], SubjectError, "'man' is a str: give a PIL image"),
        ("a man", [Subject("man", Image.new("RGB", (0, 0)))], SubjectError, "empty"),
        ("a man", [Subject("man", features=torch.full((IMAGE_DIM,), torch.nan))], SubjectError, "NaN"),
        ("a man", [Subject("man", features=torch.zeros(3))], SubjectError, "shape"),
        ("a man", [Subject("man", person(1), position=0)], SubjectError, "position 0"),
        ("a man", [Subject("man", person(1), position=MAX_TOKENS - 1)], SubjectError, "position 31"),
        ("a man", [Subject("man", person(1)), Subject("x", person(2), position=2)], SubjectError, "token 2"),
    ],
)
def test_bad_subjects_are_refused_before_anything_runs(pipe, prompt, subjects, error, message):
    with pytest.raises(error, match=message):
        draw(pipe, prompt, subjects)


def test_prompt_embeds_need_positions(pipe):
    embeds, negative = pipe.encode_prompt("a man", "cpu", 1, True)
    with pytest.raises(SubjectError, match="position"):
        draw(pipe, None, [Subject("man", person(1))], prompt_embeds=embeds, negative_prompt_embeds=negative)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor"])
def test_a_missing_component_is_named(folders, loaded, tmp_path, part):
    loaded.save_pretrained(tmp_path / "full")
    shutil.rmtree(tmp_path / "full" / part)
    with pytest.raises(PipelineFolderError, match=part):
        MoAPipeline.from_pretrained(tmp_path / "full")


def test_other_bad_folders_are_refused(folders, loaded, tmp_path):
    with pytest.raises(PipelineFolderError, match="neither a folder"):
        MoAPipeline.from_pretrained(tmp_path / "nowhere")
    loaded.save_pretrained(tmp_path / "full")
    scheduler = tmp_path / "full/scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "_class_name": "DiffusionPipeline"}))
    with pytest.raises(PipelineFolderError, match="no scheduler"):
        MoAPipeline.from_pretrained(tmp_path / "full")
    sdxl = tmp_path / "sdxl"
    tiny_unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
    ).save_pretrained(sdxl / "unet")
    with pytest.raises(UnsupportedBaseError, match="SDXL.*supports Stable Diffusion 1.x"):
        MoAPipeline.from_base(sdxl, folders["adapter"], folders["base"])
    narrow = tmp_path / "narrow"
    save_adapter(tiny_moa_unet(image_dim=IMAGE_DIM + 8), narrow, {})
    with pytest.raises(AdapterGeometryError, match=f"width {IMAGE_DIM}, the adapter was trained with {IMAGE_DIM + 8}"):
        MoAPipeline.from_base(folders["base"], narrow, folders["base"])
