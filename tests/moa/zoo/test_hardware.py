"""The recipes choose device and precision by the machine, and hold everything of a step on one device.

No machine of the tests has a GPU, so the second is shown on torch's meta device, whose tensors have no values: most
operations on tensors of two devices fail there as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from moa.zoo import attributes, base, clip, hardware, train_identity, vae
from moa.zoo.pictures import Pictures


@pytest.fixture(autouse=True)
def forget() -> Any:
    """What one test pretends is not kept for the next."""
    hardware.device.cache_clear()
    hardware.precision.cache_clear()
    yield
    hardware.device.cache_clear()
    hardware.precision.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"), ({}, "fp32")],
)
def test_bfloat16_only_where_the_processor_multiplies_in_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.precision() == expected
    with hardware.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[expected]


def test_a_gpu_goes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert hardware.device().type == "cuda" and hardware.precision() == "fp32"


@pytest.fixture
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    person = {"looks": "a tall man", "word": "man", "item_words": ""}
    meta = [
        {
            "caption": "a man on a beach",
            "subjects": [{"identity": f"m-{k % 2}", "face": {"box": [10, 12, 26, 30]}}],
            "attributes": {
                "description": "a tall man on a beach",
                "style": "photo",
                "scene": "beach",
                "scene_words": "on a beach",
                "people": [person],
            },
        }
        for k in range(4)
    ]
    crops = [rng.integers(0, 256, (1, 64, 64, 4), dtype=np.uint8) for _ in meta]
    return Pictures(rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), crops, meta)


def denoise(pictures: Pictures, folder: Path) -> None:
    tokenizer = clip.train_tokenizer(["a man on a beach"] * 3, folder)
    text_encoder = CLIPTextModel(clip.new_clip(tokenizer).config.text_config)
    latents = torch.zeros(len(pictures), 4, 16, 16)
    tokens = clip.tokenize(tokenizer, ["a man on a beach"] * len(pictures))
    data = base.Encoded(latents, latents, tokens, clip.tokenize(tokenizer, [""])[0])
    base.train_base(data, text_encoder, folder, steps=1, batch=2)


def decode(pictures: Pictures, folder: Path) -> None:
    vae.train_decoder(pictures, vae.new_vae(), folder, steps=1, batch=2)


RECIPES: dict[str, tuple[Any, Callable[[Pictures, Path], Any]]] = {
    "clip": (clip, partial(clip.train_clip, steps=1, batch=4)),
    "attributes": (attributes, partial(attributes.train_attributes, steps=1, batch=2)),
    "finder": (train_identity, partial(train_identity.train_finder, steps=1, batch=2)),
    "embedder": (train_identity, partial(train_identity.train_embedder, steps=1, batch=2)),
    "vae": (vae, partial(vae.train_vae, steps=1, batch=2)),
    "decoder": (vae, decode),
    "base": (base, denoise),
}


class Stop(Exception):
    """Raised after the step: nothing can be saved of a fake model."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_is_on_one_device(recipe, pictures, tmp_path, monkeypatch):
    def step(model: torch.nn.Module, loss: Callable[..., dict[str, Tensor]], **_: Any) -> None:
        model.to("meta")
        terms = loss(torch.Generator().manual_seed(0), 0)
        terms["loss"].backward()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert any(parameter.grad is not None for parameter in trained)
        assert {x.device.type for x in (*terms.values(), *trained)} == {"meta"}
        raise Stop

    module, run = RECIPES[recipe]
    for name in {"device", "autocast"} & set(vars(module)):
        monkeypatch.setattr(module, name, {"device": lambda: torch.device("meta"), "autocast": nullcontext}[name])

    monkeypatch.setattr(vae, "posteriors", lambda _, images: (torch.zeros(len(images), 4, 16, 16),) * 2)
    monkeypatch.setattr(module, "fit", step)
    with pytest.raises(Stop):
        run(pictures, tmp_path)
