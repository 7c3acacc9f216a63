"""Recipe of the base model: a small Stable Diffusion (U-Net on 16x16x4 latents, text width 128) in the standard
diffusers folder.

The prior of the miniature world. It learns from captions only, so "a man" can be any man: who he is comes from MoA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from moa.pipeline_folder import forget_origin
from moa.zoo.clip import WIDTH, tokenize
from moa.zoo.fit import fit
from moa.zoo.hardware import autocast, device
from moa.zoo.vae import posteriors

EMPTY_SHARE = 0.1  # captions dropped, for classifier-free guidance
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def new_unet() -> UNet2DConditionModel:
    """An untrained U-Net of the miniature world: two levels, cross-attention in both, as Stable Diffusion 1.5 in
    small."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name; the number of heads
        norm_num_groups=16,
    )


@dataclass(frozen=True)
class Encoded:
    """What the U-Net trains on, computed once: scaled latent moments `[N, 8, 16, 16]` and token ids `[N, L]`, `[L]`
    for the empty prompt."""

    mean: Tensor
    deviation: Tensor
    tokens: Tensor
    empty: Tensor


@torch.no_grad()
def encode(images: np.ndarray, captions: list[str], vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Encoded:
    """Encode pictures, uint8 `[N, H, W, 3]`, and their captions."""
    mean, deviation = posteriors(vae.to(device()), images)
    vae.cpu()
    scale, tokens = vae.config.scaling_factor, tokenize(tokenizer, captions)
    return Encoded(mean * scale, deviation * scale, tokens, tokenize(tokenizer, [""])[0])


class Denoiser(nn.Module):
    """What is trained: the U-Net, and the text tower where it requires gradients."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noisy latents `[B, 4, 16, 16]`, timesteps `[B]` and token ids `[B, L]` to the noise, `[B, 4, 16, 16]`."""
        text = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, text).sample


def train_base(
    data: Encoded,
    text_encoder: CLIPTextModel,
    folder: Path,
    *,
    steps: int,
    batch: int = 32,
    seed: int = 0,
    start: UNet2DConditionModel | None = None,
    peak: float = 1e-3,
) -> Denoiser:
    """Noise prediction with min-SNR weights (gamma 5), captions dropped with probability 0.1. `start` is trained
    further instead of a new U-Net. What requires gradients is trained, of the U-Net and of the text encoder.

    Attention is computed in the plain way: on a CPU the fused kernel's backward pass takes most of a step.
    """
    torch.manual_seed(seed)
    denoiser = Denoiser(start or new_unet(), text_encoder)
    if device().type == "cpu":
        denoiser.unet.set_attn_processor(AttnProcessor())
    noise_scheduler = DDPMScheduler(**SCHEDULE)
    signal = noise_scheduler.alphas_cumprod
    snr = signal / (1 - signal)

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = torch.randint(len(data.mean), (batch,), generator=generator)
        spread = torch.randn(batch, *data.mean.shape[1:], generator=generator)
        latents = data.mean[chosen] + data.deviation[chosen] * spread
        tokens = data.tokens[chosen]
        tokens[torch.rand(batch, generator=generator) < EMPTY_SHARE] = data.empty
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (batch,), generator=generator)
        noisy = noise_scheduler.add_noise(latents, noise, timesteps)
        weight = snr[timesteps].clamp(max=5.0) / snr[timesteps]
        noisy, noise, timesteps, tokens, weight = (x.to(device()) for x in (noisy, noise, timesteps, tokens, weight))
        with autocast():
            predicted = denoiser(noisy, timesteps, tokens).float()
        error = F.mse_loss(predicted, noise, reduction="none").mean(dim=(1, 2, 3))
        return {"loss": (weight * error).mean(), "mse": error.mean()}

    return fit(denoiser, loss, folder=folder, steps=steps, peak=peak, seed=seed, ema=0.9995).eval()


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """The pipeline as it is shipped: UniPC sampler, no safety checker (there is nothing unsafe to draw here)."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=UniPCMultistepScheduler(**SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    forget_origin(pipeline.components)
    return pipeline
