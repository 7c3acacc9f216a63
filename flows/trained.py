"""What made the adapter in `runs/<name>/export`, and whether it is what the settings of now say.

The adapter carries its own record (provenance in export/config.json): every setting that its weights depend on, and the
digests of its inputs. Model cards are written from that record. A stage that would go on under other settings is
refused before it writes anything.
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
from moa.train_config import TrainConfig, changed_settings, refuse_changes


@dataclass(frozen=True)
class Trained:
    """The record of an exported adapter; `inputs` are digests: shards, base, init, image_encoder."""

    settings: dict[str, Any]
    inputs: dict[str, str | None]
    step: int
    commit: str | None
    digest: str

    @classmethod
    def of(cls, export: Path) -> Trained | None:
        """The record in an adapter folder; None without a finished export."""
        if not (export / "manifest.json").is_file():
            return None
        manifest, config = read_json(export / "manifest.json"), read_json(export / "config.json")
        return cls(
            settings=config["provenance"].get("training", {}),
            inputs=manifest["inputs"] | {"image_encoder": config["provenance"].get("image_encoder")},
            step=manifest["step"],
            commit=manifest["commit"],
            digest=manifest["digest"],
        )

    def differences(self, training: TrainConfig) -> list[str]:
        """`setting: trained with -> now` for each thing that would make another adapter; base and encoder by their
        digests are compared by the training itself."""
        pairs = {
            "steps": (self.step, training.steps),
            "shards": (self.inputs["shards"], _digest(training.shards)),
            "init": (self.inputs["init"], training.init and _digest(training.init)),
        }
        moved = [f"{name}: {json.dumps(was)} -> {json.dumps(now)}" for name, (was, now) in pairs.items() if was != now]
        return changed_settings(self.settings, training.model_dump(mode="json")) + moved


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
        advice = f"Run `python -m flows.train --name {config.name}` first if that is wanted, or undo the changes."
        if any(line.startswith("shards:") for line in changed):
            advice = "The dataset was made anew since: start a run of another --name, or make the dataset as it was."
        raise SettingsChangedError(
            f"{config.run / 'export'} was trained with other settings (trained with -> now):\n{lines}\n{advice}"
        )
    return trained


def refuse_other_training(config: LifecycleConfig) -> None:
    """Raises moa's ConfigChangedError when these settings cannot continue the training that the run's folder holds."""
    record, begun = config.run / "config.json", [*(config.run / "checkpoints").glob("step-*")]
    if record.is_file() and (begun or (config.run / "export" / "manifest.json").is_file()):
        refuse_changes(read_json(record), config.train.model_dump(mode="json"), config.run)


def _digest(folder: Path) -> str | None:
    """The digest in a folder's manifest; None where there is none any more."""
    manifest = folder / "manifest.json"
    return read_json(manifest)["digest"] if manifest.is_file() else None
