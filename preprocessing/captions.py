"""Captioners: frames -> one caption each. `sidecar` reads it, `template` repeats it, `blip2` looks at the image."""

from __future__ import annotations

import re
from typing import Any, Protocol

from PIL import Image

from preprocessing.config import Blip2Captions, CaptionsConfig, TemplateCaptions
from preprocessing.errors import MissingDependencyError
from preprocessing.frame import Frame


class Captioner(Protocol):
    """Says what is in an image."""

    def caption(self, frames: list[Frame]) -> list[str]:
        """One caption for each frame, in order; an empty string where there is nothing to say."""
        ...


class SidecarCaptioner:
    """The caption that lies beside the image; loading has checked that it is there."""

    def caption(self, frames: list[Frame]) -> list[str]:
        return [tidy(frame.annotation.caption or "") for frame in frames]


class TemplateCaptioner:
    """The same caption for every image."""

    def __init__(self, config: TemplateCaptions) -> None:
        self._text = tidy(config.text)

    def caption(self, frames: list[Frame]) -> list[str]:
        return [self._text] * len(frames)


class Blip2Captioner:
    """BLIP-2, greedy decoding, so captions are the same on every run on one machine.

    bfloat16 on a GPU (float16 overflows in Flan-T5), float32 on a CPU. Images are processed by Pillow, so that captions
    do not depend on whether torchvision is installed.
    """

    def __init__(self, config: Blip2Captions, device: str) -> None:
        import torch
        from transformers import Blip2ForConditionalGeneration, Blip2Processor

        from preprocessing.weights import load_pretrained

        self._config, self._device = config, torch.device(device)
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._processor = load_pretrained(Blip2Processor.from_pretrained, config.model, backend="pil")
        model: Any = load_pretrained(
            Blip2ForConditionalGeneration.from_pretrained,
            config.model,
            dtype=dtype,
            use_safetensors=True,
        )
        _add_image_token(self._processor, model)
        self._model = model.to(self._device).eval()

    def caption(self, frames: list[Frame]) -> list[str]:
        from preprocessing.weights import in_batches

        return in_batches(self._batch, [Image.fromarray(frame.image) for frame in frames], self._config.batch_size)

    def _batch(self, images: list[Image.Image]) -> list[str]:
        import torch

        prompts = [self._config.prompt] * len(images)
        inputs = self._processor(images=images, text=prompts, return_tensors="pt").to(self._device, self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self._config.max_new_tokens
            )
        if not self._model.config.text_config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # a decoder answers with image and prompt tokens first
        return [tidy(text) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def load_captioner(config: CaptionsConfig, device: str) -> Captioner:
    """The captioner of a declaration, ready to work. Raises MissingWeightsError, MissingDependencyError."""
    if isinstance(config, Blip2Captions):
        try:
            return Blip2Captioner(config, device)
        except ImportError as error:
            raise MissingDependencyError(f"captions.kind blip2 needs torch and transformers: {error}") from error
    return TemplateCaptioner(config) if isinstance(config, TemplateCaptions) else SidecarCaptioner()


def tidy(caption: str) -> str:
    """One line, single spaces, no full stop at the end."""
    return re.sub(r"\s+", " ", caption).strip().removesuffix(".").rstrip()


def _add_image_token(processor: Any, model: Any) -> None:
    """Checkpoints from before transformers 4.46 know neither the number of query tokens nor an image token."""
    if processor.num_query_tokens is None:
        processor.num_query_tokens = model.config.num_query_tokens
    token = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    if model.config.image_token_index != token:
        model.config.image_token_index = token
    if token >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(processor.tokenizer), pad_to_multiple_of=64)
