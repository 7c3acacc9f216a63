"""What `benchmarks/training_step.py` compares: the FastComposer way (Xiao et al., 2023) and MoA, each from a batch of
images and crops to the loss.

The FastComposer way is what its published training does (its repository's scripts/run_training.sh): the whole U-Net
and the image encoder's last two layers are trained, every image brings four crops, most of them empty, and the
cross-attention of five of the U-Net's seven blocks that have it keeps its maps for the localisation loss. The script
also switches flash attention off everywhere. The encoder is reached through two MLPs, the fuse module. MoA's is
`moa.step`. Neither checkpoints gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks._sd15 import (
    IMAGE_DIM,
    SUBJECT_TOKEN,
    TEXT_DIM,
    TOKENS,
    VOCABULARY,
    encoded_side,
    image_encoder,
    sd15_text_encoder,
    sd15_unet,
    sd15_vae,
)
from flows.presets import PRESETS
from moa.batch import Batch
from moa.config import MoAConfig
from moa.losses import masked_loss, object_loss, total_loss
from moa.models import Models
from moa.step import encode_images, latent_masks, training_losses
from moa.subjects import image_features
from moa.unet import MoAUNet2DConditionModel

SLOTS = 4  # crops an image has in FastComposer's batches (--max_num_objects)
TRAINED_LAYERS = 2  # of the image encoder (--image_encoder_trainable_layers)
KEPT = ("down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.2")  # (--localization_layers)


class KeptMaps:
    """A diffusers attention processor with the softmax written out, so that the maps can be kept."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(self, attention: Any, z: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        q, k, v = (
            x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for x in (attention.to_q(z), attention.to_k(encoder_hidden_states), attention.to_v(encoder_hidden_states))
        )
        maps = (q @ k.transpose(-1, -2) * attention.scale).softmax(dim=-1)
        self.maps.append(maps)
        return attention.to_out[1](attention.to_out[0]((maps @ v).transpose(1, 2).flatten(2)))


class Method(nn.Module):
    """The networks of Stable Diffusion 1.5 and an image encoder, all of them frozen at first, at a fraction of their
    width."""

    def __init__(self, divide: int) -> None:
        super().__init__()
        self.vae, self.text_encoder, self.image_encoder = (
            sd15_vae(divide),
            sd15_text_encoder(divide),
            image_encoder(divide),
        )
        self.scheduler: Any = DDPMScheduler()
        self.eval().requires_grad_(False)

    def trained(self) -> Iterator[nn.Parameter]:
        return (parameter for parameter in self.parameters() if parameter.requires_grad)


class FastComposer(Method):
    """The baseline. `slots`: crops encoded for each image; 1 leaves the empty ones out."""

    autocast = True

    def __init__(self, divide: int, slots: int = SLOTS) -> None:
        super().__init__(divide)
        self.slots = slots
        self.unet: UNet2DConditionModel = sd15_unet(divide).train()
        self.image_encoder.vision_model.encoder.layers[-TRAINED_LAYERS:].requires_grad_(True)
        width, feature = TEXT_DIM // divide, IMAGE_DIM // divide
        self.fuse = nn.Sequential(
            nn.LayerNorm(width + feature), nn.Linear(width + feature, width), nn.GELU(), nn.Linear(width, width)
        )
        self.token = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.attention = KeptMaps()
        for name, module in self.unet.named_modules():
            if getattr(module, "is_cross_attention", False) and name.startswith(KEPT):
                module.set_processor(self.attention)

    def kernels(self) -> AbstractContextManager[Any]:
        """No flash attention, as in the published training (--disable_flashattention); on a CPU it keeps its fused
        kernel, in its favour."""
        allowed = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        return sdpa_kernel(allowed) if self.unet.device.type == "cuda" else nullcontext()

    def loss(self, batch: Batch) -> Tensor:
        """Noise-prediction loss and balanced L1 of the kept maps."""
        self.attention.maps = []
        with torch.no_grad():
            latents = self._latents(batch)
            noisy = self.scheduler.add_noise(latents, batch.noise, batch.timesteps)
            text = self.text_encoder(batch.input_ids)[0]
            foreground, subjects = latent_masks(batch, (latents.shape[-2], latents.shape[-1]))
        prediction = self.unet(noisy, batch.timesteps, self._with_subjects(text, batch)).sample
        columns = [_columns(maps, batch.positions) for maps in self.attention.maps]
        masked = masked_loss(prediction, batch.noise, foreground)
        return total_loss(masked, 0.0, object_loss(columns, subjects, batch.present))

    def _latents(self, batch: Batch) -> Tensor:
        """As in the published training: all images are encoded together, in the networks' own layout."""
        if not len(batch.images):
            return encode_images(self, batch)  # type: ignore[arg-type]
        found = self.vae.encode((batch.images.float() / 127.5 - 1).to(self.vae.dtype)).latent_dist
        return (found.mean + found.std * batch.posterior_noise) * self.vae.config.scaling_factor

    def _with_subjects(self, text: Tensor, batch: Batch) -> Tensor:
        """The text [B, T, D] with each image's subject, of which there is one, in the place of its word."""
        crops = batch.pixels[:, None]
        empty = crops.new_zeros(len(crops), self.slots - 1, *crops.shape[2:])
        pixels = torch.cat([crops, empty], dim=1).flatten(0, 1)
        features = image_features(self.image_encoder, pixels.to(self.image_encoder.dtype))[:: self.slots]
        where = batch.positions[..., None].expand(-1, -1, text.shape[-1])
        word = text.gather(1, where)[:, 0]
        token = self.fuse(torch.cat([word, features.to(word.dtype)], dim=-1)) + word
        token = self.norm(token + self.token(token))
        return text.scatter(1, where, token[:, None].to(text.dtype))


class MoA(Method):
    """The project's own step."""

    autocast = False

    def __init__(self, divide: int) -> None:
        super().__init__(divide)
        self.unet = MoAUNet2DConditionModel.from_unet(
            sd15_unet(divide), MoAConfig(image_dim=IMAGE_DIM // divide)
        ).train()
        self.config = PRESETS["photos_sd15"]().train
        if self.vae.device.type == "cpu":
            self.vae.to(memory_format=torch.channels_last)  # as `moa.models.load_models` does

    def kernels(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def loss(self, batch: Batch) -> Tensor:
        none: Any = None
        models = Models(self.unet, self.vae, self.text_encoder, none, self.image_encoder, none, self.scheduler)
        return training_losses(models, batch, self.config).total


def a_batch(images: int, cached: bool, divide: int = 1) -> Batch:
    """One subject in each image; of 512 px at full width, with the number of pixels divided. `cached`: their latents'
    posteriors instead of the images."""
    latent, nothing = round(64 / divide**0.5), torch.empty(0)
    side, seen = 8 * latent, encoded_side(divide)
    labels = torch.zeros(images, side, side, dtype=torch.uint8)
    labels[:, side // 4 : side // 2, side // 4 : side // 2] = 1
    return Batch(
        images=nothing if cached else torch.randint(256, (images, 3, side, side), dtype=torch.uint8),
        moments=torch.rand(images, 2, 4, latent, latent) if cached else nothing,
        labels=labels,
        input_ids=torch.randint(VOCABULARY, (images, TOKENS)),
        positions=torch.full((images, 1), SUBJECT_TOKEN),
        pixels=torch.randn(images, 3, seen, seen),
        slots=torch.arange(images),
        timesteps=torch.randint(1000, (images,)),
        masked=torch.ones(images, dtype=torch.bool),
        noise=torch.randn(images, 4, latent, latent),
        posterior_noise=torch.randn(images, 4, latent, latent),
    )


def _columns(maps: Tensor, positions: Tensor) -> Tensor:
    """[B, S, h, w]: the maps [B, heads, N, T] at the subjects' tokens, mean over heads."""
    where = positions[:, None].expand(-1, maps.shape[2], -1)
    columns = maps.mean(dim=1).gather(2, where).transpose(1, 2)
    return columns.unflatten(2, (int(columns.shape[2] ** 0.5),) * 2)
