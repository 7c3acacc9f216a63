"""Fixtures of the evaluation tests: a tiny pipeline folder, a second adapter, and people from the tiny shards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moa.adapter import save_adapter
from moa.config import MoAConfig
from moa.evaluation.subjects import SuiteSubject, resolve_subjects
from moa.pipeline import MoAPipeline
from moa.unet import MoAUNet2DConditionModel
from tests.moa.evaluation.fakes import tiny_suite
from tests.tiny_models import IMAGE_DIM, tiny_unet


@pytest.fixture(scope="session")
def people(shards: Path) -> list[SuiteSubject]:
    """The two people that stand alone in the tiny shards: a man and a boy."""
    return resolve_subjects(tiny_suite(), shards=shards)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters for the tiny base with different weights, far enough from zero to show in an image."""
    folders = [tmp_path_factory.mktemp("adapter") for _ in range(2)]
    for number, folder in enumerate(folders):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            unet = MoAUNet2DConditionModel.from_unet(tiny_unet(), MoAConfig(image_dim=IMAGE_DIM))
            for _, parameter in unet.moa_parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
            save_adapter(unet, folder, {"inputs": {}, "step": number, "commit": None})
    return folders


@pytest.fixture(scope="session")
def pipeline(base: Path, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny pipeline folder with the first adapter."""
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    MoAPipeline.from_base(base, adapters[0], base / "image_encoder").save_pretrained(folder)
    return folder
