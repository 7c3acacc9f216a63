"""Recipe of the "community checkpoint" of the miniature world: the base model in another drawing style, comic.

For the ablation of the base checkpoint (paper, appendix B.2): an adapter trained on one base is attached to another
one of the same geometry. What people publish for Stable Diffusion 1.5 is often a LoRA, so this is one too; it is loaded
with `load_lora_weights`, and takes a megabyte instead of eight.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch.nn import functional as F

from moa.zoo import base
from moa.zoo.pictures import Pictures

RANK = 16
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]


def comic(image: np.ndarray) -> np.ndarray:
    """A picture, uint8 `[H, W, 3]`, as a comic: flat vivid colours and dark outlines."""
    picture = Image.fromarray(image)
    edges = np.asarray(ImageOps.grayscale(picture.filter(ImageFilter.FIND_EDGES)), np.float32)
    ink = np.ones((*edges.shape, 1), np.float32)  # 0 where a line is drawn; the filter is undefined at the border
    ink[1:-1, 1:-1, 0] = np.clip(1.0 - edges[1:-1, 1:-1] / 110, 0, 1)
    flat = ImageOps.posterize(ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.12)).enhance(1.5), 3)
    return (np.asarray(flat, np.float32) * ink + np.array([24, 16, 44], np.float32) * (1 - ink)).astype(np.uint8)


def encoded(pipeline: StableDiffusionPipeline, pictures: Pictures) -> base.Encoded:
    """Latents and tokens of the pictures drawn as comics."""
    images = np.stack([comic(image) for image in pictures.images])
    return base.encode(images, [meta["caption"] for meta in pictures.meta], pipeline.vae, pipeline.tokenizer)


def train_community(
    pipeline: StableDiffusionPipeline,
    pictures: Pictures,
    folder: Path,
    work: Path,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
) -> None:
    """Trains a LoRA on the U-Net of `pipeline` and writes `pytorch_lora_weights.safetensors` (fp16) into `folder`.

    Of the pictures only as many are encoded as the steps see: that takes longer than the training."""
    data = encoded(pipeline, pictures.first(steps * batch))
    unet = pipeline.unet.requires_grad_(False)
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
    text = pipeline.text_encoder.requires_grad_(False)
    trained = base.train_base(data, text, work, steps=steps, batch=batch, seed=seed, start=unet, peak=2e-3)
    halves = {name: value.half() for name, value in get_peft_model_state_dict(trained.unet).items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=halves)


@torch.no_grad()
def measure(base_folder: Path, lora: Path, pictures: Pictures, count: int = 128) -> dict[str, float]:
    """Noise error on held-out comics of the base model and of the community checkpoint, same noise and timesteps."""
    pipeline = StableDiffusionPipeline.from_pretrained(base_folder, torch_dtype=torch.float32)
    data = encoded(pipeline, pictures.first(count))
    scheduler = DDPMScheduler(**base.SCHEDULE)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(data.mean.shape, generator=generator)
    timesteps = torch.randint(1000, (len(data.mean),), generator=generator)
    noisy = scheduler.add_noise(data.mean, noise, timesteps)
    text = pipeline.text_encoder(data.tokens).last_hidden_state
    plain = F.mse_loss(pipeline.unet(noisy, timesteps, text).sample, noise)
    pipeline.load_lora_weights(lora)
    drawn = F.mse_loss(pipeline.unet(noisy, timesteps, text).sample, noise)
    return {"noise_error_of_base": float(plain), "noise_error": float(drawn)}
