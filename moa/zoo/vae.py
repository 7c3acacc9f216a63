"""Recipe of the autoencoder: 64x64 pictures to 16x16x4 latents (f = 4), standard diffusers `AutoencoderKL`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from moa.zoo.fit import fit
from moa.zoo.hardware import autocast, device
from moa.zoo.pictures import Pictures, to_unit

KL_WEIGHT = 1e-4  # per latent value; keeps the latents smooth enough for a small diffusion model
FACE_WEIGHT = 4.0  # added to the pixels of heads: a head is 8 % of the picture and all of the identity
DECODER_FACE_WEIGHT = 1.0  # the same while the decoder is trained on: its aim is the whole picture


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder of the miniature world (1.3 M parameters)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def edges(images: Tensor) -> Tensor:
    """Horizontal and vertical differences of neighbouring pixels, `[B, 3, H, W]` to `[B, 6, H-1, W-1]`."""
    across = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return torch.cat((across, down), dim=1)


def face_weights(pictures: Pictures, chosen: np.ndarray, more: float) -> Tensor:
    """Weight of each pixel `[B, 1, H, W]`: 1, and 1 + `more` in and around the heads."""
    height, width = pictures.images.shape[1:3]
    weights = torch.ones(len(chosen), 1, height, width)
    for b, k in enumerate(chosen):
        for subject in pictures.meta[k]["subjects"]:
            x0, y0, x1, y1 = subject["face"]["box"]
            grow = (y1 - y0) // 3
            weights[b, 0, max(0, y0 - grow) : y1 + grow, max(0, x0 - grow) : x1 + grow] = 1 + more
    return weights


def train_vae(
    pictures: Pictures,
    folder: Path,
    *,
    steps: int,
    batch: int = 8,
    seed: int = 0,
) -> AutoencoderKL:
    """Absolute and squared error on pixels, absolute error on edges, a small KL term; sets `scaling_factor` so that
    latents have unit variance."""
    torch.manual_seed(seed)
    vae = new_vae()

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = pictures.draw(batch, generator)
        images = to_unit(pictures.images[chosen]).to(device())
        weights = face_weights(pictures, chosen, FACE_WEIGHT).to(device())
        with autocast():
            posterior = vae.encode(images).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device())
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        pixel = (weights * ((decoded - images).abs() + (decoded - images).square())).mean()
        edge = (weights[..., 1:, 1:] * (edges(decoded) - edges(images)).abs()).mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean().float()
        return {"loss": pixel + 0.5 * edge + KL_WEIGHT * kl, "pixel": pixel, "edge": edge, "kl": kl}

    trained = fit(vae, loss, folder=folder, steps=steps, peak=2e-3, seed=seed, ema=0.998)
    trained.register_to_config(scaling_factor=float(1.0 / latent_deviation(trained, pictures)))
    return trained.eval()


def train_decoder(
    pictures: Pictures, vae: AutoencoderKL, folder: Path, *, steps: int, batch: int = 8, seed: int = 0
) -> AutoencoderKL:
    """The decoder alone, trained further by squared error: the latents, and what was trained on them, stay valid."""
    torch.manual_seed(seed)
    for module in (vae.encoder, vae.quant_conv):
        module.requires_grad_(False)
    mean, deviation = posteriors(vae.to(device()), pictures.images)

    def loss(generator: torch.Generator, step: int) -> dict[str, Tensor]:
        chosen = pictures.draw(batch, generator)
        images = to_unit(pictures.images[chosen]).to(device())
        weights = face_weights(pictures, chosen, DECODER_FACE_WEIGHT).to(device())
        latents = mean[chosen] + deviation[chosen] * torch.randn(batch, *mean.shape[1:], generator=generator)
        with autocast():
            decoded = vae.decode(latents.to(device())).sample.float()
        squared = (weights * (decoded - images).square()).mean()
        edge = (edges(decoded) - edges(images)).square().mean()
        return {"loss": squared + 0.5 * edge, "squared": squared, "edge": edge}

    return fit(vae, loss, folder=folder, steps=steps, peak=1e-3, seed=seed, ema=0.998).eval()


@torch.no_grad()
def posteriors(vae: AutoencoderKL, images: np.ndarray, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Means and standard deviations, each `[N, 4, 16, 16]`, of the latents of pictures, uint8 `[N, 64, 64, 3]`.
    Computed where the autoencoder is, kept on the CPU."""
    parts = [
        vae.encode(to_unit(images[k : k + batch]).to(vae.device)).latent_dist for k in range(0, len(images), batch)
    ]
    return torch.cat([part.mean.cpu() for part in parts]), torch.cat([part.std.cpu() for part in parts])


@torch.no_grad()
def latent_deviation(vae: AutoencoderKL, pictures: Pictures, count: int = 512) -> Tensor:
    """Standard deviation of the posterior means over the first `count` pictures."""
    return posteriors(vae, pictures.images[:count])[0].std()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, pictures: Pictures, count: int = 256) -> float:
    """Mean PSNR in dB of decoded posterior means against the pictures."""
    values = []
    for k in range(0, min(count, len(pictures)), 32):
        images = to_unit(pictures.images[k : min(k + 32, count)])
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        error = ((decoded - images) / 2).square().mean(dim=(1, 2, 3))
        values.append(-10 * error.clamp_min(1e-10).log10())
    return float(torch.cat(values).mean())
