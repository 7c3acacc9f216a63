"""Memory: what a training step of the Stable Diffusion presets holds on each GPU, counted on tensors without values.

    python benchmarks/training_memory.py          a table, and benchmarks/training_memory.json

The networks have the real sizes (a U-Net, VAE and text encoder of Stable Diffusion 1.5, an image encoder of CLIP
ViT-L/14), the step is `moa.step.training_losses`, its backward pass and AdamW, twice, with a preset's batch of one GPU.
The peak is the sum of all storages that live at one time, as an allocator would hold them: weights, activations,
gradients, moments, temporary results. Not counted: what CUDA itself takes (half a GB or so), what its allocator and its
kernels need beyond that, and NCCL's buffers. The operations are a CPU's, whose attention keeps the probabilities of up
to 16 x 16 pixels, so a GPU holds a little less. No GPU was used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import IMAGE_DIM, TEXT_DIM, TOKENS, sd15_unet  # noqa: E402
from flows.presets import PRESETS  # noqa: E402
from moa.batch import Batch  # noqa: E402
from moa.models import DTYPES, Models  # noqa: E402
from moa.step import training_losses  # noqa: E402
from moa.train_config import TrainConfig  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

SIDE, LATENT, ENCODED = 512, 64, 224  # pixels a side: images, latents, what the image encoder sees


class Peak(TorchDispatchMode):
    """Bytes of the storages that operations make and nobody has let go of: `now`, and the most there were, `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = True
            weakref.finalize(storage, self._free, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return result


def empty_models(config: TrainConfig) -> Models:
    """The networks of Stable Diffusion 1.5 and CLIP ViT-L/14 without weights."""
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    text = {"hidden_size": TEXT_DIM, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    with init_empty_weights():
        unet = MoAUNet2DConditionModel.from_unet(sd15_unet(), config.moa)
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **levels)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text))
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**vision, patch_size=14, projection_dim=IMAGE_DIM)
        )
    scheduler: Any = DDPMScheduler()
    return Models(unet, vae, text_encoder, None, image_encoder, None, scheduler)  # type: ignore[arg-type]


def give_memory(models: Models, config: TrainConfig, peak: Peak) -> list[nn.Parameter]:
    """Tensors for all parameters and buffers, on fake storages, as `moa.models.load_models` has them: what is trained
    in fp32, what is frozen in the precision. Returns what is trained."""
    trained, found = set(models.unet.moa_state_dict()), []
    for network in (models.unet, models.vae, models.text_encoder, models.image_encoder):
        for place, module in network.named_modules():
            for name, old in list(module.named_parameters(recurse=False)):
                learns = network is models.unet and f"{place}.{name}" in trained
                dtype = torch.float32 if learns else DTYPES[config.precision]
                parameter = nn.Parameter(torch.empty(old.shape, dtype=dtype), requires_grad=learns)
                setattr(module, name, parameter)
                peak.hold(parameter)
                found += [parameter] if learns else []
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))
    return found


def a_batch(size: int, cached: bool) -> Batch:
    """One subject in each image."""
    nothing = torch.empty(0)
    return Batch(
        images=nothing if cached else torch.empty(size, 3, SIDE, SIDE, dtype=torch.uint8),
        moments=torch.empty(size, 2, 4, LATENT, LATENT) if cached else nothing,
        labels=torch.empty(size, SIDE, SIDE, dtype=torch.uint8),
        input_ids=torch.empty(size, TOKENS, dtype=torch.long),
        positions=torch.empty(size, 1, dtype=torch.long),
        pixels=torch.empty(size, 3, ENCODED, ENCODED),
        slots=torch.empty(size, dtype=torch.long),
        timesteps=torch.empty(size, dtype=torch.long),
        masked=torch.empty(size, dtype=torch.bool),
        noise=torch.empty(size, 4, LATENT, LATENT),
        posterior_noise=torch.empty(size, 4, LATENT, LATENT),
    )


def measure(config: TrainConfig, processes: int) -> dict[str, Any]:
    """Gigabytes (1e9 bytes) of the networks, and of the most that two steps hold."""
    peak, models, size = Peak(), empty_models(config), config.micro_batch(processes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        trained = give_memory(models, config, peak)
        networks = peak.now
        models.unet.train()
        if config.gradient_checkpointing:
            models.unet.enable_gradient_checkpointing()
        batch = a_batch(size, cached=config.latent_cache is not None)
        for field in dataclasses.fields(batch):
            peak.hold(getattr(batch, field.name))
        optimizer = torch.optim.AdamW(trained)
        with peak:
            for _ in range(2):  # the moments are there from the second on
                training_losses(models, batch, config).total.backward()
                optimizer.step()
                optimizer.zero_grad()
    return {"images": size, "networks": round(networks / 1e9, 2), "peak": round(peak.peak / 1e9, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    result: dict[str, Any] = {"torch": torch.__version__, "figures": "counted on fake tensors, in GB", "presets": {}}
    print(f"{'preset':<12} {'checkpointing':<14} {'images a GPU':>12} {'networks':>9} {'peak GB':>8}")
    for name in ("photos_sd15", "ffhq_sd15"):
        preset = PRESETS[name]()
        for checkpointing in (True, False):
            config = preset.train.model_copy(update={"gradient_checkpointing": checkpointing})
            found = measure(config, preset.launch.processes)
            result["presets"].setdefault(name, {})["checkpointing" if checkpointing else "without"] = found
            print(f"{name:<12} {checkpointing!s:<14} {found['images']:>12} {found['networks']:>9} {found['peak']:>8}")
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
