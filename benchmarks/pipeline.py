"""Whole calls of `MoAPipeline`: prompt to image, with a subject against without, the same weights, the same run.

    python benchmarks/pipeline.py [--quick]          the miniature world's models, and benchmarks/pipeline.json
    python benchmarks/pipeline.py --device cuda      Stable Diffusion 1.5's sizes in bfloat16, pipeline-cuda.json

One prompt with one subject, guidance 7.5, 25 steps of UniPC, from the prompt to decoded images; the subject's image is
encoded in the call, people are not cut out of it (`moa.preparation` is another matter). The base is diffusers' own
`StableDiffusionPipeline` on the prior's tensors. On a GPU: random weights of the real sizes, 512 px, 1 and 4 images;
"offload" is `enable_model_cpu_offload`, "peak_gib" what CUDA's allocator gave out at most.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, UniPCMultistepScheduler
from PIL import Image
from transformers import CLIPImageProcessor, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # last, so that datasets/ shadows nothing

from benchmarks._sd15 import IMAGE_DIM, TOKENS, image_encoder, sd15_text_encoder, sd15_unet, sd15_vae  # noqa: E402
from benchmarks._stopwatch import machine, medians, settle, shares, take_turns  # noqa: E402
from moa.config import MoAConfig  # noqa: E402
from moa.pipeline import MoAPipeline, Subject  # noqa: E402
from moa.unet import MoAUNet2DConditionModel  # noqa: E402

PROMPT, STEPS = "a woman on a beach", 25
ZOO = ROOT / "zoo"


def miniature() -> MoAPipeline:
    """The shipped models of the miniature world."""
    return MoAPipeline.from_base(ZOO / "base", ZOO / "moa", ZOO / "clip")


def full_size(device: torch.device) -> MoAPipeline:
    """Stable Diffusion 1.5 and CLIP ViT-L/14 with random weights, in bfloat16; the words are the miniature world's."""
    tokenizer = CLIPTokenizer.from_pretrained(ZOO / "base" / "tokenizer", model_max_length=TOKENS)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with device:
        vae, text_encoder, encoder, base = sd15_vae(), sd15_text_encoder(**ends), image_encoder(), sd15_unet()
    unet = MoAUNet2DConditionModel.from_unet(base, MoAConfig(image_dim=IMAGE_DIM))
    pipe = MoAPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=UniPCMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        subject_encoder=encoder.eval(),
        subject_processor=CLIPImageProcessor(),
        requires_safety_checker=False,
    )
    return pipe.to(torch.bfloat16)


def stock(pipe: MoAPipeline) -> StableDiffusionPipeline:
    """diffusers' pipeline on the prior's tensors."""
    shared = {name: part for name, part in pipe.components.items() if not name.startswith("subject_")}
    shared |= {"unet": pipe.unet.to_base_unet(), "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config)}
    return StableDiffusionPipeline(**shared, requires_safety_checker=False)


def calls(pipe: MoAPipeline, images: int, steps: int) -> dict[str, Callable[[], Any]]:
    """Name -> a whole call."""
    subjects = [Subject("woman", Image.radial_gradient("L").convert("RGB"), prepare=False)]
    options = {"num_inference_steps": steps, "num_images_per_prompt": images, "output_type": "np"}
    base = stock(pipe)
    for each in (base, pipe):
        each.set_progress_bar_config(disable=True)
    return {
        "base": partial(base, PROMPT, **options),
        "moa": partial(pipe, PROMPT, subjects, **options),
        "moa, every step": partial(pipe, PROMPT, subjects, expert_interval=1, **options),
    }


def measure(ways: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, Any]:
    taken = take_turns(ways, rounds, device)
    ratios = shares(taken, "base")
    return {name: {"seconds": round(value, 3), "ratio": ratios[name]} for name, value in medians(taken).items()}


def peak_gib(call: Callable[[], Any], device: torch.device) -> float:
    """The most memory that CUDA's allocator gave out in a call."""
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def on_gpu(rounds: int, steps: int, device: torch.device) -> dict[str, Any]:
    pipe, result = full_size(device), {}
    for images in (1, 4):
        ways = calls(pipe, images, steps)
        table = measure(ways, rounds, device)
        for name, call in ways.items():
            table[name]["peak_gib"] = peak_gib(call, device)
        result[f"{images} image(s), 512 px"] = table
    pipe.enable_model_cpu_offload(device=device)
    result["1 image, 512 px, offload"] = {"moa": {"peak_gib": peak_gib(calls(pipe, 1, 2)["moa"], device)}}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; writes nothing")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    given = parser.parse_args()
    settle(given.device)
    gpu, rounds, steps = given.device.type != "cpu", (1 if given.quick else 4), (2 if given.quick else STEPS)
    result: dict[str, Any] = {"machine": machine(given.device), "steps": steps}
    if gpu:
        result |= on_gpu(rounds, steps, given.device)
    else:
        result["miniature"] = measure(calls(miniature(), 1, steps), rounds, given.device)
    text = json.dumps(result, indent=1)
    print(text)
    if not given.quick:
        stem = "pipeline-cuda" if gpu else "pipeline"
        (ROOT / "benchmarks" / f"{stem}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
