"""How the variants of an ablation are trained, and which of them can be evaluated."""

from __future__ import annotations

from pathlib import Path

from flows.overrides import field_of, replaced
from flows.settings import LifecycleConfig, Variant
from flows.trained import Trained, run_training
from moa.train_config import TrainConfig


def variant_training(config: LifecycleConfig, variant: Variant) -> TrainConfig:
    """A variant's training: the run's with the variant's overrides, into `runs/<name>/ablations/<variant>/`.

    An architecture of its own cannot start from the run's adapter, so it starts from a copy of the prior.
    """
    started = config.model_copy(update={"train": run_training(config)})
    changed = replaced(started, variant.overrides).train
    names_init = "train.init" in map(field_of, variant.overrides)
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
        if variant.adapter or _is_trained(adapter, variant_training(config, variant)):
            found[variant.label] = adapter
    return found


def _is_trained(export: Path, training: TrainConfig) -> bool:
    """Whether the folder holds the adapter of exactly this training; the adapter itself knows."""
    trained = Trained.of(export)
    return trained is not None and not trained.differences(training)
