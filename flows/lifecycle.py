"""The whole lifecycle: `python -m flows.lifecycle --preset miniature`, or `make demo`.

1. preprocess: images -> data/<dataset>/            2. train:    shards -> runs/<name>/export/
3. publish:    adapter -> a revision on the Hub     4. evaluate: that revision -> runs/<name>/evaluation/<suite>/
5. gate:       that revision becomes `main`, or not: runs/<name>/gate.json
6. report:     runs/<name>/report/index.html, whose path is printed at the end
7. older runs of the schedule lose their checkpoints, where `runs_with_checkpoints` is set (flows/retention.py)

A stage whose inputs have not changed is up to date and does nothing; an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State

from flows.begin import begin, one_configuration
from flows.command import run
from flows.evaluate import evaluate
from flows.evaluated import evaluation_folder, told, unscored
from flows.gate import gate
from flows.preprocess import preprocess
from flows.presets import PresetName
from flows.publish import publish
from flows.report import show_report, write_report
from flows.retention import thin_checkpoints
from flows.stage import conclude
from flows.train import train


@flow(name="lifecycle")
def lifecycle(
    preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None
) -> Path | State[Path]:
    """Preprocess, train, publish, evaluate, promote unless it may be clearly worse than the champion, report.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own. The same name goes on where it stopped;
            {date} and {time} stand for when the run was scheduled (UTC), so each run of a schedule has its own.
    """
    config = begin("lifecycle", preset, overrides, name)
    with one_configuration(config):
        for stage in (preprocess, train, publish, evaluate, gate):
            stage(preset=preset, overrides=overrides, name=config.name)
    report = write_report(config)
    show_report(report)
    if config.runs_with_checkpoints:
        thin_checkpoints(config)
    return conclude(report, told(unscored(evaluation_folder(config))))


if __name__ == "__main__":
    sys.exit(run(lifecycle))
