"""The object loss (eq. 12) needs the attention at the subjects' tokens: what it costs to have it.

    python benchmarks/attention_maps.py [--quick]        prints a table and writes benchmarks/attention_maps.json

"none" records nothing, "columns" is what the project does (`moa.backward.subject_columns`: the softmax over all tokens
is computed again in the backward pass), "full maps" leaves the same columns to autograd, which keeps that softmax for
each cross-attention layer.

Memory: bytes of what autograd saves in a forward pass (`saved_tensors_hooks`, each storage once) at the full size of
Stable Diffusion 1.5, on fake tensors, plus the recorded maps. Times: forward and backward at a quarter of the width and
heads and 32 x 32 latents, medians of process CPU time on one thread, variants taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import IMAGE_DIM, TOKENS, fake, sd15_unet  # noqa: E402
from moa.conditioning import MoAInput  # noqa: E402
from moa.config import MoAConfig  # noqa: E402
from moa.losses import object_loss  # noqa: E402
from moa.recorder import Recorder  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

RESULT = Path(__file__).with_suffix(".json")
SUBJECT_TOKENS = (5, 9)
VARIANTS = ("none", "columns", "full maps")


def moa_unet(divide: int) -> MoAUNet2DConditionModel:
    return MoAUNet2DConditionModel.from_unet(sd15_unet(divide).train(), MoAConfig(image_dim=IMAGE_DIM))


def kept_columns(q: Tensor, k: Tensor, positions: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """`moa.backward.subject_columns` as autograd does it."""
    scores = q @ k.transpose(-1, -2) * scale
    maps = (scores if bias is None else scores + bias).softmax(dim=-1).mean(dim=1)
    return maps.gather(2, positions[:, None].expand(-1, q.shape[2], -1)).transpose(1, 2)


def loss(unet: MoAUNet2DConditionModel, variant: str, size: int, text_width: int, active: Tensor) -> Tensor:
    """The object loss of one sample with two subjects, plus something of the prediction."""
    recorder = Recorder(subject_columns=variant != "none")
    subjects = torch.tensor([SUBJECT_TOKENS])
    moa = MoAInput(torch.randn(1, 2, IMAGE_DIM), subjects, active, recorder)
    options = {"moa": moa}
    latents, text = torch.randn(1, 4, size, size), torch.randn(1, TOKENS, text_width)
    with patch("moa.layers.subject_columns", kept_columns) if variant == "full maps" else nullcontext():
        value = unet(latents, 500, text, cross_attention_kwargs=options).sample.square().mean()
    if variant != "none":
        masks = torch.ones(1, 2, size, size)
        value = value + object_loss(list(recorder.attention.values()), masks, torch.ones_like(subjects).bool())
    return value


def saved_bytes(size: int) -> dict[str, int]:
    """Bytes autograd saves in the forward pass of each variant, without parameters; full width."""
    active = torch.ones(1).bool()
    result = {}
    with fake(partial(moa_unet, 1)) as unet:
        own = {p.untyped_storage()._cdata for p in unet.parameters()}
        for variant in VARIANTS:
            saved: dict[int, Tensor] = {}  # the tensors are held, so no storage is counted under another's number

            def keep(tensor: Tensor, saved: dict[int, Tensor] = saved) -> Tensor:
                saved.setdefault(tensor.untyped_storage()._cdata, tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                value = loss(unet, variant, size, 768, active)
            result[variant] = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)
            del value
    return result


def cpu_seconds(rounds: int) -> dict[str, float]:
    """Median CPU seconds of forward and backward."""
    unet, active = moa_unet(4), torch.ones(1).bool()
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds + 1):
        for variant in VARIANTS:
            start = time.process_time()
            loss(unet, variant, 32, 192, active).backward()
            seconds[variant].append(time.process_time() - start)
    return {variant: round(statistics.median(values[1:]), 4) for variant, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, 32 x 32 latents only; writes nothing")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = {
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "seconds": cpu_seconds(3 if quick else 9),
        "saved_bytes_per_sample": {f"{8 * size} px": saved_bytes(size) for size in ((32,) if quick else (32, 64))},
    }
    for variant, value in result["seconds"].items():
        print(
            f"quarter width, forward + backward, {variant:10} {value:8.3f} s  {value / result['seconds']['none']:5.2f}"
        )
    for scale, table in result["saved_bytes_per_sample"].items():
        for variant, value in table.items():
            extra = (value - table["none"]) / 2**20
            print(f"saved per sample, full width, {scale}, {variant:10} {value / 2**20:9.1f} MiB  {extra:+8.1f} MiB")
    if not quick:
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
