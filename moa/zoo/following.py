"""Does the base model draw what the prompt says? Zero-shot classifiers made of zoo/clip, one for each attribute.

A generated picture shows the right scene when, of all captions that differ from its prompt in the scene only, CLIP
finds its own prompt nearest; the same for the object and the class word. A classifier can be wrong itself: the same
figure on real held-out pictures stands beside, and is the ceiling.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from moa.zoo.clip import tokenize
from moa.zoo.pictures import Pictures, to_unit

ATTRIBUTES = ("scene", "item", "word")
SAMPLING = {"num_inference_steps": 20, "guidance_scale": 3.0, "height": 64, "width": 64}


def caption(words: dict[str, str]) -> str:
    """The caption of a picture of one person, from the words of its attributes."""
    parts = ("a " + words["word"], words["pose"], words["item"], words["scene"])
    return " ".join(part for part in parts if part)


def words_of(meta: dict[str, Any]) -> dict[str, str] | None:
    """The words of a picture's attributes; None unless it is a plain photo of one person with an object."""
    attributes = meta["attributes"]
    people = attributes["people"]
    if len(people) != 1 or attributes["style"] != "photo" or not people[0]["item_words"]:
        return None
    person = people[0]
    return {
        "word": person["word"],
        "pose": person["pose_words"],
        "item": person["item_words"],
        "scene": attributes["scene_words"],
    }


def alternatives(words: dict[str, str], attribute: str, vocabulary: list[str]) -> list[str]:
    """The captions that differ from this picture's in one attribute, in the order of `vocabulary`."""
    return [caption(words | {attribute: other}) for other in vocabulary]


@torch.no_grad()
def measure(
    pipeline: StableDiffusionPipeline, clip: CLIPModel, tokenizer: CLIPTokenizer, pictures: Pictures, count: int = 160
) -> dict[str, float]:
    """Shares of `count` generated pictures that show what was asked for: `followed_scene`, `followed_item`,
    `followed_word`; and of the real pictures with the same captions: `real_scene`, `real_item`, `real_word`."""
    described = [(k, words) for k, meta in enumerate(pictures.meta) if (words := words_of(meta))][:count]
    real = clip_embedding(clip, to_unit(pictures.images[[k for k, _ in described]]))
    prompts = [caption(words) for _, words in described]
    drawn = clip_embedding(clip, generate(pipeline, prompts))
    quality: dict[str, float] = {}
    for attribute in ATTRIBUTES:
        vocabulary = sorted({words[attribute] for _, words in described})
        for name, embeddings in (("followed", drawn), ("real", real)):
            right = [
                vocabulary[nearest(clip, tokenizer, embedding, alternatives(words, attribute, vocabulary))]
                == words[attribute]
                for embedding, (_, words) in zip(embeddings, described, strict=True)
            ]
            quality[f"{name}_{attribute}"] = float(np.mean(right))
    return quality


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], batch: int = 16) -> Tensor:
    """One picture for each prompt, `[N, 3, H, W]` in -1..1; prompt k starts from the noise of seed k."""
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        generators = [torch.Generator().manual_seed(start + k) for k in range(len(part))]
        images.append(pipeline(part, generator=generators, output_type="np", **SAMPLING).images)
    return torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() * 2 - 1


def clip_embedding(clip: CLIPModel, pixels: Tensor) -> Tensor:
    """Unit embeddings `[N, D]` of pictures `[N, 3, 64, 64]` in -1..1."""
    pooled = clip.vision_model(pixel_values=pixels).pooler_output
    return torch.nn.functional.normalize(clip.visual_projection(pooled), dim=-1)


def nearest(clip: CLIPModel, tokenizer: CLIPTokenizer, image: Tensor, texts: list[str]) -> int:
    """Which of `texts` is nearest to an image embedding `[D]`."""
    pooled = clip.text_model(input_ids=tokenize(tokenizer, texts)).pooler_output
    return int((torch.nn.functional.normalize(clip.text_projection(pooled), dim=-1) @ image).argmax())
