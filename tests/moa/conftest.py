"""Fixtures of the training tests: one tiny base model, one tiny shard folder, and configurations for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from moa.config import MoAConfig
from moa.train_config import TrainConfig
from tests.moa.shards import write_shards
from tests.tiny_models import IMAGE_DIM, tiny_base


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion folder with its image encoder."""
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples in two shards. Read only."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def make_config(base: Path, shards: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Makes a short run's configuration in its own run folder; keyword arguments replace fields."""

    def make(**changes: object) -> TrainConfig:
        fields = {
            "shards": shards,
            "base": base,
            "image_encoder": base / "image_encoder",
            "out": tmp_path / "run",
            "moa": MoAConfig(image_dim=IMAGE_DIM),
            "steps": 4,
            "global_batch": 4,
            "log_every": 1,
            "checkpoint_every": 2,
        }
        return TrainConfig(**{**fields, **changes})

    return make
