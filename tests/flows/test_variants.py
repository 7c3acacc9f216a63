"""How a variant is trained, and when it counts as finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.files import write_json
from flows.overrides import resolve
from flows.settings import LifecycleConfig
from flows.variants import finished_variants, run_training, variant_training


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LifecycleConfig:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    variants = [
        {"label": "given", "adapter": str(tmp_path / "adapter")},
        {"label": "No router loss", "overrides": ["train.lambda_router=0"]},
        {"label": "MLP router", "overrides": ["train.moa.router=mlp", "train.steps=9"]},
    ]
    return resolve("miniature", [f"ablate.variants={json.dumps(variants)}", "train.steps=7"], "run")


def test_a_variant_is_the_runs_training_with_its_overrides(config: LifecycleConfig) -> None:
    own = run_training(config)
    training = variant_training(config, config.ablate.variants[1])
    assert training.out == config.run / "ablations" / "no-router-loss"
    assert training == own.model_copy(update={"out": training.out, "lambda_router": 0})
    assert training.init == config.train.init is not None


def test_another_architecture_starts_from_the_prior(config: LifecycleConfig) -> None:
    training = variant_training(config, config.ablate.variants[2])
    assert (training.init, training.moa.router, training.steps) == (None, "mlp", 9)
    named = config.ablate.variants[2].model_copy(
        update={"overrides": ("train.moa.router=mlp", "train.init=/elsewhere/mlp")}
    )
    assert variant_training(config, named).init == Path("/elsewhere/mlp")


def test_finished_is_what_was_given_and_what_was_trained_as_declared_now(config: LifecycleConfig) -> None:
    given, trained, other = config.ablate.variants
    assert finished_variants(config) == {"given": given.adapter}
    for variant in (trained, other):
        training = variant_training(config, variant)
        write_json(training.run_folder / "config.json", training.model_dump(mode="json"))
    folder = variant_training(config, trained).run_folder
    assert finished_variants(config) == {"given": given.adapter}, "no export yet"
    write_json(folder / "export" / "manifest.json", {"step": 7})
    assert finished_variants(config) == {"given": given.adapter, "No router loss": folder / "export"}
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 8})})
    assert finished_variants(longer) == {"given": given.adapter}, "declared otherwise now"
