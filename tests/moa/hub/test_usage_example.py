"""The example of the model card, run as a reader would: from the Hub, word for word, on a tiny real pipeline."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from moa.adapter import save_adapter
from moa.hub.download import download
from moa.hub.promote import promote
from moa.hub.publish import publish
from moa.pipeline import MoAPipeline
from tests.moa.hub.pipeline_folder import make_card
from tests.tiny_models import tiny_base, tiny_moa_unet

REPO = "lab/moa"


@pytest.mark.slow
def test_a_published_pipeline_runs_by_the_example_of_its_card(hub, tmp_path):
    base = tiny_base(tmp_path / "base")
    torch.manual_seed(0)
    unet = tiny_moa_unet(UNet2DConditionModel.from_pretrained(base, subfolder="unet"))
    save_adapter(unet, tmp_path / "adapter", {"step": 5, "inputs": {"base": "sha256:0"}})
    MoAPipeline.from_base(base, tmp_path / "adapter", base / "image_encoder").save_pretrained(tmp_path / "pipeline")
    publication = publish(
        tmp_path / "pipeline", repo_id=REPO, endpoint=hub.endpoint, token=None, branch="run-a", card=make_card()
    )
    promotion = promote(publication, tag="v1", token=None)
    folder = download(REPO, promotion.commit, hub.endpoint, tmp_path / "cache")

    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    person = Image.new("RGBA", (20, 16))
    person.paste((200, 100, 50, 255), (5, 2, 15, 14))
    person.save(tmp_path / "person.png")
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert Image.open(tmp_path / "result.png").size == (32, 32)

    StableDiffusionPipeline.from_pretrained(folder)  # with diffusers alone: the base model
