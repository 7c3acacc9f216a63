"""How a variant is trained, and when it counts as finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.files import write_json
from flows.overrides import resolve
from flows.settings import LifecycleConfig
from flows.trained import run_training
from flows.variants import finished_variants, variant_training
from moa.train_config import FREE_KEYS, TrainConfig
from tests.flows.exports import SHARDS, write_export, write_shards


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LifecycleConfig:
    monkeypatch.setenv("MOA_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MOA_DATA_DIR", str(tmp_path / "data"))
    write_shards(tmp_path / "data/miniature")
    variants = [
        {"label": "given", "adapter": str(tmp_path / "adapter")},
        {"label": "No router loss", "overrides": ["train.lambda_router=0"]},
        {"label": "MLP router", "overrides": ["train.moa.router=mlp", "train.steps=9"]},
    ]
    config = resolve("miniature", [f"ablate.variants={json.dumps(variants)}", "train.steps=7"], "run")
    write_export(config)
    return config


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


def exported(training: TrainConfig) -> Path:
    """What a finished training leaves."""
    export = training.run_folder / "export"
    settings = training.model_dump(mode="json", exclude=set(FREE_KEYS))
    init = training.init and json.loads((training.init / "manifest.json").read_text())["digest"]
    inputs = {"shards": SHARDS, "base": "sha256:base", "init": init}
    write_json(export / "config.json", {"provenance": {"training": settings, "image_encoder": "sha256:encoder"}})
    write_json(
        export / "manifest.json", {"step": training.steps, "inputs": inputs, "commit": None, "digest": "sha256:0"}
    )
    return export


def test_finished_is_what_was_given_and_what_was_trained_as_declared_now(config: LifecycleConfig) -> None:
    given, trained, _ = config.ablate.variants
    assert finished_variants(config) == {"given": given.adapter}
    export = exported(variant_training(config, trained))
    assert finished_variants(config) == {"given": given.adapter, "No router loss": export}
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 8})})
    assert finished_variants(longer) == {"given": given.adapter}, "declared otherwise now"
    (export / "manifest.json").unlink()
    assert finished_variants(config) == {"given": given.adapter}, "no export yet"


def test_a_variant_of_the_same_data_stays_finished_when_the_dataset_was_made_anew(
    config: LifecycleConfig, tmp_path: Path
) -> None:
    variant = config.ablate.variants[1]
    export = exported(variant_training(config, variant))
    write_shards(tmp_path / "data/miniature", "sha256:next week")
    assert "No router loss" in finished_variants(config)
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["inputs"]["shards"] = "sha256:next week"
    write_json(export / "manifest.json", manifest)
    assert "No router loss" not in finished_variants(config), "trained on other pictures than the run's adapter"


def test_a_refused_training_does_not_make_the_old_adapter_the_new_variant(config: LifecycleConfig) -> None:
    """Whatever lies beside the adapter: it counts as what it says itself."""
    given, trained, _ = config.ablate.variants
    exported(variant_training(config, trained))
    changed = trained.model_copy(update={"overrides": ("train.lambda_router=0.5",)})
    asked = config.model_copy(update={"ablate": config.ablate.model_copy(update={"variants": (given, changed)})})
    training = variant_training(asked, changed)
    write_json(training.run_folder / "config.json", training.model_dump(mode="json"))
    assert finished_variants(asked) == {"given": given.adapter}


def test_another_start_makes_another_variant(config: LifecycleConfig, tmp_path: Path) -> None:
    given, trained, _ = config.ablate.variants
    exported(variant_training(config, trained))
    write_json(tmp_path / "other/manifest.json", {"digest": "sha256:other"})
    moved = config.model_copy(update={"train": config.train.model_copy(update={"init": tmp_path / "other"})})
    assert finished_variants(moved) == {"given": given.adapter}
