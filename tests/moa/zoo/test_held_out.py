"""The quality figures of an adapter's card, on a tiny model."""

from __future__ import annotations

import pytest

from moa.config import MoAConfig
from moa.zoo.held_out import measure_adapter
from tests.moa.shards import write_shards
from tests.moa.training import run
from tests.tiny_models import IMAGE_DIM


@pytest.mark.parametrize("architecture", ["moa", "single_branch"])
def test_an_adapter_that_was_trained_reacts_to_its_subject(make_config, architecture, base, tmp_path):
    moa = MoAConfig(image_dim=IMAGE_DIM, architecture=architecture)
    config = make_config(moa=moa, steps=3, learning_rate=1e-2)
    assert run(config) == 0
    held_out = write_shards(tmp_path / "held-out", split="heldout")
    places = {"moa": moa, "base": base, "image_encoder": base / "image_encoder", "shards": held_out}
    quality = measure_adapter(config.run_folder / "export", count=16, **places)
    assert quality == measure_adapter(config.run_folder / "export", count=16, **places), "not deterministic"
    assert len({quality["error_right"], quality["error_wrong"], quality["error_without"]}) == 3
    shares = {"prior_share_background", "prior_share_foreground"}
    assert shares & set(quality) == (shares if architecture == "moa" else set())
