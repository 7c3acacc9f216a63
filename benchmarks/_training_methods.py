"""What `benchmarks/training_step.py` compares: the FastComposer way (Xiao et al., 2023, section 4.2) and MoA, each from
the noisy latents to the loss."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from benchmarks._sd15 import IMAGE_DIM, SUBJECT_TOKEN
from moa.conditioning import MoAInput
from moa.config import MoAConfig
from moa.losses import masked_loss, object_loss, router_loss, total_loss
from moa.recorder import Recorder
from moa.unet import MoAUNet2DConditionModel


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


class FastComposer(nn.Module):
    """The baseline: a U-Net trained as a whole, its cross-attention maps kept."""

    autocast = True

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet
        width = unet.config.cross_attention_dim
        self.fuse = nn.Sequential(nn.LayerNorm(width + IMAGE_DIM), nn.Linear(width + IMAGE_DIM, width), nn.GELU())
        self.token = nn.Linear(width, width)
        self.attention = KeptMaps()
        for module in unet.modules():
            if getattr(module, "is_cross_attention", False):
                module.set_processor(self.attention)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Noise-prediction loss and balanced L1 of the kept maps."""
        self.attention.maps = []
        word = batch["text"][:, SUBJECT_TOKEN]
        token = word + self.token(self.fuse(torch.cat([word, batch["features"][:, 0]], dim=-1)))
        text = torch.cat([batch["text"][:, :SUBJECT_TOKEN], token[:, None], batch["text"][:, SUBJECT_TOKEN + 1 :]], 1)
        prediction = self.unet(batch["latents"], batch["timesteps"], text).sample
        columns = [maps.mean(dim=1)[..., SUBJECT_TOKEN] for maps in self.attention.maps]
        squares = [c.unflatten(1, (int(c.shape[1] ** 0.5),) * 2)[:, None] for c in columns]
        present = torch.ones_like(batch["positions"], dtype=torch.bool)
        masked = masked_loss(prediction, batch["noise"], batch["mask"])
        return total_loss(masked, 0.0, object_loss(squares, batch["mask"], present))


class MoA(nn.Module):
    """The project's own step (`moa/step.py`) from the noisy latents on."""

    autocast = False

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = MoAUNet2DConditionModel.from_unet(unet, MoAConfig(image_dim=IMAGE_DIM))
        self.routed = [layer.index for layer in self.unet.moa_layers() if layer.in_router_loss]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        recorder = Recorder()
        moa = MoAInput(batch["features"], batch["positions"], batch["active"], recorder)
        options = {"moa": moa}
        latents, text = (batch[name].to(self.unet.conv_in.weight.dtype) for name in ("latents", "text"))
        prediction = self.unet(latents, batch["timesteps"], text, cross_attention_kwargs=options).sample
        masked = masked_loss(prediction, batch["noise"], batch["mask"])
        router = router_loss([recorder.router[index] for index in self.routed], batch["mask"])
        present = torch.ones_like(batch["positions"], dtype=torch.bool)
        return total_loss(masked, router, object_loss(list(recorder.attention.values()), batch["mask"], present))
