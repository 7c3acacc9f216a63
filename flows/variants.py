"""How the variants of an ablation are trained, and which of them can be evaluated."""

from __future__ import annotations

from pathlib import Path

from flows.champion import starting_adapter
from flows.files import read_json
from flows.overrides import replaced
from flows.settings import LifecycleConfig, Variant
from moa.train_config import TrainConfig


def run_training(config: LifecycleConfig) -> TrainConfig:
    """The run's own training: into its folder, from where `train_from` says."""
    return config.train.model_copy(update={"out": config.run, "init": starting_adapter(config)})


def variant_training(config: LifecycleConfig, variant: Variant) -> TrainConfig:
    """A variant's training: the run's with the variant's overrides, into `runs/<name>/ablations/<variant>/`.

    An architecture of its own cannot start from the run's adapter, so it starts from a copy of the prior.
    """
    started = config.model_copy(update={"train": run_training(config)})
    changed = replaced(started, variant.overrides).train
    names_init = any(override.startswith("train.init=") for override in variant.overrides)
    init = changed.init if names_init or changed.moa == config.train.moa else None
    return changed.model_copy(update={"out": variant_folder(config, variant), "init": init})


def variant_folder(config: LifecycleConfig, variant: Variant) -> Path:
    """Where a variant is trained."""
    return config.run / "ablations" / variant.folder_name


def finished_variants(config: LifecycleConfig) -> dict[str, Path]:
    """Label -> adapter folder of each variant that there is one for: given, or trained to the end as declared now."""
    found = {}
    for variant in config.ablate.variants:
        adapter = variant.adapter or variant_folder(config, variant) / "export"
        if variant.adapter or _is_trained(variant_training(config, variant)):
            found[variant.label] = adapter
    return found


def _is_trained(training: TrainConfig) -> bool:
    """Whether the folder holds the export of exactly this training."""
    config, manifest = training.run_folder / "config.json", training.run_folder / "export" / "manifest.json"
    if not (config.is_file() and manifest.is_file()):
        return False
    return read_json(config) == training.model_dump(mode="json") and read_json(manifest)["step"] == training.steps
