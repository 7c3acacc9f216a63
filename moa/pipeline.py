"""`MoAPipeline`: a Stable Diffusion pipeline that puts given people into the picture.

    pipe = MoAPipeline.from_pretrained("runs/demo/pipeline")
    pipe("a man and a woman on a beach", [Subject("man", photo_a), Subject("woman", photo_b)]).images[0]

Without subjects it is the base pipeline, bit for bit: choose an image by its content first, then give the subjects with
the same seed and the content stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTokenizer, CLIPVisionModelWithProjection

from moa.conditioning import MoAInput
from moa.errors import PipelineOptionError, SubjectError
from moa.expert_cache import ExpertCache
from moa.pipeline_components import SubjectComponents
from moa.preparation import PortraitPreparer, SubjectPreparer, prepared
from moa.recorder import Recorder
from moa.subject_rows import find_tokens, given_tokens, group_subjects, input_rows
from moa.subjects import Subject, check_features, check_image, encoder_pixels, image_features, upright
from moa.unet import MoAUNet2DConditionModel

__all__ = ["INVERTIBLE", "MoAControlNetPipeline", "MoAImg2ImgPipeline", "MoAInpaintPipeline", "MoAPipeline", "Subject"]

INVERTIBLE = {"timestep_spacing": "trailing", "clip_sample": False}  # of a `DDIMScheduler`, for `MoAPipeline.invert`
EXPERT_INTERVAL = 2  # LOG.md: images are not told from those of every step, and a guided step is a sixth cheaper


class SubjectsMixin(SubjectComponents):
    """`subjects=` for a Stable Diffusion pipeline whose `unet` is a `MoAUNet2DConditionModel`."""

    unet: MoAUNet2DConditionModel
    tokenizer: CLIPTokenizer
    scheduler: Any
    subject_encoder: CLIPVisionModelWithProjection | None
    subject_processor: CLIPImageProcessor | None
    preparer: SubjectPreparer = PortraitPreparer()  # cuts people out of photographs; may be replaced
    _execution_device: torch.device

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        subjects: Sequence[Subject] | Sequence[Sequence[Subject]] | None = None,
        *,
        recorder: Recorder | None = None,
        expert_interval: int = EXPERT_INTERVAL,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Generate images; `options` are those of the diffusers pipeline this one extends.

        subjects    for one prompt its subjects, for a list of prompts one list each. A subject's word must occur in its
                    prompt; the n-th subject of a word takes its n-th occurrence. None or empty: the base model's image.
                    People are cut out of photographs by `preparer`; a cut-out (RGBA) is cropped to what can be seen
                    of it, with the margin of the training's crops, unless it is such a crop.
        recorder    collects router and attention maps (`Recorder(history=True)` for all steps)
        expert_interval     the personalization expert is computed on every n-th step and its last output mixed in on
                    the others; 1: on every step, as in the paper
        prompt_embeds       hold no words: subjects need positions, which `bind_subjects` finds

        num_inference_steps, height, width, generator, output_type, callback_on_step_end and so on: as in diffusers.
        Raises `SubjectError`, `PersonNotFoundError`, `SubjectCountError`, `WordNotFoundError`, `WordTruncatedError`,
        `ConditioningError`.
        """
        moa = self.moa_input(
            prompt,
            subjects,
            guided=guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None,
            num_images_per_prompt=num_images_per_prompt,
            prompt_embeds=prompt_embeds,
            recorder=recorder,
            expert_interval=expert_interval,
        )
        if moa is not None:
            cross_attention_kwargs = {**(cross_attention_kwargs or {}), "moa": moa}
        try:
            return super().__call__(  # type: ignore[misc]
                prompt=prompt,
                guidance_scale=guidance_scale,
                num_images_per_prompt=num_images_per_prompt,
                prompt_embeds=prompt_embeds,
                cross_attention_kwargs=cross_attention_kwargs,
                **options,
            )
        finally:
            self._cross_attention_kwargs = None  # diffusers keeps it, and with it the expert's outputs

    def moa_input(
        self,
        prompt: str | Sequence[str] | None,
        subjects: Sequence[Subject] | Sequence[Sequence[Subject]] | None,
        *,
        guided: bool,
        num_images_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        recorder: Recorder | None = None,
        expert_interval: int = EXPERT_INTERVAL,
    ) -> MoAInput | None:
        """The subjects as the U-Net wants them, on its device (`moa.subject_rows`); None when there are none.

        One input serves one call of a pipeline: it carries the expert's outputs from step to step. Raises what
        `__call__` raises.
        """
        if prompt_embeds is not None:
            groups = group_subjects(subjects, len(prompt_embeds), single=len(prompt_embeds) == 1)
            tokens = [given_tokens(group, prompt_embeds.shape[1]) for group in groups]
        else:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
            groups = group_subjects(subjects, len(prompts), single=isinstance(prompt, str))
            tokens = [self._tokens(text, group) if group else [] for text, group in zip(prompts, groups, strict=True)]
        if not any(groups):
            return None
        cache = ExpertCache(expert_interval, order=self.scheduler.order)
        return input_rows(
            tokens,
            self._features([subject for group in groups for subject in group]).to(self.unet.dtype),
            device=self._execution_device,
            images_per_prompt=num_images_per_prompt,
            guided=guided,
            recorder=recorder,
            cache=cache,
        )

    def bind_subjects(self, prompt: str, subjects: Sequence[Subject]) -> list[Subject]:
        """The subjects of a prompt with the positions of their words in it: for a call with `prompt_embeds`.

        Raises `WordNotFoundError`, `WordTruncatedError`, `SubjectCountError` and `SubjectError`.
        """
        (subjects,) = group_subjects(subjects, prompts=1, single=True)
        tokens = self._tokens(prompt, subjects)
        return [replace(subject, position=token) for subject, token in zip(subjects, tokens, strict=True)]

    @torch.no_grad()
    def encode_subjects(self, images: Sequence[Image.Image], *, prepare: bool = True) -> Tensor:
        """Image features [n, image_dim] of n subjects, fp32, CPU: to keep, mix, or give as `Subject(features=)`.

        With `prepare`, people are cut out of photographs first, and cut-outs cropped as in `__call__`. Raises
        `SubjectError` and `PersonNotFoundError`.
        """
        if not isinstance(images, Sized) or not len(images):
            raise SubjectError("encode_subjects takes a list of at least one image, e.g. [image]")
        if self.subject_encoder is None or self.subject_processor is None:
            raise SubjectError(
                "this pipeline has no subject_encoder to see images with: give features, or load it with one"
            )
        if prepare:
            images = [self._prepared(image, f"image {n} of the subjects") for n, image in enumerate(images)]
        pixels = encoder_pixels(images, self.subject_processor)
        pixels = pixels.to(self._execution_device, self.subject_encoder.dtype)
        return image_features(self.subject_encoder, pixels).float().cpu()

    def encode_prompt(self, *args: Any, clip_skip: int | None = None, **options: Any) -> Any:
        """As in diffusers, whose `clip_skip` does not know the text encoder of transformers 5."""
        if clip_skip is None:
            return super().encode_prompt(*args, **options)  # type: ignore[misc]
        with _named_as_before(self.text_encoder):  # type: ignore[attr-defined]
            return super().encode_prompt(*args, clip_skip=clip_skip, **options)  # type: ignore[misc]

    def _tokens(self, prompt: str, subjects: Sequence[Subject]) -> list[int]:
        """Token index of each subject, in the text that is encoded: textual inversion makes several words of one."""
        convert: Any = self.maybe_convert_prompt  # type: ignore[attr-defined]
        words = [convert(subject.word, self.tokenizer) for subject in subjects]
        return find_tokens(self.tokenizer, convert(prompt, self.tokenizer), words, subjects)

    def _prepared(self, image: Image.Image, name: str) -> Image.Image:
        check_image(image, name)
        return prepared(image, self.preparer, name)

    def _features(self, subjects: list[Subject]) -> Tensor:
        """[n, image_dim], fp32; all images are encoded in one batch."""
        images = [
            self._prepared(s.image, f"subject {s.word!r}") if s.prepare else s.image
            for s in subjects
            if s.image is not None
        ]
        encoded = iter(self.encode_subjects(images, prepare=False) if images else ())
        rows = [subject.features if subject.features is not None else next(encoded) for subject in subjects]
        dim = self.unet.moa_config.image_dim
        return torch.stack([check_features(row, dim, s.word) for row, s in zip(rows, subjects, strict=True)])


class MoAPipeline(SubjectsMixin, StableDiffusionPipeline):
    """Text and subjects to images."""

    @torch.no_grad()
    def invert(self, image: Image.Image, prompt: str, *, num_inference_steps: int = 50) -> Tensor:
        """The noise [1, C, h, w] that the base model turns into `image`: DDIM inversion, without guidance or subjects.

            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **INVERTIBLE)
            noise = pipe.invert(photograph, "a woman")
            pipe("a woman", [Subject("woman", somebody)], latents=noise, guidance_scale=1, num_inference_steps=50)

        The way back takes the same scheduler and number of steps; without subjects it makes `image` again, the better
        the more steps. The image is taken at its own size, so bring it to that of the model first. Raises
        `SubjectError` for what is no image, `PipelineOptionError` for a scheduler whose steps cannot be undone.
        """
        config = self.scheduler.config
        if not isinstance(self.scheduler, DDIMScheduler) or config.clip_sample or config.timestep_spacing == "linspace":
            raise PipelineOptionError(
                "invert undoes the steps of DDIM, without clipping: first set pipe.scheduler = DDIMScheduler"
                ".from_config(pipe.scheduler.config, **INVERTIBLE), with INVERTIBLE from moa.pipeline"
            )
        check_image(image, "the image to invert")
        pixels = self.image_processor.preprocess(upright(image))
        latents = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype)).latent_dist.mode()
        shared = {name: config[name] for name in signature(DDIMInverseScheduler).parameters if name in config}
        inverse = MoAPipeline.from_pipe(self, scheduler=DDIMInverseScheduler(**shared))
        inverse.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        return inverse(
            prompt,
            latents=(latents * self.vae.config.scaling_factor).to(self.unet.dtype),
            guidance_scale=1.0,
            num_inference_steps=num_inference_steps,
            output_type="latent",
        ).images


class MoAImg2ImgPipeline(SubjectsMixin, StableDiffusionImg2ImgPipeline):
    """Image to image with subjects."""


class MoAInpaintPipeline(SubjectsMixin, StableDiffusionInpaintPipeline):
    """Inpainting with subjects."""


class MoAControlNetPipeline(SubjectsMixin, StableDiffusionControlNetPipeline):
    """Pose control with subjects: `from_pretrained(folder, controlnet=...)` or `from_pipe(pipe, controlnet=...)`."""


@contextmanager
def _named_as_before(encoder: nn.Module) -> Iterator[None]:
    """diffusers 0.42 looks for the last norm in `text_model`, which transformers 5 has made one with the encoder."""
    if hasattr(encoder, "text_model"):
        yield
        return
    vars(encoder)["text_model"] = encoder  # no submodule: it would contain itself
    try:
        yield
    finally:
        del vars(encoder)["text_model"]
