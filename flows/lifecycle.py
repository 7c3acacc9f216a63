"""The whole lifecycle: `python -m flows.lifecycle --preset miniature`, or `make demo`.

1. preprocess: images -> data/<dataset>/            2. train:    shards -> runs/<name>/export/
3. publish:    adapter -> a revision on the Hub     4. evaluate: that revision -> runs/<name>/evaluation/<suite>/
5. report:     runs/<name>/report/index.html, whose path is printed at the end

A stage whose inputs have not changed is up to date and does nothing; an interrupted one goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import run
from flows.evaluate import evaluate
from flows.preprocess import preprocess
from flows.publish import publish
from flows.settings import LifecycleConfig, PresetName
from flows.stage import announced, begin
from flows.train import train
from reports.build import build_report


@task(cache_policy=NO_CACHE)
def write_report(config: LifecycleConfig) -> Path:
    """Result files -> one HTML file; returns its path."""
    with announced("report", config.run / "report" / "index.html"):
        return build_report(config.run)


@task(cache_policy=NO_CACHE)
def show_report(report: Path) -> None:
    """Where the report lies, on the run page (the UI drops file:// links)."""
    create_markdown_artifact(key="report", markdown=f"Open in a browser: `{report}`")


@flow(name="lifecycle")
def lifecycle(preset: PresetName = "miniature", overrides: list[str] | None = None, name: str | None = None) -> Path:
    """Preprocess, train, publish, evaluate, report.

    Args:
        preset: which configuration to start from.
        overrides: fields to replace, as `a.b=value`.
        name: folder of the run below runs/; empty for the preset's own. The same name goes on where it stopped.
    """
    config = begin(preset, overrides, name)
    for stage in (preprocess, train, publish, evaluate):
        stage(preset=preset, overrides=overrides, name=name)
    report = write_report(config)
    show_report(report)
    return report


if __name__ == "__main__":
    sys.exit(run(lifecycle))
