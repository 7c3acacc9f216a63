"""The report of a run, as tasks: written, and named on the run page."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.settings import LifecycleConfig
from flows.stage import announced
from reports.build import build_report


@task(cache_policy=NO_CACHE)
def write_report(config: LifecycleConfig) -> Path:
    """Result files -> one HTML file; returns its path."""
    with announced("report", config.run / "report" / "index.html"):
        return build_report(config.run)


@task(cache_policy=NO_CACHE)
def show_report(report: Path) -> None:
    """Where the report lies (the UI drops file:// links)."""
    create_markdown_artifact(key="report", markdown=f"Open in a browser: `{report}`")
