"""Tiny, randomly initialised models in the standard folder formats, made from configurations alone.

    python -m tests.tiny_models /tmp/tiny        (or: `from tests.tiny_models import tiny_base`)

`tiny_base(folder)` writes a Stable Diffusion folder (unet, vae, text_encoder, tokenizer, scheduler, model_index.json)
and beside it `image_encoder/` and `feature_extractor/`: about 0.4 M parameters, written in a fraction of a second,
the same bytes for the same seed. Nothing in it is trained; it has the geometry of the real thing and nothing else:
32 x 32 images, 8 x 8 x 4 latents, a U-Net of two cross-attention levels, prompts of at most 32 tokens, image features
of 24.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
)

from moa.config import MoAConfig
from moa.unet import MoAUNet2DConditionModel

IMAGE_SIZE = 32
LATENT_SIZE = 8
TEXT_DIM = 32
IMAGE_DIM = 24  # projection width of the image encoder
MAX_TOKENS = 32
WORDS = "a an and the of in on at with photo man woman person boy girl child beach park city snow hat dog red"


def tiny_base(folder: str | Path, seed: int = 0) -> Path:
    """Write the whole tiny base model and its image encoder under `folder`; returns `folder`."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        StableDiffusionPipeline(
            vae=tiny_vae(),
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(folder / "tokenizer"),
            unet=tiny_unet(),
            scheduler=tiny_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
        tiny_image_encoder().save_pretrained(folder / "image_encoder")
    tiny_image_processor().save_pretrained(folder / "feature_extractor")
    return folder


def tiny_mask2former(folder: Path, *, certain: bool) -> Path:
    """Write a random Mask2Former of the classes sky, person and tree; returns `folder`. To one that is `certain` every
    segment is a person."""
    backbone = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=6,
        id2label={0: "sky", 1: "person", 2: "tree"}, label2id={"sky": 0, "person": 1, "tree": 2},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(config)
    if certain:
        say_person(model)
    model.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@torch.no_grad()
def say_person(model: Mask2FormerForUniversalSegmentation) -> None:
    """Make every segment of a `tiny_mask2former` a person."""
    model.class_predictor.weight.zero_()
    model.class_predictor.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))  # sky, person, tree, nothing


def tiny_unet(**overrides: object) -> UNet2DConditionModel:
    """A U-Net of 2 levels, 14 attention layers (7 self, 7 cross), 2 heads; `overrides` change its configuration."""
    options = {
        "sample_size": LATENT_SIZE,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": TEXT_DIM,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**options, **overrides}).eval()


def tiny_moa_unet(
    unet: UNet2DConditionModel | None = None, strength: float = 0.3, **config: object
) -> MoAUNet2DConditionModel:
    """A mixture on `unet` (default: a new tiny one) as if trained: noise is added to all its zeros and copies."""
    model = MoAUNet2DConditionModel.from_unet(unet or tiny_unet(), MoAConfig(**{"image_dim": IMAGE_DIM, **config}))
    with torch.no_grad():
        for _, parameter in model.moa_parameters():
            parameter.add_(strength * torch.randn_like(parameter))
    return model.eval()


def one_level_unet() -> UNet2DConditionModel:
    """A U-Net of one level, 8 attention layers: for what takes seconds for each layer and is alike in all."""
    level = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    return tiny_unet(block_out_channels=(16,), **level)


def one_level_moa_unet() -> MoAUNet2DConditionModel:
    """A mixture on such a U-Net, as if trained."""
    return tiny_moa_unet(one_level_unet())


def tiny_vae() -> AutoencoderKL:
    """4 latent channels, reduction 4."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
    ).eval()


def tiny_text_encoder() -> CLIPTextModel:
    """Width 32, 2 layers, 32 positions, as many tokens as `tiny_tokenizer` knows."""
    vocabulary, _ = _vocabulary()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=TEXT_DIM,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=IMAGE_DIM,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
    ).eval()


def tiny_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """A CLIP tokenizer with one token for each of `WORDS`; other words fall apart into bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = _vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


def tiny_image_encoder(features: int = IMAGE_DIM) -> CLIPVisionModelWithProjection:
    """32 x 32 pixels in, `features` out."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=IMAGE_SIZE,
            patch_size=8,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=features,
        )
    ).eval()


def tiny_image_processor() -> CLIPImageProcessor:
    """CLIP's own normalisation at 32 x 32 pixels."""
    return CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})


def tiny_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )


def _vocabulary() -> tuple[dict[str, int], list[str]]:
    """Byte-level BPE: all bytes, then the merges that make one token of each word of `WORDS`."""
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges: list[str] = []
    for word in WORDS.split():
        parts = [*word[:-1], word[-1] + "</w>"]
        for merge in merges:
            parts = _merged(parts, *merge.split())
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            tokens.append(parts[0] + parts[1])
            parts = _merged(parts, *parts[:2])
    return {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}, merges


def _merged(parts: list[str], left: str, right: str) -> list[str]:
    """`parts` with each neighbouring (left, right) joined."""
    joined: list[str] = []
    for part in parts:
        if part == right and joined and joined[-1] == left:
            joined[-1] += right
        else:
            joined.append(part)
    return joined


if __name__ == "__main__":
    print(tiny_base(sys.argv[1]))
