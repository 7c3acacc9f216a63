"""How the variants of an ablation are trained, and which of them can be evaluated."""

from __future__ import annotations

from pathlib import Path

from flows.overrides import field_of, replaced
from flows.settings import LifecycleConfig, Variant
from flows.trained import Trained, run_training
from moa.train_config import TrainConfig

INPUTS = ("shards", "base", "image_encoder")  # of a training, beside the adapter it starts from


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
    found, trained = {}, Trained.of(config.run / "export")
    for variant in config.ablate.variants:
        adapter = variant.adapter or variant_folder(config, variant) / "export"
        if variant.adapter or (trained and _is_variant(adapter, variant_training(config, variant), config, trained)):
            found[variant.label] = adapter
    return found


def _is_variant(export: Path, training: TrainConfig, config: LifecycleConfig, trained: Trained) -> bool:
    """Whether the folder holds the adapter of exactly this training, made of the files that the run's own adapter was
    made of; the adapters know. What the variant names otherwise has to be what is there now."""
    variant = Trained.of(export)
    if variant is None or variant.differences(training):
        return False
    shared = [name for name in INPUTS if getattr(training, name) == getattr(config.train, name)]
    same = all(variant.inputs[name] == trained.inputs[name] for name in shared)
    return same and ("shards" in shared or variant.has_seen(training.shards))
