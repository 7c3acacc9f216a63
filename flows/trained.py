"""What made the adapter in `runs/<name>/export`, and whether it is what the settings of now say.

The adapter carries its own record (provenance in export/config.json): every setting that its weights depend on, the
digests of its inputs, and what its dataset was. Model cards are written from that record. A stage that would go on
under other settings is refused before it writes anything. A dataset that was made anew since (next week's photographs)
stops none of the stages after the training, as long as it is the same dataset and holds out by the same rule.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.champion import starting_adapter
from flows.errors import MissingInputError, SettingsChangedError
from flows.files import read_json
from flows.settings import LifecycleConfig
from moa.data import describe, read_manifest
from moa.train_config import TrainConfig, changed_settings, refuse_changes


@dataclass(frozen=True)
class Trained:
    """The record of an exported adapter; `inputs` are digests: shards, base, init, image_encoder; `dataset` is what
    `moa.data.describe` said, None where an earlier version trained it; `before` is what `moa.train.started_from` said
    of the adapter it started from, None without one."""

    settings: dict[str, Any]
    inputs: dict[str, str | None]
    dataset: dict[str, Any] | None
    before: dict[str, Any] | None
    step: int
    commit: str | None
    digest: str

    @classmethod
    def of(cls, export: Path) -> Trained | None:
        """The record in an adapter folder; None without a finished export, or where one of its files has gone."""
        if not all((export / name).is_file() for name in ("manifest.json", "config.json")):
            return None
        manifest, config = read_json(export / "manifest.json"), read_json(export / "config.json")
        return cls(
            settings=config["provenance"].get("training", {}),
            inputs=manifest["inputs"] | {"image_encoder": config["provenance"].get("image_encoder")},
            dataset=config["provenance"].get("dataset"),
            before=config["provenance"].get("started_from"),
            step=manifest["step"],
            commit=manifest["commit"],
            digest=manifest["digest"],
        )

    @property
    def other_datasets(self) -> list[str]:
        """Names of the datasets that it was trained on before its own: by the adapters it started from."""
        own = self.dataset["name"] if self.dataset else None
        return [name for name in (self.before or {"datasets": []})["datasets"] if name != own]

    def differences(self, training: TrainConfig) -> list[str]:
        """`setting: trained with -> now` for each setting that would make another adapter; base and encoder by their
        digests are compared by the training itself, the dataset by the methods below."""
        pairs = {
            "steps": (self.step, training.steps),
            "init": (self.inputs["init"], training.init and _digest(training.init)),
        }
        moved = [f"{name}: {json.dumps(was)} -> {json.dumps(now)}" for name, (was, now) in pairs.items() if was != now]
        return changed_settings(self.settings, training.model_dump(mode="json")) + moved

    def has_seen(self, shards: Path) -> bool:
        """Whether a shard folder holds exactly what was trained on."""
        return self.inputs["shards"] == _digest(shards)

    def other_dataset(self, shards: Path) -> str:
        """Why a shard folder is not the dataset that was trained on, made anew or as it was: then people who are held
        out now may have been trained on. Empty where it is, and where there is no folder any more."""
        if self.has_seen(shards) or _digest(shards) is None:
            return ""
        if self.dataset is None:
            return "an earlier version of this code trained the adapter and did not record which dataset that was"
        now = describe(read_manifest(shards))
        pairs = [(key, self.dataset[key], now[key]) for key in ("name", "split")]
        return ", ".join(
            f"its {key} is {json.dumps(new)} and was {json.dumps(old)}" for key, old, new in pairs if old != new
        )


def run_training(config: LifecycleConfig) -> TrainConfig:
    """The run's own training: into its folder, from where `train_from` says."""
    return config.train.model_copy(update={"out": config.run, "init": starting_adapter(config)})


def require_trained(config: LifecycleConfig) -> Trained:
    """The record of the run's adapter.

    Raises:
        MissingInputError: the run has not been trained to its end.
        SettingsChangedError: it was, but with other settings than now; lists them.
    """
    trained = Trained.of(config.run / "export")
    if trained is None:
        raise MissingInputError(
            f"{config.run / 'export'} holds no adapter: run `python -m flows.train --name {config.name}` first."
        )
    if changed := trained.differences(run_training(config)):
        lines = "\n".join(f"  train.{line}" for line in changed)
        raise SettingsChangedError(
            f"{config.run / 'export'} was trained with other settings (trained with -> now):\n{lines}\n"
            f"Run `python -m flows.train --name {config.name}` first if that is wanted, or undo the changes."
        )
    if why := trained.other_dataset(config.train.shards):
        raise SettingsChangedError(
            f"train.shards: {config.train.shards} is not the dataset that {config.run / 'export'} was trained on "
            f"({why}): name that one, or start a run of another --name."
        )
    return trained


def refuse_other_data(config: LifecycleConfig) -> None:
    """Raises SettingsChangedError when the run was trained to its end on what its dataset is no more: neither its
    training nor a variant's can go on, all other stages can. Shards that are missing are the training's to tell."""
    trained, shards = Trained.of(config.run / "export"), config.train.shards
    if trained is None or trained.has_seen(shards) or _digest(shards) is None:
        return
    stages = ", ".join(f"`python -m flows.{stage} --name {config.name}`" for stage in ("publish", "evaluate", "gate"))
    raise SettingsChangedError(
        f"{shards} was made anew since {config.run} was trained: to train on it, start a run of another "
        f"--name. With the adapter that is there, go on by {stages}."
    )


def refuse_other_training(config: LifecycleConfig) -> None:
    """Raises moa's ConfigChangedError when these settings cannot continue the training that the run's folder holds."""
    record, begun = config.run / "config.json", [*(config.run / "checkpoints").glob("step-*")]
    if record.is_file() and (begun or (config.run / "export" / "manifest.json").is_file()):
        refuse_changes(read_json(record), config.train.model_dump(mode="json"), config.run)


def _digest(folder: Path) -> str | None:
    """The digest in a folder's manifest; None where there is none any more."""
    manifest = folder / "manifest.json"
    return read_json(manifest)["digest"] if manifest.is_file() else None
