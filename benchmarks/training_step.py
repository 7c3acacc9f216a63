"""Training: one step of MoA against the FastComposer way, on the same U-Net, batch and precision.

    python benchmarks/training_step.py [--quick]        prints a table and writes benchmarks/training_step.json

The baseline trains the whole U-Net, replaces a subject's word by an MLP of the word and the image feature, and keeps
the attention maps of all cross-attention layers for its localisation loss (Xiao et al., 2023, section 4.2). MoA trains
its experts and routers with eq. 11. Both take the same noisy latents, one subject per sample, fp32, AdamW.

Times: Stable Diffusion 1.5 at a quarter of its width and heads, 32 x 32 latents (attention has the share it has at 512
px and full width), medians of process CPU time on one thread, methods taking turns. "encode" is the frozen VAE
encoder's time at the same scale, which every step pays that has no cached latents.

Memory: what the backward pass starts with, counted in bytes: parameters, one gradient and AdamW's two moments for each
trained one, and the tensors autograd saved (`saved_tensors_hooks`, each storage once). At full size on fake tensors.
The baseline has diffusers' own layers. Of what `moa.backward` leaves out only the gates (a third of it) would be the
baseline's to leave out as well: its convolutions are trained, and it has no mixture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from moa.conditioning import MoAInput
from moa.config import MoAConfig
from moa.losses import masked_loss, object_loss, router_loss, total_loss
from moa.recorder import Recorder
from moa.unet import MoAUNet2DConditionModel

RESULT = Path(__file__).with_suffix(".json")
TOKENS, IMAGE_DIM, SUBJECT_TOKEN = 77, 768, 5
aten = torch.ops.aten


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

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = MoAUNet2DConditionModel.from_unet(unet, MoAConfig(image_dim=IMAGE_DIM))
        self.routed = [layer.index for layer in self.unet.moa_layers() if layer.in_router_loss]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        recorder = Recorder()
        moa = MoAInput(batch["features"], batch["positions"], batch["active"], recorder)
        options = {"moa": moa}
        prediction = self.unet(
            batch["latents"], batch["timesteps"], batch["text"], cross_attention_kwargs=options
        ).sample
        masked = masked_loss(prediction, batch["noise"], batch["mask"])
        router = router_loss([recorder.router[index] for index in self.routed], batch["mask"])
        present = torch.ones_like(batch["positions"], dtype=torch.bool)
        return total_loss(masked, router, object_loss(list(recorder.attention.values()), batch["mask"], present))


METHODS: dict[str, Callable[[UNet2DConditionModel], Any]] = {"FastComposer way": FastComposer, "MoA": MoA}


def sd15_unet(divide: int) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's U-Net with every width, and the number of heads, divided."""
    return UNet2DConditionModel(
        block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
        attention_head_dim=8 // divide,  # diffusers' name for the number of heads
        norm_num_groups=32 // divide,
        cross_attention_dim=768 // divide,
    ).train()


def random_batch(batch: int, size: int, text_width: int) -> dict[str, Tensor]:
    mask = torch.zeros(batch, 1, size, size)
    mask[:, :, size // 4 : size // 2, size // 4 : size // 2] = 1
    return {
        "latents": torch.randn(batch, 4, size, size),
        "noise": torch.randn(batch, 4, size, size),
        "timesteps": torch.full((batch,), 500),
        "text": torch.randn(batch, TOKENS, text_width),
        "features": torch.randn(batch, 1, IMAGE_DIM),
        "positions": torch.full((batch, 1), SUBJECT_TOKEN),
        "mask": mask,
    }


def times(batch_size: int, rounds: int) -> dict[str, float]:
    """Median CPU seconds of whole steps at a quarter of the width, and of encoding the batch."""
    batch = {**random_batch(batch_size, 32, 192), "active": torch.ones(batch_size).bool()}
    steps = {name: _step(method(sd15_unet(4)), batch) for name, method in METHODS.items()}
    steps["encode"] = _encoding(torch.rand(batch_size, 3, 256, 256))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return {name: round(statistics.median(values[1:]), 4) for name, values in seconds.items()}


def _step(model: Any, batch: dict[str, Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)

    def step() -> None:
        model.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _encoding(images: Tensor) -> Callable[[], Any]:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32, 64, 128, 128), layers_per_block=2, norm_num_groups=8, **kinds).eval()
    return lambda: torch.no_grad()(vae.encode)(images)


def counts(method: str, divide: int, batch_size: int, size: int) -> dict[str, float]:
    """GiB held at the start of the backward pass, and the GFLOPs of forward and backward, on fake tensors."""
    with init_empty_weights():
        model = METHODS[method](sd15_unet(divide))
    active = torch.ones(batch_size).bool()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, tensor in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(tensor.shape), requires_grad=tensor.requires_grad))
            for name, tensor in list(module.named_buffers(recurse=False)):
                setattr(module, name, torch.empty(tensor.shape))
        batch = {**random_batch(batch_size, size, 768 // divide), "active": active}
        saved: dict[int, int] = {}
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False, custom_mapping=dict(_flash_cpu())) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model.loss(batch)
            held = sum(saved.values())
            loss.backward()
    weights = sum(4 * p.numel() for p in model.parameters())
    trained = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    gib = {
        "weights": weights,
        "gradients and moments": 3 * trained,
        "saved": held,
        "total": weights + 3 * trained + held,
    }
    return {
        **{name: round(value / 2**30, 3) for name, value in gib.items()},
        "gflops": counter.get_total_flops() // 1e9,
    }


def _flash_cpu() -> Iterator[tuple[Any, Callable[..., int]]]:
    """The CPU's attention kernels, which torch's counter does not know."""
    yield aten._scaled_dot_product_flash_attention_for_cpu, lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    yield (
        aten._scaled_dot_product_flash_attention_for_cpu_backward,
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g, q, k, v),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing counted at full size")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds = times(2, 2 if quick else 7)
    base, moa, encode = seconds["FastComposer way"], seconds["MoA"], seconds["encode"]
    ratios = {"cached latents": moa / base, "latents encoded in the step": (moa + encode) / (base + encode)}
    result: dict[str, Any] = {
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "seconds": seconds,
        "time_ratio": {name: round(value, 3) for name, value in ratios.items()},
        "held": {},
    }
    print(f"seconds: {seconds}\ntime ratio: {result['time_ratio']}\n")
    print(f"{'GiB held when the backward pass starts':44} weights  grads+moments  saved   total  ratio   GFLOPs  ratio")
    scales = [("quarter width, 32 x 32, batch 2", 4, 2, 32)]
    if not quick:
        scales += [(f"full width, 64 x 64, batch {n}", 1, n, 64) for n in (1, 4)]
    for scale, divide, batch, size in scales:
        table = {name: counts(name, divide, batch, size) for name in METHODS}
        baseline = table["FastComposer way"]
        result["held"][scale] = table
        for name, row in table.items():
            memory, work = row["total"] / baseline["total"], row["gflops"] / baseline["gflops"]
            print(
                f"{scale}, {name:{42 - len(scale)}} {row['weights']:7.2f} {row['gradients and moments']:14.2f} "
                f"{row['saved']:6.2f} {row['total']:7.2f} {memory:6.2f} {row['gflops']:8.0f} {work:6.2f}"
            )
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
