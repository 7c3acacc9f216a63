"""The ablation: `python -m flows.ablate --preset ffhq_sd15`, after the run was published.

1. train:    each variant of `ablate.variants` without an adapter -> runs/<name>/ablations/<variant>/
2. evaluate: prior, MoA, champion, all variants and community bases -> runs/<name>/evaluation/<suite>/
3. report:   runs/<name>/report/index.html, now with every variant, whose path is printed at the end

    --set 'ablate.variants=[{label: MLP router, overrides: ["train.moa.router=mlp"]}]'

What is finished is up to date; an interrupted training goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from flows.begin import begin
from flows.command import run
from flows.evaluate import evaluate
from flows.evaluated import evaluation_folder, told, unscored
from flows.presets import PresetName
from flows.report import show_report, write_report
from flows.settings import LifecycleConfig
from flows.stage import conclude
from flows.train import train_adapter
from flows.trained import refuse_other_data
from flows.variants import finished_variants, variant_training


@task(cache_policy=NO_CACHE)
def show_variants(config: LifecycleConfig) -> None:
    """Which adapter each variant was evaluated with."""
    adapters = finished_variants(config)
    rows = [
        {"variant": one.label, "changes": " ".join(one.overrides) or "given", "adapter": str(adapters[one.label])}
        for one in config.ablate.variants
    ]
    create_table_artifact(table=rows, key="ablation-variants", description=f"`{config.run / 'ablations'}`")


@flow(name="ablate")
def ablate(
    preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None
) -> Path | State[Path]:
    """Trains or loads the variants of MoA, evaluates them beside it, and renders one comparison.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own. The same name goes on where it stopped.
    """
    config = begin("ablate", preset, overrides, name)
    finished = finished_variants(config)
    for variant in config.ablate.variants:
        if variant.label not in finished:
            refuse_other_data(config)
            train_adapter(config, variant_training(config, variant), stage=f"train {variant.label}")
    evaluate(preset=preset, overrides=overrides, name=config.name)
    show_variants(config)
    report = write_report(config)
    show_report(report)
    return conclude(report, told(unscored(evaluation_folder(config))))


if __name__ == "__main__":
    sys.exit(run(ablate))
