"""Shards -> adapter: `python -m flows.train --preset miniature`.

Starts the training processes (flows/torchrun.py) and watches them. They write metrics.jsonl, checkpoints/ and
export/; run again, they resume, or find the export finished. A process that was killed is started again twice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.begin import begin
from flows.command import run
from flows.errors import ProcessFailedError, TrainingCrashedError, TrainingFailedError
from flows.hub import environment_token
from flows.launch import flow_run_cancelled, run_process
from flows.presets import PresetName
from flows.retries import RETRIES
from flows.settings import LifecycleConfig
from flows.stage import Progress, announced
from flows.torchrun import Draft, LastWords, follow, training_command
from flows.trained import refuse_other_data, run_training
from moa.train_config import TrainConfig


@task(cache_policy=NO_CACHE, **RETRIES)
def choose_training(config: LifecycleConfig) -> TrainConfig:
    """The run's training, unless its data are others by now; a promoted adapter to start from is downloaded."""
    refuse_other_data(config)
    return run_training(config)


@task(cache_policy=NO_CACHE, **RETRIES)
def train_adapter(config: LifecycleConfig, training: TrainConfig, stage: str = "train") -> Path:
    """Runs the training processes to their end; returns the path of the exported adapter's manifest."""
    manifest, log = training.run_folder / "export" / "manifest.json", training.run_folder / "train.log"
    draft, words = Draft(training), LastWords()
    try:
        with announced(stage, manifest), Progress("train", stage[:1].upper() + stage[1:]) as progress:
            run_process(
                training_command(draft.path, config.launch.processes),
                log=log,
                on_record=lambda record: follow(record, draft, training.steps, progress),
                on_line=words.hear,
                cancelled=flow_run_cancelled(),
                secrets=[environment_token()],
                time_limit=config.launch.hours and config.launch.hours * 3600,
            )
    except ProcessFailedError as error:
        failure = TrainingFailedError if words.message else TrainingCrashedError
        raise failure(f"{words or error}\n(full output: {log})") from error
    finally:
        draft.discard()
    return manifest


@task(cache_policy=NO_CACHE)
def show_metrics(run_folder: Path) -> None:
    """The last lines of metrics.jsonl as a table on the run page."""
    lines = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    tables = (("loss", "train-metrics", "Last metrics"), ("validation_loss", "train-validation", "Held-out pictures"))
    for kind, key, title in tables:
        if table := [record for record in records if kind in record][-10:]:
            create_table_artifact(table=table, key=key, description=title)


@flow(name="train")
def train(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Trains MoA on the shards of the preset's dataset and exports the adapter.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own. The same name resumes.
    """
    config = begin("train", preset, overrides, name)
    manifest = train_adapter(config, choose_training(config))
    show_metrics(config.run)
    return manifest


if __name__ == "__main__":
    sys.exit(run(train))
