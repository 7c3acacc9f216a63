"""The report of a run, as tasks: written, and linked on the run page."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.settings import REPORTS_URL, LifecycleConfig, runs_root
from flows.stage import announced
from reports.build import build_report
from reports.history import build_history


@task(cache_policy=NO_CACHE)
def write_report(config: LifecycleConfig) -> Path:
    """Result files -> one HTML file, whose path is returned, and a line in the index of runs."""
    with announced("report", config.run / "report" / "index.html"):
        report = build_report(config.run)
        build_history(config.run.parent)
        return report


@task(cache_policy=NO_CACHE)
def show_report(report: Path) -> None:
    """A link where reports are served, else the report's path: a page of the UI cannot open a file."""
    served = os.environ.get(REPORTS_URL)
    if served and report.is_relative_to(runs_root()):
        link = f"{served}/{report.relative_to(runs_root()).as_posix()}"
        create_link_artifact(key="report", link=link, link_text="Open the report", description=f"`{report}`")
    else:
        create_markdown_artifact(key="report", markdown=f"Open in a browser: `{report}`")
