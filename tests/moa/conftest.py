"""Fixtures of the training tests: one tiny base model, one tiny shard folder, and configurations for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moa.train_config import TrainConfig
from tests.moa.shards import write_shards
from tests.moa.training import tiny_config
from tests.tiny_models import one_level_unet, tiny_base, tiny_mask2former


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion folder with its image encoder."""
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shallow_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a U-Net of one level, which compiles in half the time."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("shallow") / "base")
    one_level_unet().save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples in two shards. Read only."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def mask2former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny segmentation model to which everything is a person. Read only. Show it noise: in a plain picture its
    normalised layers see rounding alone, in which one processor finds somebody and another nobody."""
    return tiny_mask2former(tmp_path_factory.mktemp("mask2former"), certain=True)


@pytest.fixture
def make_config(base: Path, shards: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes a short run's configuration in its own run folder; keyword arguments replace fields."""

    def make(**changes: object) -> TrainConfig:
        return tiny_config(base, **{"shards": shards, "out": tmp_path / "run", **changes})

    return make
