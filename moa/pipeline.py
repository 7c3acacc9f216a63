"""`MoAPipeline`: a Stable Diffusion pipeline that puts given people into the picture.

    pipe = MoAPipeline.from_pretrained("runs/demo/pipeline")
    pipe("a man and a woman on a beach", [Subject("man", photo_a), Subject("woman", photo_b)]).images[0]

Without subjects it is the base pipeline, bit for bit: choose an image by its content first, then give the subjects with
the same seed and the content stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPTokenizer, CLIPVisionModelWithProjection

from moa.binding import bind, find_words
from moa.conditioning import MoAInput
from moa.errors import SubjectCountError, SubjectError
from moa.expert_cache import ExpertCache
from moa.pipeline_folder import PipelineParts, read_base, read_pipeline, write_pipeline
from moa.preparation import PortraitPreparer, SubjectPreparer, is_photograph
from moa.recorder import Recorder
from moa.subjects import Subject, check_features, check_image, encoder_pixels, image_features
from moa.unet import MoAUNet2DConditionModel

__all__ = ["MoAControlNetPipeline", "MoAImg2ImgPipeline", "MoAInpaintPipeline", "MoAPipeline", "Subject"]


EXPERT_INTERVAL = 2  # LOG.md: images are not told from those of every step, and a guided step is a sixth cheaper


class SubjectsMixin:
    """`subjects=` for a Stable Diffusion pipeline whose `unet` is a `MoAUNet2DConditionModel`."""

    unet: MoAUNet2DConditionModel
    tokenizer: CLIPTokenizer
    image_encoder: CLIPVisionModelWithProjection
    feature_extractor: CLIPImageProcessor
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
                    People are cut out of photographs by `preparer`; cut-outs (RGBA) are taken as they are.
        recorder    collects router and attention maps (`Recorder(history=True)` for all steps)
        expert_interval     the personalization expert is computed on every n-th step and its last output mixed in on
                    the others; 1: on every step, as in the paper. A recorder of attention maps gets every step

        num_inference_steps, height, width, generator, output_type, callback_on_step_end and so on: as in diffusers.
        Raises `SubjectError`, `PersonNotFoundError`, `SubjectCountError`, `WordNotFoundError`, `WordTruncatedError`,
        `ConditioningError`.
        """
        guided = guidance_scale > 1 and self.unet.config.time_cond_proj_dim is None
        moa = self.moa_input(
            prompt if prompt_embeds is None else _unnamed(len(prompt_embeds)),
            subjects,
            guided=guided,
            num_images_per_prompt=num_images_per_prompt,
            recorder=recorder,
            expert_interval=expert_interval,
        )
        if moa is not None:
            cross_attention_kwargs = {**(cross_attention_kwargs or {}), "moa": moa}
        return super().__call__(  # type: ignore[misc]
            prompt=prompt,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            prompt_embeds=prompt_embeds,
            cross_attention_kwargs=cross_attention_kwargs,
            **options,
        )

    def moa_input(
        self,
        prompt: str | Sequence[str | None] | None,
        subjects: Sequence[Subject] | Sequence[Sequence[Subject]] | None,
        *,
        guided: bool,
        num_images_per_prompt: int = 1,
        recorder: Recorder | None = None,
        expert_interval: int = EXPERT_INTERVAL,
    ) -> MoAInput | None:
        """The subjects as the U-Net wants them; None when there are none.

        Rows are ordered as diffusers orders them: the images of a prompt together, and under guidance the
        unconditional half first. It has no subjects and runs the mixture, as it did in training: guidance then
        amplifies what prompt and subjects say, not what the mixture has learnt of its training pictures. Both rows of
        a prompt without subjects run the prior only. One input serves one call of a pipeline: it carries the expert's
        outputs from step to step. Raises `ConditioningError` for an interval below 1.
        """
        prompts: list[str | None] = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        groups = _subjects_per_prompt(subjects, prompts, single=prompt is None or isinstance(prompt, str))
        if not any(groups):
            return None
        slots = max(map(len, groups))
        features = torch.zeros(len(groups), slots, self.unet.moa_config.image_dim)
        positions = torch.full((len(groups), slots), -1)
        for row, (text, group) in enumerate(zip(prompts, groups, strict=True)):
            positions[row, : len(group)] = torch.tensor(self._positions(text, group), dtype=torch.long)
        filled = positions >= 0
        features[filled] = self._features([subject for group in groups for subject in group])
        active = filled.any(dim=1)
        rows = torch.arange(len(groups)).repeat_interleave(num_images_per_prompt)
        features, positions, active = features[rows], positions[rows], active[rows]
        if guided:
            features = torch.cat([features] * 2)
            positions = torch.cat([torch.full_like(positions, -1), positions])
            active = torch.cat([active] * 2)
        device = self._execution_device
        features, positions = features.to(device, self.unet.dtype), positions.to(device)
        cache = ExpertCache(1 if recorder is not None and recorder.subject_columns else expert_interval)
        return MoAInput(features, positions, active, recorder, cache)

    @classmethod
    def from_pipe(cls, pipeline: Any, **options: Any) -> Any:
        """This kind of pipeline with the components of another; `options` as in diffusers, e.g. `controlnet=`."""
        pipe = super().from_pipe(pipeline, unet=pipeline.unet, **options)  # type: ignore[misc]
        pipe.preparer = getattr(pipeline, "preparer", cls.preparer)
        return pipe

    def unload_ip_adapter(self) -> None:
        """As in diffusers, except that the image encoder stays: the subjects need it."""
        encoder = self.image_encoder
        super().unload_ip_adapter()  # type: ignore[misc]
        self.register_modules(image_encoder=encoder)  # type: ignore[attr-defined]

    @torch.no_grad()
    def encode_subjects(self, images: Sequence[Image.Image], *, prepare: bool = True) -> Tensor:
        """Image features [n, image_dim] of n subjects, fp32, CPU: to keep, mix, or give as `Subject(features=)`.

        With `prepare`, people are cut out of photographs first. Raises `SubjectError` and `PersonNotFoundError`.
        """
        if prepare:
            images = [self._prepared(image, f"image {n} of the subjects") for n, image in enumerate(images)]
        pixels = encoder_pixels(images, self.feature_extractor)
        pixels = pixels.to(self._execution_device, self.image_encoder.dtype)
        return image_features(self.image_encoder, pixels).float().cpu()

    def _prepared(self, image: Image.Image, name: str) -> Image.Image:
        check_image(image, name)
        return self.preparer.prepare(image, name) if is_photograph(image) else image

    def _features(self, subjects: list[Subject]) -> Tensor:
        """[n, image_dim]; all images are encoded in one batch."""
        images = [
            self._prepared(s.image, f"subject {s.word!r}") if s.prepare else s.image
            for s in subjects
            if s.image is not None
        ]
        encoded = iter(self.encode_subjects(images, prepare=False) if images else ())
        rows = [subject.features if subject.features is not None else next(encoded) for subject in subjects]
        dim = self.unet.moa_config.image_dim
        return torch.stack(
            [check_features(row, dim, s.word).float().cpu() for row, s in zip(rows, subjects, strict=True)]
        )

    def _positions(self, prompt: str | None, subjects: Sequence[Subject]) -> list[int]:
        """Token index of each subject of one prompt."""
        words = [subject.word for subject in subjects if subject.position is None]
        if words and prompt is None:
            raise SubjectError(f"subject {words[0]!r}: prompt_embeds hold no words to find it in, give its position")
        found = iter(bind(self.tokenizer, prompt, find_words(prompt, words)) if prompt is not None else ())
        positions = [next(found) if s.position is None else s.position for s in subjects]
        last = self.tokenizer.model_max_length - 1
        for subject, position in zip(subjects, positions, strict=True):
            if not 0 < position < last:
                raise SubjectError(
                    f"subject {subject.word!r}: position {position} is not a token between 1 and {last - 1}"
                )
            if positions.count(position) > 1:
                raise SubjectError(f"subject {subject.word!r}: another subject is bound to token {position} as well")
        return positions


class MoAPipeline(SubjectsMixin, StableDiffusionPipeline):
    """Text and subjects to images. `components` are those of `StableDiffusionPipeline`."""

    provenance: dict[str, Any] = {}  # of the adapter in use, written back by `save_pretrained`

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        endpoint: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        torch_dtype: torch.dtype = torch.float32,
    ) -> MoAPipeline:
        """Load what `save_pretrained` wrote: a local folder, or a Hub repository at `revision`.

        Runs no code from the repository and reads no pickle. Weights stored as fp16 are loaded as `torch_dtype`.
        Raises `PipelineFolderError` and `AdapterError`.
        """
        parts = read_pipeline(
            folder_or_repo,
            revision=revision,
            endpoint=endpoint,
            cache_dir=cache_dir,
            token=token,
            torch_dtype=torch_dtype,
        )
        return cls._from_parts(parts)

    @classmethod
    def from_base(
        cls,
        base_folder: str | Path,
        adapter_folder: str | Path,
        image_encoder_folder: str | Path,
        *,
        torch_dtype: torch.dtype = torch.float32,
    ) -> MoAPipeline:
        """Put an adapter on a Stable Diffusion folder; the scheduler becomes UniPC with the base's noise schedule.

        `image_encoder_folder` holds a CLIP model and its image processor, or `image_encoder/` and `feature_extractor/`.
        Raises `PipelineFolderError`, `AdapterError`, `AdapterGeometryError` and `UnsupportedBaseError`.
        """
        return cls._from_parts(read_base(base_folder, adapter_folder, image_encoder_folder, torch_dtype=torch_dtype))

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Write a folder `from_pretrained` reads back; `options` are those of diffusers.

        It is a plain Stable Diffusion folder, which stock diffusers loads as the base pipeline, with `image_encoder/`
        and the MoA weights in `adapter/`. Components keep their precision, the adapter is fp16.
        """
        write_pipeline(self, Path(save_directory), self.provenance, **options)

    @classmethod
    def _from_parts(cls, parts: PipelineParts) -> MoAPipeline:
        pipe = cls(**parts.components, requires_safety_checker=parts.requires_safety_checker)
        pipe.provenance = parts.provenance
        return pipe


class MoAImg2ImgPipeline(SubjectsMixin, StableDiffusionImg2ImgPipeline):
    """Image to image with subjects: `MoAImg2ImgPipeline.from_pipe(pipe)`."""


class MoAInpaintPipeline(SubjectsMixin, StableDiffusionInpaintPipeline):
    """Inpainting with subjects: `MoAInpaintPipeline.from_pipe(pipe)`."""


class MoAControlNetPipeline(SubjectsMixin, StableDiffusionControlNetPipeline):
    """Pose control with subjects: `MoAControlNetPipeline.from_pipe(pipe, controlnet=controlnet)`."""


def _unnamed(count: int) -> list[None] | None:
    """Stands for `count` prompts given as embeddings: a lone one is a single prompt, like a `str`."""
    return None if count == 1 else [None] * count


def _subjects_per_prompt(subjects: Any, prompts: list[Any], single: bool) -> list[list[Subject]]:
    """One list of subjects for each prompt; raises `SubjectCountError` when they do not match."""
    if isinstance(subjects, Subject):
        raise SubjectCountError(f"subjects is a single Subject ({subjects.word!r}): give a list, [Subject(...)]")
    if not subjects:
        return [[] for _ in prompts]
    groups = [list(subjects)] if single and all(isinstance(s, Subject) for s in subjects) else list(subjects)
    if not all(isinstance(g, list | tuple) and all(isinstance(s, Subject) for s in g) for g in groups):
        raise SubjectCountError(
            "for one prompt give a list of Subject, for a list of prompts one list of Subject each (it may be empty)"
        )
    if len(groups) != len(prompts):
        raise SubjectCountError(f"{len(prompts)} prompt(s) but {len(groups)} list(s) of subjects: give one per prompt")
    return [list(group) for group in groups]
