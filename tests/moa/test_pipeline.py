"""The pipeline against stock diffusers, and its subjects.    pytest tests/moa/test_pipeline.py"""

from __future__ import annotations

import gc
import weakref

import diffusers
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from PIL import Image

from moa.errors import (
    PersonNotFoundError,
    SubjectCountError,
    SubjectError,
    WordNotFoundError,
    WordTruncatedError,
)
from moa.pipeline import MoAImg2ImgPipeline, MoAPipeline, Subject
from moa.preparation import framed
from moa.recorder import Recorder
from tests.moa.pictures import draw, man, person, quiet, stock, tiny_pipeline
from tests.tiny_models import IMAGE_DIM, IMAGE_SIZE, LATENT_SIZE, MAX_TOKENS, TEXT_DIM, tiny_moa_unet, tiny_unet

PROMPT = "a man and a man on a beach"
SCHEDULERS = [
    "UniPCMultistepScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMInverseScheduler",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MoAPipeline:
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def pipe(made: MoAPipeline) -> MoAPipeline:
    """The same components in a new pipeline: a test may change its scheduler."""
    return quiet(MoAPipeline.from_pipe(made))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_without_subjects_it_is_the_base_pipeline_bit_for_bit(pipe, name, guidance_scale):
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    base = stock(pipe)
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


def test_a_single_branch_leaves_prompts_without_subjects_to_the_base_too(pipe):
    pipe = quiet(MoAPipeline.from_pipe(pipe, unet=tiny_moa_unet(tiny_unet(), architecture="single_branch")))
    plain = draw(pipe, ["a man", "a dog"])
    images = draw(pipe, ["a man", "a dog"], [man(), []])
    assert torch.equal(images[1], plain[1]) and not torch.allclose(images[0], plain[0])


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
    assert moa.guided
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


def test_photographs_are_prepared_and_cut_outs_framed(pipe):
    pipe.preparer = Cutter()
    photograph = person(1).convert("RGB")
    cut = Cutter().prepare(photograph, "")
    subjects = [Subject("man", photograph), Subject("man", person(2)), Subject("boy", photograph, prepare=False)]
    moa = pipe.moa_input(f"{PROMPT} with a boy", subjects, guided=False)
    expected = pipe.encode_subjects([cut, framed(person(2)), photograph], prepare=False)
    torch.testing.assert_close(moa.features[0], expected)
    assert not torch.allclose(expected[0], expected[2])
    assert pipe.preparer.names == ["subject 'man'"]
    assert torch.equal(pipe.encode_subjects([photograph]), pipe.encode_subjects([cut], prepare=False))
    assert MoAImg2ImgPipeline.from_pipe(pipe).preparer is pipe.preparer


def test_a_person_is_the_same_on_a_canvas_of_any_size(pipe):
    """Programs that cut people out leave the frame of the photograph around them."""
    frame, wide = Image.new("RGBA", (60, 40)), Image.new("RGBA", (200, 100))
    frame.paste(person(1), (30, 5))
    wide.paste(person(1), (7, 60))
    tight = framed(frame)
    expected = pipe.encode_subjects([tight], prepare=False)
    for image in (tight, frame, wide):
        assert torch.equal(pipe.encode_subjects([image]), expected)
        assert torch.equal(pipe.moa_input("a man", [Subject("man", image)], guided=False).features[0], expected)
    moa = pipe.moa_input("a man", [Subject("man", wide, prepare=False)], guided=False)
    assert torch.equal(moa.features[0], pipe.encode_subjects([wide], prepare=False))
    assert not torch.allclose(moa.features[0], expected)


@pytest.mark.parametrize("prepare", [True, False])
def test_a_cut_out_of_nothing_is_refused(pipe, prepare):
    nothing = Image.new("RGBA", (8, 8), (9, 200, 9, 0))
    with pytest.raises(SubjectError, match="fully transparent"):
        pipe.encode_subjects([nothing], prepare=prepare)
    with pytest.raises(SubjectError, match="fully transparent"):
        draw(pipe, "a man", [Subject("man", nothing, prepare=prepare)])


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


def test_a_lora_on_the_prior_and_subjects_work_together(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    torch.manual_seed(0)
    layers = {f"unet.{name}.lora.down.weight": torch.randn(2, 16), f"unet.{name}.lora.up.weight": torch.randn(16, 2)}
    before, plain = draw(pipe, "a man", man()), draw(pipe, "a man")
    pipe.load_lora_weights(layers)
    assert not torch.allclose(draw(pipe, "a man"), plain)
    assert not torch.allclose(draw(pipe, "a man", man()), before)
    without = draw(pipe, "a man", man(), cross_attention_kwargs={"scale": 0.0})
    assert torch.allclose(without, before, atol=1e-5), "the layers' share is diffusers' option"
    pipe.unload_lora_weights()
    assert torch.equal(draw(pipe, "a man", man()), before)


@pytest.mark.parametrize(
    ("prompt", "subjects", "error", "message"),
    [
        ("a dog", [Subject("man", person(1))], WordNotFoundError, "'man' 0 time"),
        ("a man", [Subject("man", person(1))] * 2, WordNotFoundError, "1 time"),
        ("a " * MAX_TOKENS + "man", [Subject("man", person(1))], WordTruncatedError, "'man'"),
        (["a man"], [Subject("man", person(1))], SubjectCountError, "list of prompts"),
        (["a man", "a man"], [[Subject("man", person(1))]], SubjectCountError, "2 prompt.*1 list"),
        (["a man"], [[Subject("man", person(1))], []], SubjectCountError, "1 prompt.*2 list"),
        ("a man", ["man"], SubjectCountError, "list of Subject"),
        ("a man", Subject("man", person(1)), SubjectCountError, r"give a list, \[Subject"),
        ("a man", person(1), SubjectCountError, "subjects is a Image: give a list of Subject .*by their names"),
        ("a man", torch.zeros(1, 3, 8, 8), SubjectCountError, "subjects is a Tensor"),
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


def test_prompt_embeds_need_positions_and_bind_subjects_finds_them(pipe):
    embeds, negative = pipe.encode_prompt("a man", "cpu", 1, True)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    with pytest.raises(SubjectError, match=r"position, or take bind_subjects"):
        draw(pipe, None, man(), **given)
    assert torch.equal(draw(pipe, None, pipe.bind_subjects("a man", man()), **given), draw(pipe, "a man", man()))


@pytest.mark.parametrize("subjects", [iter(man()), man()[0], person(1)], ids=["a generator", "one", "an image"])
def test_subjects_to_bind_come_in_a_list(pipe, subjects):
    with pytest.raises(SubjectCountError, match="give a list"):
        pipe.bind_subjects("a man", subjects)


@pytest.mark.parametrize("length", [MAX_TOKENS - 20, MAX_TOKENS + 20])
def test_positions_in_prompt_embeds_are_limited_by_their_length(pipe, length):
    embeds = torch.randn(1, length, TEXT_DIM)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": torch.zeros_like(embeds)}
    draw(pipe, None, [Subject("he", person(1), position=length - 1)], **given)
    with pytest.raises(SubjectError, match=f"position {length} is not a token between 1 and {length - 1}"):
        draw(pipe, None, [Subject("he", person(1), position=length)], **given)


def test_words_are_found_where_textual_inversion_puts_them(tmp_path):
    """A learned word of three vectors becomes three tokens before the prompt is encoded."""
    pipe = tiny_pipeline(tmp_path)
    pipe.load_textual_inversion({"<sty>": torch.randn(3, TEXT_DIM)}, token="<sty>")
    moa = pipe.moa_input("a <sty> photo of a man and a <sty>", [*man(), Subject("<sty>", person(2))], guided=False)
    tokens = pipe.tokenizer.tokenize(pipe.maybe_convert_prompt("a <sty> photo of a man and a <sty>", pipe.tokenizer))
    assert [tokens[index - 1] for index in moa.positions[0].tolist()] == ["man</w>", "<sty>_2"]
    assert moa.positions[0, 1] == 4  # its first occurrence


def test_guidance_may_be_switched_off_on_the_way(pipe):
    """As in diffusers' guide to callbacks; the steps before are those of guidance."""
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    cut = {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_index=1, cutoff_step_ratio=None)}
    options = {"num_inference_steps": 4, "output_type": "latent"}
    images = [draw(pipe, "a man", man(), expert_interval=n, **options, **cut) for n in (1, 2)]
    plain, guided = draw(pipe, "a man", **options, **cut), draw(pipe, "a man", man(), **options)
    assert torch.equal(plain, draw(stock(pipe), "a man", **options, **cut))
    assert torch.isfinite(images[0]).all() and not torch.allclose(images[0], guided)
    assert not torch.allclose(images[0], plain) and not torch.equal(*images)


@pytest.mark.parametrize("steps", [1, 2])
def test_clip_skip_takes_an_earlier_layer_of_the_text_encoder(pipe, steps):
    encoder = pipe.text_encoder
    ids = pipe.tokenizer("a man", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        embeds = encoder.final_layer_norm(states[-1 - steps])
    _, negative = pipe.encode_prompt("a man", "cpu", 1, True)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative}
    expected = draw(pipe, None, pipe.bind_subjects("a man", man()), **given)
    assert torch.equal(draw(pipe, "a man", man(), clip_skip=steps), expected)
    assert not torch.allclose(draw(pipe, "a man", man()), expected)
    assert not hasattr(encoder, "text_model")


def test_a_picture_does_not_depend_on_being_recorded(pipe):
    for recorder in (Recorder(), Recorder(history=True)):
        recorded = draw(pipe, "a man", man(), num_inference_steps=4, recorder=recorder)
        assert torch.equal(recorded, draw(pipe, "a man", man(), num_inference_steps=4))
    assert len(recorder.steps) == 4


def test_what_the_expert_computed_does_not_outlive_the_call(pipe, monkeypatch):
    given = []
    prepare = pipe.moa_input
    monkeypatch.setattr(pipe, "moa_input", lambda *a, **b: given.append(weakref.ref(moa := prepare(*a, **b))) or moa)
    draw(pipe, "a man", man(), num_inference_steps=2)
    gc.collect()
    assert given and given[0]() is None
    with pytest.raises(RuntimeError, match="stop"):
        draw(pipe, "a man", man(), num_inference_steps=2, callback_on_step_end=_stop)
    gc.collect()
    assert len(given) == 2 and given[1]() is None


def _stop(*_: object) -> None:
    raise RuntimeError("stop")


def test_a_scheduler_of_second_order_takes_subjects(pipe):
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    assert pipe.moa_input("a man", man(), guided=True).cache.order == 2
    exact, kept = (draw(pipe, "a man", man(), num_inference_steps=4, expert_interval=n) for n in (1, 2))
    assert torch.equal(kept, draw(pipe, "a man", man(), num_inference_steps=4)), "the default"
    assert torch.isfinite(kept).all() and not torch.equal(exact, kept)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "at least one image"),
        (person(1), r"e\.g\. \[image\]"),
        (map(person, [1, 2]), "takes a list"),
        (["me.png"], "a str: give a PIL image"),
    ],
    ids=["none", "no list", "a generator", "a path"],
)
def test_images_to_encode_come_in_a_list(pipe, images, message):
    with pytest.raises(SubjectError, match=message):
        pipe.encode_subjects(images)


@pytest.mark.parametrize("lost", ["subject_encoder", "subject_processor"])
def test_without_an_encoder_subjects_are_features(pipe, lost):
    blind = quiet(MoAPipeline.from_pipe(pipe, **{lost: None}))
    with pytest.raises(SubjectError, match="no subject_encoder.*give features"):
        draw(blind, "a man", man())
    features = pipe.encode_subjects([person(1)])[0]
    assert torch.equal(draw(blind, "a man", [Subject("man", features=features)]), draw(pipe, "a man", man()))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("pt", (1, 3, IMAGE_SIZE, IMAGE_SIZE)),
        ("np", (1, IMAGE_SIZE, IMAGE_SIZE, 3)),
        ("latent", (1, 4, *[LATENT_SIZE] * 2)),
    ],
)
def test_outputs_come_in_every_type_and_as_a_tuple(pipe, kind, shape):
    images = draw(pipe, "a man", man(), output_type=kind)
    assert tuple(images.shape) == shape
    pair = pipe(
        "a man", man(), num_inference_steps=2, output_type=kind, generator=torch.manual_seed(0), return_dict=False
    )
    assert (pair[0] == images).all()


def test_a_call_may_be_interrupted(pipe):
    seen: list[int] = []

    def stop(pipe, step, _timestep, tensors):
        seen.append(step)
        pipe._interrupt = step == 1
        return tensors

    draw(pipe, "a man", man(), num_inference_steps=4, callback_on_step_end=stop)
    assert seen == [0, 1]
