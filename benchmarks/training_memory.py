"""Memory: what a training step of the Stable Diffusion presets holds on each GPU.

    python benchmarks/training_memory.py                 counted without a GPU: a table, and training_memory.json
    python benchmarks/training_memory.py --device cuda   measured on one, and the step's time: training_memory-cuda.json

The networks have the real sizes (a U-Net, VAE and text encoder of Stable Diffusion 1.5, an image encoder of CLIP
ViT-L/14), the step is `moa.step.training_losses`, its backward pass and AdamW, twice, with a preset's batch of one GPU.
Counted, on tensors without values: the peak is the sum of all storages that live at one time, as an allocator would
hold them: weights, activations, gradients, moments, temporary results. Not counted: what CUDA itself takes (half a GB
or so), what its allocator and its kernels need beyond that, and NCCL's buffers. The operations are a CPU's, whose
attention keeps the probabilities of up to 16 x 16 pixels, so a GPU holds a little less.

Measured, on random weights: "peak" is what CUDA's allocator gave out at most, "reserved" what it took from the GPU for
that; the time is that of whole steps on a batch that is there (its loading is not in it), the images not encoded where
the preset caches their latents.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import image_encoder, sd15_text_encoder, sd15_unet, sd15_vae, without_values  # noqa: E402
from benchmarks._stopwatch import machine, seconds, settle  # noqa: E402
from benchmarks._training_methods import a_batch  # noqa: E402
from flows.presets import PRESETS  # noqa: E402
from moa.models import DTYPES, Models  # noqa: E402
from moa.step import training_losses  # noqa: E402
from moa.train_config import TrainConfig  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

CPU = torch.device("cpu")


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
    scheduler: Any = DDPMScheduler()
    with init_empty_weights():
        unet = MoAUNet2DConditionModel.from_unet(sd15_unet(), config.moa)
        parts: Any = (sd15_vae(), sd15_text_encoder(), None, image_encoder(), None)
    return Models(unet, *parts, scheduler)


def give_memory(models: Models, config: TrainConfig, device: torch.device) -> list[nn.Parameter]:
    """Random parameters and the buffers on the device (fake ones inside `without_values`), as `moa.models.load_models`
    has them: what is trained in fp32, what is frozen in the precision. Returns what is trained."""
    trained, found = set(models.unet.moa_state_dict()), []
    for network in (models.unet, models.vae, models.text_encoder, models.image_encoder):
        for place, module in network.named_modules():
            for name, old in list(module.named_parameters(recurse=False)):
                learns = network is models.unet and f"{place}.{name}" in trained
                dtype = torch.float32 if learns else DTYPES[config.precision]
                values = torch.empty(old.shape, dtype=dtype, device=device).normal_(std=0.02)
                parameter = nn.Parameter(values, requires_grad=learns)
                setattr(module, name, parameter)
                found += [parameter] if learns else []
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, buffer.to(device, copy=True))
    return found


class Training:
    """Steps of one GPU on one batch."""

    def __init__(self, models: Models, config: TrainConfig, images: int, device: torch.device) -> None:
        self.models, self.config = models, config
        self.optimizer = torch.optim.AdamW(give_memory(models, config, device))
        self.batch = a_batch(images, cached=config.latent_cache is not None).to(device)
        models.unet.train()
        if config.gradient_checkpointing:
            models.unet.enable_gradient_checkpointing()

    @property
    def parameters(self) -> list[nn.Parameter]:
        networks = (self.models.unet, self.models.vae, self.models.text_encoder, self.models.image_encoder)
        return [parameter for network in networks for parameter in network.parameters()]

    def step(self) -> None:
        training_losses(self.models, self.batch, self.config).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def count(config: TrainConfig, images: int) -> dict[str, Any]:
    """Gigabytes (1e9 bytes) of the networks, and of the most that two steps hold."""
    peak, models = Peak(), empty_models(config)
    with without_values():
        training = Training(models, config, images, CPU)
        for parameter in training.parameters:
            peak.hold(parameter)
        networks = peak.now
        for field in dataclasses.fields(training.batch):
            peak.hold(getattr(training.batch, field.name))
        with peak:
            training.step()
            training.step()  # the moments are there from the second on
    return {"networks": round(networks / 1e9, 2), "peak": round(peak.peak / 1e9, 2)}


def measure(config: TrainConfig, images: int, device: torch.device, rounds: int = 8) -> dict[str, Any]:
    """Gigabytes that CUDA's allocator gave out and took at most, and the median seconds of a step."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    training = Training(empty_models(config), config, images, device)
    taken = [seconds(training.step, device) for _ in range(rounds + 2)][2:]
    return {
        "networks": round(sum(parameter.nbytes for parameter in training.parameters) / 1e9, 2),
        "peak": round(torch.cuda.max_memory_allocated(device) / 1e9, 2),
        "reserved": round(torch.cuda.max_memory_reserved(device) / 1e9, 2),
        "seconds": round(statistics.median(taken), 4),
        "images_per_second": round(images / statistics.median(taken), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=CPU, help="cpu (default): count; cuda: measure on it")
    device = parser.parse_args().device
    gpu = device.type != "cpu"
    settle(device)
    result: dict[str, Any] = {"figures": "measured, in GB"} if gpu else {"figures": "counted on fake tensors, in GB"}
    result |= {"machine": machine(device)} if gpu else {"torch": torch.__version__}
    print(f"{'preset':<12} {'checkpointing':<14} GB for that many images a GPU")
    for name in ("photos_sd15", "ffhq_sd15"):
        preset = PRESETS[name]()
        for checkpointing in (True, False):
            config = preset.train.model_copy(update={"gradient_checkpointing": checkpointing})
            images = config.micro_batch(preset.launch.processes)
            found = {"images": images, **(measure(config, images, device) if gpu else count(config, images))}
            result.setdefault("presets", {}).setdefault(name, {})["checkpointing" if checkpointing else "without"] = (
                found
            )
            print(f"{name:<12} {checkpointing!s:<14} {json.dumps(found)}")
    stem = "training_memory-cuda" if gpu else "training_memory"
    Path(__file__).with_stem(stem).with_suffix(".json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
