"""The paper's applications with the pipeline's own calls, and the page that shows them.

docs/applications.md is run as it stands, on the shipped models; what tiny random models show exactly is shown here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, EulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from moa.errors import PipelineOptionError, SubjectError
from moa.pipeline import INVERTIBLE, MoAControlNetPipeline, MoAPipeline, Subject, SubjectsMixin
from tests.moa.pictures import draw, man, person, quiet, stock, tiny_pipeline
from tests.tiny_models import IMAGE_SIZE

PROJECT = Path(__file__).parents[2]
BOTH = "a man and a woman on a beach"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> MoAPipeline:
    """Not to be changed."""
    return tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_an_image_of_a_gallery_is_made_again_by_its_seed_with_whom_one_likes(pipe):
    gallery = draw(pipe, "a man", num_images_per_prompt=3, generator=seeds(0, 1, 2))
    again = draw(pipe, "a man", generator=seeds(1))
    torch.testing.assert_close(again[0], gallery[1], rtol=0, atol=1e-4)
    assert not torch.allclose(draw(pipe, "a man", man(), generator=seeds(1)), again)


def test_casts_of_a_prompt_come_in_one_batch(pipe):
    """Nobody, one of the two, both, another one: each as it would be alone, and each different."""
    first, other = Subject("man", person(1)), Subject("man", person(2))
    casts = [[], [first], [Subject("woman", person(3))], [first, Subject("woman", person(3))], [other]]
    together = draw(pipe, [BOTH] * 5, casts, generator=seeds(*[4] * 5))
    for number, cast in enumerate(casts):
        torch.testing.assert_close(
            together[number], draw(pipe, BOTH, cast, generator=seeds(4))[0], rtol=0, atol=1e-3, msg=str(number)
        )
        assert not any(torch.allclose(together[number], image, atol=1e-3) for image in together[:number])


def test_a_morph_begins_and_ends_with_the_two_people_and_moves_on_in_between(pipe):
    first, last = pipe.encode_subjects([person(1), person(2)])
    between = [[Subject("man", features=torch.lerp(first, last, share))] for share in torch.linspace(0, 1, 5)]
    images = draw(pipe, ["a man"] * 5, between, generator=seeds(*[0] * 5))
    for image, seed in ((images[0], 1), (images[-1], 2)):
        torch.testing.assert_close(image, draw(pipe, "a man", man(seed))[0], rtol=0, atol=1e-3)
    moved = (images - images[0]).abs().mean(dim=(1, 2, 3))
    assert (moved.diff() > 0).all()


def test_a_time_lapse_begins_and_ends_with_the_two_words(pipe):
    young, nothing = pipe.encode_prompt("a boy", "cpu", 1, True)
    old, _ = pipe.encode_prompt("a man", "cpu", 1, False)
    who = pipe.bind_subjects("a man", man())

    def drawn(share: float) -> Tensor:
        text = torch.lerp(young, old, share)
        return draw(pipe, None, who, prompt_embeds=text, negative_prompt_embeds=nothing)

    assert torch.equal(drawn(0), draw(pipe, "a boy", [Subject("boy", person(1))]))
    assert torch.equal(drawn(1), draw(pipe, "a man", man()))
    assert not any(torch.allclose(drawn(0.5), drawn(end)) for end in (0, 1))


@pytest.fixture
def editor(pipe: MoAPipeline) -> MoAPipeline:
    return quiet(MoAPipeline.from_pipe(pipe, scheduler=DDIMScheduler.from_config(pipe.scheduler.config, **INVERTIBLE)))


def photograph() -> Image.Image:
    """Of smooth colours, which the random autoencoder takes for any other picture."""
    y, x = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] * (255 / IMAGE_SIZE)
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def latents(pipe: MoAPipeline) -> Tensor:
    """What the autoencoder makes of the photograph, as the U-Net sees it."""
    pixels = pipe.image_processor.preprocess(photograph())
    with torch.no_grad():
        return pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor


def test_the_base_makes_an_inverted_photograph_again_the_better_the_more_steps(tmp_path):
    """Also the stock pipeline does, from the same noise; subjects do not. A trained model's noise changes slowly from
    step to step, which a random one's does only where it is small."""
    smooth = tiny_pipeline(tmp_path)
    with torch.no_grad():
        for parameter in smooth.unet.conv_out.parameters():
            parameter.mul_(0.03)
    config = smooth.scheduler.config
    editor = quiet(MoAPipeline.from_pipe(smooth, scheduler=DDIMScheduler.from_config(config, **INVERTIBLE)))
    errors = []
    for steps in (10, 100):
        back = {"guidance_scale": 1, "num_inference_steps": steps, "output_type": "latent"}
        noise = editor.invert(photograph(), "a man", num_inference_steps=steps)
        again = draw(editor, "a man", latents=noise, **back)
        errors.append(((again - latents(editor)).norm() / latents(editor).norm()).item())
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.05, errors
    assert torch.equal(draw(stock(editor), "a man", latents=noise, **back), again)
    changed = draw(editor, "a man", man(), latents=noise, **back)
    assert (changed - again).norm() > 10 * errors[1] * again.norm()


def test_inversion_sees_the_photograph_as_it_is_meant(editor):
    turned = photograph().transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # as a phone stores it: turn by 90 degrees to look at it
    expected = editor.invert(photograph(), "a man", num_inference_steps=2)
    assert torch.equal(editor.invert(turned, "a man", num_inference_steps=2), expected)
    assert torch.equal(editor.invert(photograph().convert("RGBA"), "a man", num_inference_steps=2), expected)
    assert type(editor.scheduler) is DDIMScheduler
    with pytest.raises(SubjectError, match="the image to invert is a str"):
        editor.invert("me.png", "a man")


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda config: EulerDiscreteScheduler.from_config(config),
        lambda config: DDIMScheduler.from_config(config, **{**INVERTIBLE, "clip_sample": True}),
        lambda config: DDIMScheduler.from_config(config, **{**INVERTIBLE, "timestep_spacing": "linspace"}),
    ],
    ids=["no DDIM", "clipping", "spacing"],
)
def test_steps_that_cannot_be_undone_are_refused(pipe, scheduler):
    other = MoAPipeline.from_pipe(pipe)
    other.scheduler = scheduler(pipe.scheduler.config)  # diffusers' constructor would switch clipping off
    with pytest.raises(PipelineOptionError, match=r"DDIMScheduler\.from_config\(.*INVERTIBLE"):
        other.invert(photograph(), "a man")


def test_a_pose_moves_the_prior_and_subjects_stay_exchangeable(pipe):
    torch.manual_seed(0)
    control = ControlNetModel.from_unet(pipe.unet.to_base_unet(), conditioning_embedding_out_channels=(16, 32, 64))
    for layer in (control.controlnet_cond_embedding.conv_out, *control.controlnet_down_blocks):  # zero in a new one
        torch.nn.init.normal_(layer.weight)
    posed = quiet(MoAControlNetPipeline.from_pipe(pipe, controlnet=control))
    white, black = (Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), colour) for colour in ("white", "black"))
    images = [draw(posed, "a man", who, image=pose) for pose in (white, black) for who in (None, man(1), man(2))]
    assert not any(torch.allclose(a, b, atol=1e-3) for n, a in enumerate(images) for b in images[:n])
    off = draw(posed, "a man", man(), image=white, controlnet_conditioning_scale=0.0)
    torch.testing.assert_close(off, draw(pipe, "a man", man()), rtol=0, atol=1e-4)


def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("applications", PROJECT / "docs/applications.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_fewer_steps(call: Callable[..., Any]) -> Callable[..., Any]:
    def fewer(*arguments: Any, num_inference_steps: int, **options: Any) -> Any:
        return call(*arguments, num_inference_steps=num_inference_steps // 4, **options)

    return fewer


def distance(a: Any, b: Any) -> float:
    """Mean difference of two pictures, 0 to 255."""
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())


@pytest.mark.slow
def test_the_page_does_what_it_says(monkeypatch):
    """In a quarter of its steps: the picture beside it is of all."""
    monkeypatch.setattr(SubjectsMixin, "__call__", in_fewer_steps(SubjectsMixin.__call__))
    monkeypatch.chdir(PROJECT)
    module = page()
    made = module.run()
    rows = {name: made[name] for name in module.ROWS if name != "people"}
    for name, images in rows.items():
        assert len(images) > 1 and all(image.size == (64, 64) for image in images), name
        assert min(distance(a, b) for n, a in enumerate(images) for b in images[:n]) > 0.5, name
    photo, again, *others = rows["edited"]
    assert distance(again, photo) < min(distance(other, photo) for other in others)
    plain, _, comic, _ = rows["styled"]
    assert distance(plain, comic) > 5
    picture = module.sheet({label: made[name] for name, label in module.ROWS.items()})
    with Image.open(PROJECT / "docs/applications.png") as shown:
        assert shown.size == picture.size  # drawn from this page, and not an earlier one
